"""The exporter: figures become the metrics of the table, counters grow by what is new, and a scrape shows them."""

from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from dreamer_ray.training.telemetry import BY_NAME, METRICS, RUN_TAGS, Exporter, PrometheusMeter

RUN = {"run": "toy", "stage": "imagination"}


@pytest.fixture
def registry():
    return CollectorRegistry()


def exporter(registry, **tags) -> Exporter:
    return Exporter(PrometheusMeter(registry), **RUN, **tags)


def test_a_figure_with_a_row_becomes_its_gauge(registry):
    exporter(registry)(7, {"lag": 1.5})
    assert registry.get_sample_value("ray_dreamer_lag_updates", RUN) == 1.5
    assert registry.get_sample_value("ray_dreamer_step", RUN) == 7


def test_a_figure_without_a_row_is_exported_by_its_name(registry):
    exporter(registry)(1, {"entropy": 0.25})
    assert registry.get_sample_value("ray_dreamer_figure", RUN | {"figure": "entropy"}) == 0.25


def test_a_total_grows_its_counter_by_what_is_new(registry):
    export = exporter(registry)
    for total in (2.0, 2.0, 5.0):
        export(1, {"lost_calls": total})
    assert registry.get_sample_value("ray_dreamer_lost_calls_total", RUN) == 5


def test_a_total_that_began_again_adds_to_what_was_counted(registry):
    export = exporter(registry)
    for total in (4.0, 1.0):
        export(1, {"dropped_calls": total})
    assert registry.get_sample_value("ray_dreamer_dropped_calls_total", RUN) == 5


def test_frames_and_operations_of_taken_batches_are_counted(registry, tiny):
    export, clip = exporter(registry, rank="0"), tiny.clip(rows=2, frames=3)
    taken = export.counted(lambda start: [clip] * (4 - start), operations=10.0)
    assert list(taken(2)) == [clip, clip]
    assert registry.get_sample_value("ray_dreamer_frames_learned_total", RUN | {"rank": "0"}) == 12
    assert registry.get_sample_value("ray_dreamer_operations_total", RUN | {"rank": "0"}) == 120


def test_what_is_timed_counts_events_and_seconds(registry):
    export = exporter(registry)
    for _ in range(3):
        with export.timed("publishes", "publish_seconds"):
            pass
    assert registry.get_sample_value("ray_dreamer_publishes_total", RUN) == 3
    assert 0 < registry.get_sample_value("ray_dreamer_publish_seconds_total", RUN) < 1


@pytest.mark.parametrize(("name", "tags"), [("speed", {}), ("frames_dreamed", {})], ids=["unknown name", "no replica given"])
def test_what_the_table_lacks_or_nobody_tagged_is_refused(registry, name, tags):
    with pytest.raises(KeyError):
        exporter(registry).add(name, 1, **tags)


def test_names_are_unique_and_hold_their_unit():
    assert len(BY_NAME) == len(METRICS)
    shares = [metric.name for metric in METRICS if metric.text.startswith("Share")]
    assert shares
    assert [name for name in shares if not name.endswith("_ratio")] == []


def test_a_process_without_ray_serves_every_metric_over_http(registry):
    export = exporter(registry, rank="0", replica="0", figure="x", part="learner", variant="agent", task="collect_wood")
    for metric in METRICS:
        (export.add if metric.kind == "counter" else export.set)(metric.name, 3.0)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        text = urlopen(f"http://127.0.0.1:{server.server_port}/metrics").read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    served = {line.split("{")[0] for line in text.splitlines() if line.endswith(" 3.0")}
    assert served == {metric.series for metric in METRICS}
    assert all(f'{tag}="' in text for tag in RUN_TAGS)
