"""Waits on Ray in the stages encode and evaluate have an end, or are told of."""

import json
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
import ray

from dreamer_ray.config_file import load_config
from dreamer_ray.distributed import encode
from dreamer_ray.distributed.run import measurements
from dreamer_ray.errors import RunError
from dreamer_ray.recipe import Recipe

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors use a class of this module, which they cannot import
TOY = Path(__file__).parents[2] / "configs/crafter/toy.yaml"


@ray.remote(num_cpus=0.1)
def figure(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_what_is_measured_in_time_is_there(local_ray):
    assert measurements(figure.remote(0.0), 200.0) == 0.0


def test_a_measurement_that_does_not_end_ends_the_run(local_ray):
    with pytest.raises(RunError, match=r"not there cluster.job_seconds = 1 after .* raise cluster.job_seconds; run again"):
        measurements(measured := figure.remote(1000.0), 1.0)
    with pytest.raises((ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError)):
        ray.get(measured, timeout=100.0)  # neither goes on nor is tried again


def silences(caplog) -> list[float]:
    """Seconds without a file that were told of."""
    return [record.args[0] for record in caplog.records if "no file has come" in record.getMessage()]


def test_files_that_do_not_come_are_missed_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(encode, "SILENT_SECONDS", 0.2)
    with encode.silence_told():
        while len(silences(caplog)) < 3:
            time.sleep(0.1)
    assert silences(caplog) == sorted(silences(caplog))
    said = len(silences(caplog))
    time.sleep(1.0)
    assert len(silences(caplog)) <= said + 1, "one that was on its way when all had come"


def test_files_that_come_are_not_missed(monkeypatch, caplog):
    monkeypatch.setattr(encode, "SILENT_SECONDS", 0.2)
    with encode.silence_told() as came:
        for _ in range(30):
            came()
            time.sleep(0.1)
    assert max(silences(caplog), default=0.0) < 2.5


def test_an_encoding_says_that_no_file_has_come(toy, local_ray, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(encode, "SILENT_SECONDS", 0.2)  # Ray Data takes seconds to start
    run = shutil.copytree(toy[0], tmp_path / "run")
    shutil.rmtree(run / "encode")
    assert encode.encode(load_config(Recipe, TOY, []), run)["frames"] > 0
    assert silences(caplog)


class EncoderThatHangs:
    """An encoder that hangs in the first file of all."""

    def __init__(self, run: str, *arguments: object):
        self.encoder, self.hung = encode.Encoder(run, *arguments), Path(run) / "hung"

    def __call__(self, row):

        def hang(*arguments: object) -> None:
            self.hung.touch()
            time.sleep(1000.0)

        with nullcontext() if self.hung.exists() else mock.patch.object(encode, "encode_file", hang):
            return self.encoder(row)


def test_an_encoder_that_hangs_in_a_file_starts_again(toy, local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "Encoder", EncoderThatHangs)
    run, wanted = shutil.copytree(toy[0], tmp_path / "run"), toy[0] / "encode"
    shutil.rmtree(run / "encode")
    assert encode.encode(load_config(Recipe, TOY, ["cluster.job_seconds=5"]), run)["frames"] > 0
    assert (run / "hung").exists()
    for split in ("train", "heldout"):
        found, whole = (json.loads((folder / split / "manifest.json").read_text())["files"] for folder in (run / "encode", wanted))
        assert found == whole
