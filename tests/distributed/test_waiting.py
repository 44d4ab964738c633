"""Waits on Ray in the stages encode and evaluate have an end, or are told of."""

import json
import logging
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
import ray

from dreamer_ray.config_file import load_config
from dreamer_ray.distributed import encode, run
from dreamer_ray.errors import RunError
from dreamer_ray.recipe import Recipe

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors use a class of this module, which they cannot import
TOY = Path(__file__).parents[2] / "configs/crafter/toy.yaml"


@ray.remote(num_cpus=0.1)
def figure(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_it_is_said_now_and_then_that_measuring_takes_longer_than_playing(local_ray, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("dreamer_ray"), "propagate", True)
    monkeypatch.setattr(run, "SILENT_SECONDS", 1.0)
    caplog.set_level(logging.INFO)
    assert run.measurements(figure.remote(0.0)) == 0.0
    said = len(caplog.messages)
    assert run.measurements(figure.remote(5.5)) == 5.5
    assert len([message for message in caplog.messages[said:] if "what is measured beside the episodes" in message]) >= 5


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
    folder = shutil.copytree(toy[0], tmp_path / "run")
    shutil.rmtree(folder / "encode")
    assert encode.encode(load_config(Recipe, TOY, []), folder)["frames"] > 0
    assert silences(caplog)


class EncoderThatHangs:
    """An encoder that hangs in the first file of all, or always where that is written for it."""

    def __init__(self, folder: str, *arguments: object):
        self.encoder, self.hung = encode.Encoder(folder, *arguments), Path(folder) / "hung"

    def __call__(self, row):

        def hang(*arguments: object) -> None:
            self.hung.touch()
            time.sleep(1000.0)

        with nullcontext() if self.hung.exists() and self.hung.read_text() != "always" else mock.patch.object(encode, "encode_file", hang):
            return self.encoder(row)


@pytest.fixture
def unencoded(toy, local_ray, tmp_path, monkeypatch) -> Path:
    """A run before its encoding, whose encoders hang."""
    monkeypatch.setattr(encode, "Encoder", EncoderThatHangs)
    folder = shutil.copytree(toy[0], tmp_path / "run")
    shutil.rmtree(folder / "encode")
    return folder


HASTY = load_config(Recipe, TOY, ["cluster.job_seconds=5"])


def test_an_encoder_that_hangs_in_a_file_starts_again(unencoded, toy):
    assert encode.encode(HASTY, unencoded)["frames"] > 0
    assert (unencoded / "hung").exists()
    for split in ("train", "heldout"):
        found, wanted = (json.loads((folder / "encode" / split / "manifest.json").read_text())["files"] for folder in (unencoded, toy[0]))
        assert found == wanted


def test_a_file_in_which_encoders_hang_again_and_again_ends_the_encoding(unencoded, monkeypatch):
    monkeypatch.setattr(encode, "MOST_LOSSES", 2)
    (unencoded / "hung").write_text("always")
    with pytest.raises(RunError, match=r"a file lost its actor 2 times .*longer than cluster.job_seconds = 5 raise the key"):
        encode.encode(HASTY, unencoded)
