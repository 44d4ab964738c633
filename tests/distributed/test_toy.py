"""The whole of Dreamer 4 on Ray, through the command line, on the toy recipe."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dreamer_ray.training.checkpoint import latest_checkpoint

STAGES = ("record", "tokenizer", "encode", "dynamics", "agent", "agent_scratch", "imagination", "evaluate", "report")


def descendants(pid: int) -> list[int]:
    """All processes that ``pid`` has begun, directly or not."""
    stats = [path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {int(before.partition(" ")[0]): int(after.split()[1]) for before, _, after in stats}
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


@pytest.mark.timeout(900)
def test_every_stage_is_done_and_shown(toy):
    folder, said = toy
    for stage in STAGES:
        assert re.search(rf"{stage}\s+done in", said), stage
        assert (folder / stage / "manifest.json").exists()
    assert re.search(r"tokenizer\s+\d+/60 steps  .* steps/s", said)
    assert "Traceback" not in said


@pytest.mark.timeout(900)
def test_it_leaves_a_report_a_summary_a_log_and_curves(toy):
    folder, _ = toy
    page = (folder / "report.html").read_text()
    assert "<video" in page
    assert "http://" not in re.sub(r"http://www\.w3\.org[^\"']*", "", page)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary
    assert "imagination" in (folder / "run.log").read_text()
    assert list((folder / "tokenizer/tensorboard").iterdir())


@pytest.mark.timeout(900)
def test_imagination_moved_the_policy_heads_and_counts_its_versions(toy):
    folder, _ = toy
    lines = [json.loads(line) for line in (folder / "imagination/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 8
    assert lines[-1]["kl"] > 0
    assert lines[-1]["lost_calls"] == 0


@pytest.mark.timeout(900)
def test_a_second_run_skips_everything(toy, dreamer_run):
    folder, _ = toy
    begun = time.monotonic()
    assert "all done" in dreamer_run(folder.parent)
    assert time.monotonic() - begun < 60


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_and_run_again_is_the_uninterrupted_run(tmp_path, toy, dreamer_run, toy_command):
    folder, _ = toy
    wanted = latest_checkpoint(folder / "tokenizer/checkpoints")
    process = subprocess.Popen(toy_command(tmp_path), stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "crafter-toy/tokenizer/checkpoints"
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    orphans = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        assert time.monotonic() < deadline, "its Ray ended with it"
        time.sleep(0.5)
    cut = latest_checkpoint(checkpoints)
    assert wanted is not None
    assert cut is not None
    assert cut.step < wanted.step
    assert "tokenizer     resume" in dreamer_run(tmp_path)
    found = latest_checkpoint(checkpoints)
    assert found is not None
    assert found.checksums["weights.safetensors"] == wanted.checksums["weights.safetensors"]
    assert found.checksums["ema.safetensors"] == wanted.checksums["ema.safetensors"]
    heads = [latest_checkpoint(f / "imagination/checkpoints") for f in (folder, tmp_path / "crafter-toy")]
    assert None not in heads
    found_heads = {checkpoint.checksums["weights.safetensors"] for checkpoint in heads if checkpoint}
    assert len(found_heads) == 1, "max_lag 0 reproduces the dreams too"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_loss_that_is_not_finite_ends_the_run_with_one_message(tmp_path, toy_command):
    arguments = ("tokenizer.fit.optimizer.learning_rate=1e30", "tokenizer.fit.optimizer.clip=1e30", "data.crafter.episodes=5")
    done = subprocess.run(toy_command(tmp_path, *arguments), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"error: tokenizer, step \d+: the loss is (nan|inf)", done.stderr)
    assert "learning_rate" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_learner_workers_go_through_every_stage(tmp_path, dreamer_run):
    said = dreamer_run(
        tmp_path, "cluster.workers=2", "cluster.threads=1", "cluster.cpus=6", "data.crafter.episodes=5", "agent.scratch=false"
    )
    for stage in ("tokenizer", "dynamics", "agent", "imagination"):
        assert re.search(rf"{stage}\s+done in", said), stage
