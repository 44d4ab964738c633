"""The Grafana dashboard shows every metric and nothing else, and each of its expressions has data in a Prometheus that scrapes a Ray."""

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from dreamer_ray.training.telemetry import BY_NAME, METRICS

CLUSTER = Path(__file__).parents[2] / "cluster"
DASHBOARD = json.loads((CLUSTER / "grafana" / "dreamer_ray.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
VALUES = {"$run": "watched", "$stage": ".*", "$__rate_interval": "10s", "$__range": "1m"}
"""What Grafana would put in the place of its variables."""


def filled(expression: str, **values: str) -> str:
    for variable, value in (VALUES | values).items():
        expression = expression.replace(variable, value)
    return expression


def series(expression: str) -> set[str]:
    return set(re.findall(r"ray_dreamer_\w+", expression))


def test_every_metric_is_shown_and_nothing_else_is():
    shown = set().union(*map(series, EXPRESSIONS))
    assert shown == {metric.series for metric in METRICS}


def test_expressions_choose_the_run_and_use_known_variables_only():
    for expression in EXPRESSIONS:
        assert expression.count('run=~"$run"') == len(re.findall(r"ray_dreamer_\w+", expression))
        assert "$" not in filled(expression)


def test_counters_are_rated_or_summed_and_legends_name_labels_that_are_there():
    tags = {metric.series: {"run", "stage", *metric.tags} for metric in METRICS}
    for panel in PANELS:
        for target in panel["targets"]:
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept
            assert all(kept <= tags[name] for name in series(target["expr"]))
            for name in series(target["expr"]):
                if BY_NAME[name.removeprefix("ray_").removesuffix("_total")].kind == "counter":
                    assert re.search(rf"sum by \([^)]*\) \(((rate|max_over_time)\()?{name}", target["expr"])


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (Debian: apt-get install prometheus)")
@pytest.mark.parametrize("counter", ["restarts", "lost_calls", "dropped_calls"])
def test_what_was_counted_on_a_node_that_has_left_stays_counted(tmp_path, counter):
    (expression,) = [expression for expression in EXPRESSIONS if f"ray_dreamer_{counter}_total" in expression]
    kept = {"run": "watched", "stage": "imagination", "part": "replica"}
    labels = ",".join(f'{name}="{value}"' for name, value in kept.items())
    series = [
        {"series": f'ray_dreamer_{counter}_total{{{labels},WorkerId="{worker}"}}', "values": values}
        for worker, values in (("left", "0 1 2 2 _x20"), ("stays", "3x23"))
    ]
    by = ", ".join(f'{name}="{value}"' for name, value in kept.items() if name in re.findall(r"\w+", expression.partition(") (")[0]))
    wanted = {
        "expr": filled(expression, **{"$__range": "30m"}),
        "eval_time": "20m",
        "exp_samples": [{"labels": f"{{{by}}}", "value": 5}],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [wanted]}]}))
    done = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_places_of_their_own():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_asks_for_its_data_source_run_and_stage():
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "run", "stage"]
    assert all(target["datasource"]["uid"] == "${datasource}" for panel in PANELS for target in panel["targets"])


def ask(port: int, path: str, **query: str) -> list:
    with urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{urlencode(query, doseq=True)}", timeout=10) as answer:
        data = json.load(answer)["data"]
    return data["result"] if isinstance(data, dict) else data


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(1)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The port of a Prometheus with our configuration (but for its rhythm), which scrapes a Ray that exports every metric."""
    with tempfile.TemporaryDirectory(prefix="ray") as short, socket.socket() as free:  # the path of Ray's sockets has room for 107 bytes
        free.bind(("127.0.0.1", 0))
        port, folder = free.getsockname()[1], tmp_path_factory.mktemp("prometheus")
        free.close()
        publisher = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("metrics_publisher.py")), short], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        config = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())
        config["global"]["scrape_interval"] = "1s"
        assert publisher.stdout is not None
        config["scrape_configs"][0]["file_sd_configs"][0] = {
            "files": [publisher.stdout.readline().decode().strip()],
            "refresh_interval": "1s",
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        prometheus = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=(folder / "log").open("w"))
        try:
            yield port
        finally:
            prometheus.terminate()
            prometheus.wait(30)
            publisher.communicate(timeout=60)


needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus here (Debian: apt-get install prometheus)")


@pytest.mark.slow
@needs_prometheus
def test_every_expression_has_data_in_a_prometheus_that_scrapes_a_ray(watched):
    names = {metric.series for metric in METRICS}

    def everything_is_there() -> bool:
        try:
            return names <= set(ask(watched, "label/__name__/values"))
        except URLError:
            return False

    wait_for(everything_is_there, 90, f"all of {sorted(names)}")
    time.sleep(10)  # a window of two and more points, in which a replica was restarted
    found = {expression: ask(watched, "query", query=filled(expression)) for expression in EXPRESSIONS}
    assert [expression for expression, result in found.items() if not result] == []
    bad = [expression for expression, result in found.items() if any(sample["value"][1] in ("NaN", "+Inf") for sample in result)]
    assert bad == []


@pytest.mark.slow
@needs_prometheus
def test_a_restarted_replica_stays_one_line(watched):
    expression = next(expression for expression in EXPRESSIONS if "frames_dreamed" in expression)
    lives = "count by (replica) (count by (replica, WorkerId) (ray_dreamer_frames_dreamed_total))"

    def by_replica(query: str) -> dict[str, float]:
        return {sample["metric"]["replica"]: float(sample["value"][1]) for sample in ask(watched, "query", query=query)}

    wait_for(lambda: by_replica(lives) == {"0": 2, "1": 1}, 60, "two lives of replica 0, one of replica 1")
    time.sleep(5)
    rates = by_replica(filled(expression))
    assert rates.keys() == {"0", "1"}
    assert all(rate > 300 for rate in rates.values()), rates


@pytest.mark.slow
@needs_prometheus
@pytest.mark.parametrize("name", ["run", "stage"])
def test_the_variables_of_the_dashboard_find_their_values(watched, name):
    query = next(v for v in DASHBOARD["templating"]["list"] if v["name"] == name)["query"]["query"]
    selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
    values = ask(watched, f"label/{label}/values", **{"match[]": filled(selector)})
    assert set(values) == {"run": {"watched"}, "stage": {"imagination", "evaluate"}}[name]
