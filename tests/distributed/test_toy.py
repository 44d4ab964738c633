"""The whole of Dreamer 4 on Ray, through the command line, on the toy recipe."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamer_ray.training.checkpoint import latest_checkpoint

RECIPE = Path(__file__).parents[2] / "configs/crafter/toy.yaml"
STAGES = ("record", "tokenizer", "encode", "dynamics", "agent", "agent_scratch", "imagination", "evaluate", "report")


def command(runs: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "dreamer_ray", "run", str(RECIPE), "--runs", str(runs), "cluster.dashboard=false", *arguments]


def run(runs: Path, *arguments: str) -> str:
    done = subprocess.run(command(runs, *arguments), capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[Path, str]:
    runs = tmp_path_factory.mktemp("runs")
    return runs / "crafter-toy", run(runs)


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
def test_a_second_run_skips_everything(toy):
    folder, _ = toy
    begun = time.monotonic()
    assert "all done" in run(folder.parent)
    assert time.monotonic() - begun < 60


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_and_run_again_is_the_uninterrupted_run(tmp_path, toy):
    folder, _ = toy
    wanted = latest_checkpoint(folder / "tokenizer/checkpoints")
    process = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "crafter-toy/tokenizer/checkpoints"
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(10)
    cut = latest_checkpoint(checkpoints)
    assert wanted is not None
    assert cut is not None
    assert cut.step < wanted.step
    assert "tokenizer     resume" in run(tmp_path)
    found = latest_checkpoint(checkpoints)
    assert found is not None
    assert found.checksums["weights.safetensors"] == wanted.checksums["weights.safetensors"]
    assert found.checksums["ema.safetensors"] == wanted.checksums["ema.safetensors"]
    heads = [latest_checkpoint(f / "imagination/checkpoints") for f in (folder, tmp_path / "crafter-toy")]
    assert None not in heads
    found_heads = {checkpoint.checksums["weights.safetensors"] for checkpoint in heads if checkpoint}
    assert len(found_heads) == 1, "max_lag 0 reproduces the dreams too"
