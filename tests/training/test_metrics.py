"""The sinks: what is written is read again, later records of a step count, broken lines are left out."""

import json

from dreamer_ray.training.metrics import FileSink, read_curves


def test_curves_are_read_as_written(tmp_path):
    sink = FileSink(tmp_path)
    sink(10, {"loss": 1.5, "rate": 3.0})
    sink(20, {"loss": 0.5})
    assert read_curves(tmp_path) == {"loss": [(10, 1.5), (20, 0.5)], "rate": [(10, 3.0)]}
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_where_a_step_was_done_again_the_later_record_counts(tmp_path):
    sink = FileSink(tmp_path)
    for step, loss in ((10, 1.0), (20, 2.0), (30, 3.0)):
        sink(step, {"loss": loss})
    resumed = FileSink(tmp_path)
    for step, loss in ((20, 2.5), (30, 3.5), (40, 4.5)):
        resumed(step, {"loss": loss})
    assert read_curves(tmp_path) == {"loss": [(10, 1.0), (20, 2.5), (30, 3.5), (40, 4.5)]}


def test_a_line_that_a_crash_cut_is_left_out(tmp_path):
    FileSink(tmp_path)(10, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, "loss": 2.0})[:-7])
    assert read_curves(tmp_path) == {"loss": [(10, 1.0)]}


def test_records_after_a_cut_line_are_read(tmp_path):
    FileSink(tmp_path)(10, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    resumed = FileSink(tmp_path)
    resumed(20, {"loss": 2.0})
    resumed(30, {"loss": 3.0})
    assert read_curves(tmp_path) == {"loss": [(10, 1.0), (20, 2.0), (30, 3.0)]}


def test_without_a_file_there_are_no_curves(tmp_path):
    assert read_curves(tmp_path) == {}
