"""The whole of Dreamer 4 on Ray, through the command line, on the toy recipe."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dreamer_ray.envs.crafter import LADDER, TASKS
from dreamer_ray.training.checkpoint import latest_checkpoint

STAGES = ("record", "tokenizer", "encode", "dynamics", "agent", "agent_scratch", "imagination", "evaluate", "report")


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
    names = [row["name"] for row in summary["success"]]
    assert names[: len(LADDER)] == list(LADDER)
    assert sorted(names) == sorted(TASKS)
    for row in summary["success"]:
        assert list(row["variants"]) == ["random play", "cloning, no world model", "behaviour cloning", "after imagination"]
        for share in row["variants"].values():
            assert share["n"] == 8
            assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
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


def stop(process: subprocess.Popen, checkpoints: Path, number: int, descendants) -> None:
    """Sends signal ``number`` to a run as soon as the stage has its first checkpoint, and waits until all that it began has ended."""
    deadline = time.monotonic() + 600
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    orphans = descendants(process.pid)
    os.kill(process.pid, number)
    process.wait()
    while any(orphan.alive() for orphan in orphans):
        assert time.monotonic() < deadline, "its Ray ended with it"
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_stopped_and_run_again_is_the_uninterrupted_run(tmp_path, toy, dreamer_run, toy_command, descendants):
    folder, _ = toy
    for stage, number in (("tokenizer", signal.SIGKILL), ("imagination", signal.SIGINT)):
        checkpoints = tmp_path / "crafter-toy" / stage / "checkpoints"
        stop(subprocess.Popen(toy_command(tmp_path), stderr=subprocess.DEVNULL), checkpoints, number, descendants)
        wanted, cut = latest_checkpoint(folder / stage / "checkpoints"), latest_checkpoint(checkpoints)
        assert wanted is not None
        assert cut is not None
        assert cut.step < wanted.step
    assert "imagination   resume" in dreamer_run(tmp_path)
    assert "tokenizer     resume" in (tmp_path / "crafter-toy/run.log").read_text()
    for stage in ("tokenizer", "dynamics", "agent", "agent_scratch", "imagination"):
        one, other = (latest_checkpoint(run / stage / "checkpoints") for run in (folder, tmp_path / "crafter-toy"))
        assert one is not None
        assert other is not None
        assert one.checksums == other.checksums, stage


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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_is_joined(tmp_path, toy_command):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=4", "--include-dashboard=false"]
    address, folder = f"127.0.0.1:{port}", tempfile.TemporaryDirectory(prefix="ray-")  # a short path: it names sockets
    environment = os.environ | {"RAY_TMPDIR": folder.name}  # else its address stays behind as that of this machine's cluster
    head = subprocess.Popen([sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options], env=environment)
    environment["RAY_ADDRESS"] = address
    try:
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run(toy_command(tmp_path, "--only", "record"), env=environment, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            assert f"error: RAY_ADDRESS = {address}: " in done.stderr, "it is not ready yet"
            assert time.monotonic() < deadline
        assert f"joined the Ray cluster at {address}: 4 CPUs" in done.stderr
        assert (tmp_path / "crafter-toy/record/manifest.json").exists()
        assert head.poll() is None, "it is left running"
    finally:
        head.terminate()
        head.wait()
        folder.cleanup()
