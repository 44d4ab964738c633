"""Bad input on Ray: one clear message, the right exit code, no traceback, and what was there stays."""

import json
import re
import shutil
import subprocess

import pytest

from dreamer_ray.training.checkpoint import latest_checkpoint

pytestmark = pytest.mark.timeout(900)

SECONDS_TO_REFUSE = 10
"""It takes one or two, and Ray itself would wait for ever."""


@pytest.fixture
def copy(toy, tmp_path):
    """A copy of the toy run that may be damaged."""
    folder, _ = toy
    return shutil.copytree(folder, tmp_path / folder.name)


@pytest.fixture
def refused(copy, toy_command):
    """Does stages of the damaged copy again; returns what was said, and sees to the rest."""

    def run(stage: str, *arguments: str, code: int = 2) -> str:
        command = toy_command(copy.parent, "--only", stage, "--from", stage, *arguments)
        before = {
            path: path.read_bytes()
            for path in copy.rglob("*.json")
            if path.relative_to(copy).parts[0] not in (stage, "recipe.json", "ray_train")
        }
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("error: ") == 1
        assert "error: " in done.stderr.splitlines()[-1], "nothing follows the message"
        assert {path: path.read_bytes() for path in before} == before
        return done.stderr

    return run


def edit(path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_latents_of_another_tokenizer(copy, refused):
    edit(copy / "encode/train/manifest.json", lambda manifest: manifest["parents"].update(tokenizer="0123456789abcdef"))
    said = refused("dynamics")
    assert "0123456789abcdef" in said
    assert "encode" in said


@pytest.mark.parametrize(("parent", "stage"), [("dynamics", "agent"), ("agent", "imagination"), ("tokenizer", "encode")])
def test_a_checkpoint_cut_in_half(copy, refused, parent, stage):
    checkpoint = latest_checkpoint(copy / parent / "checkpoints")
    assert checkpoint is not None
    file = checkpoint.path / "ema.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    said = refused(stage)
    assert str(file.parent) in said
    assert "SHA-256" in said


def test_a_picture_that_cannot_be_read(copy, refused):
    file = next((copy / "record/train").glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    file.write_bytes(content)
    assert re.search("shard|frame", refused("encode"))


def test_an_empty_data_set(copy, refused):
    edit(copy / "record/train/manifest.json", lambda manifest: manifest.update(files=[]))
    assert "holds no episode" in refused("tokenizer")


def test_missing_perceptual_weights(refused):
    said = refused("tokenizer", "tokenizer.model.perceptual_weights=/nowhere/lite0.pth")
    assert "/nowhere/lite0.pth" in said
    assert "tokenizer.model.perceptual" in said


def seconds_to_refuse(said: str) -> int:
    """From the start of Ray to the error, by the times of the lines."""
    begun, ended = (re.search(rf"^(\d+):(\d+):(\d+)  {words}", said, re.MULTILINE) for words in ("started a local Ray", "error: "))
    begun, ended = (sum(int(part) * unit for part, unit in zip(time.groups(), (3600, 60, 1), strict=True)) for time in (begun, ended))
    return (ended - begun) % 86400


def test_trainers_that_would_leave_their_loaders_no_cpu_are_refused_within_seconds(refused):
    said = refused("dynamics", "cluster.workers=4", "cluster.cpus=4")
    assert "stage dynamics needs 6 CPUs (cluster.workers = 4 with 1.5 each), the cluster has 4; raise cluster.cpus or lower" in said
    assert seconds_to_refuse(said) <= SECONDS_TO_REFUSE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "keys", "needs"),
    [
        ("record", ["replicas=5"], "needs 5 CPUs (cluster.replicas = 5 with 1 each)"),
        ("encode", ["replicas=4"], "needs 5 CPUs (cluster.replicas = 4 with 1 each)"),
        ("imagination", ["replicas=4"], "needs 5 CPUs (cluster.learners = 1 with 1 each and cluster.replicas = 4 with 1 each)"),
        ("evaluate", ["replicas=4"], "needs 5 CPUs (cluster.replicas = 4 with 1 each)"),
    ],
)
def test_a_stage_with_too_few_cpus_is_refused_within_seconds(refused, stage, keys, needs):
    said = refused(stage, *(f"cluster.{key}" for key in keys), "cluster.cpus=4")
    assert f"stage {stage} {needs}, the cluster has 4; raise cluster.cpus or lower" in said
    assert seconds_to_refuse(said) <= SECONDS_TO_REFUSE


def test_a_gpu_that_is_not_there(refused):
    said = refused("dynamics", "cluster.workers=2", "cluster.gpus_per_worker=100")
    assert "needs 200 GPUs (cluster.workers = 2 with 100 each), the cluster has 0; lower these keys or their gpus_per_" in said
    assert seconds_to_refuse(said) <= SECONDS_TO_REFUSE
    assert "needs 1 GPUs (cluster.replicas = 2 with 0.5 each)" in refused("encode", "cluster.gpus_per_replica=0.5")


def test_a_node_for_replicas_that_is_not_there(refused):
    said = refused("imagination", "cluster.dedicated_replicas=true")
    assert "needs 2 replicas (cluster.replicas = 2 with 1 each), the cluster has 0; start nodes with --resources" in said
    assert seconds_to_refuse(said) <= SECONDS_TO_REFUSE


@pytest.mark.parametrize("size", ["10", "99999999"])
def test_an_object_store_of_an_impossible_size(refused, size):
    assert "object_store_mb" in refused("encode", f"cluster.object_store_mb={size}")


def test_a_finished_stage_whose_last_checkpoint_is_gone(copy, refused):
    checkpoint = latest_checkpoint(copy / "dynamics/checkpoints")
    assert checkpoint is not None
    shutil.rmtree(checkpoint.path)
    said = refused("agent")
    assert checkpoint.fingerprint in said
    assert "--from dynamics" in said


def test_episodes_too_short_for_a_later_stage(refused):
    said = refused("record", "data.crafter.length=30", "dynamics.batches.long_length=31", "data.crafter.noise=[1.0]")
    assert "no clip of 16 frames holds an event" in said or "no episode has" in said


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1"])
def test_an_address_without_a_cluster(refused, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert f"RAY_ADDRESS = {address}" in refused("encode")
