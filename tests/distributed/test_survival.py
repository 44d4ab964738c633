"""Runs that lose processes end as undisturbed ones: bitwise the same checkpoints (nothing lost, nothing done twice), and none stays on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dreamer_ray.training.checkpoint import Checkpoint, latest_checkpoint

LIMIT = 400.0
LONGER = ("imagination.fit.steps=40", "imagination.fit.checkpoint_every=5")


def disturbed(begin_stage, *arguments: str) -> tuple[Checkpoint, dict]:
    """The stage imagination, which loses its learner, a replica, the store and the board one after the other."""
    stage = begin_stage("imagination", *LONGER, *arguments)
    for step, victim in ((5, "Learner"), (15, "WorldModelReplica.dream"), (25, "WeightStore"), (30, "Board")):
        stage.reach(step)
        stage.kill(victim)
    return stage.result()


@pytest.mark.timeout(600)
def test_imagination_loses_its_learner_a_replica_the_store_and_the_board(begin_stage):
    wanted, _ = begin_stage("imagination", *LONGER).result()
    found, figures = disturbed(begin_stage)
    assert found.checksums == wanted.checksums
    assert figures["learner_restarts"] == 1
    assert figures["lost_calls"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_imagination_goes_on_when_a_replica_hangs_in_the_midst_of_a_dream(begin_stage):
    wanted, _ = begin_stage("imagination", *LONGER).result()
    disturbed = begin_stage("imagination", *LONGER, "cluster.call_seconds=20")
    disturbed.reach(5)
    found: list[Any] = []
    disturbed.wait(lambda: found or found.extend(each for each in disturbed.look() if each.called("WorldModelReplica.dream")))
    os.kill(found[0].pid, signal.SIGSTOP)
    checkpoint, figures = disturbed.result()
    assert "a replica is lost (no answer within cluster.call_seconds = 20)" in disturbed.said.read_text()
    assert checkpoint.checksums == wanted.checksums
    assert figures["learner_restarts"] == 0
    assert figures["lost_calls"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_imagination_over_links_ends_as_over_the_object_store_whatever_it_loses(begin_stage):
    wanted, _ = begin_stage("imagination", *LONGER).result()
    undisturbed, figures = begin_stage("imagination", *LONGER, "cluster.weight_transport=gloo").result()
    assert undisturbed.checksums == wanted.checksums
    assert (figures["learner_restarts"], figures["lost_calls"]) == (0, 0)
    found, figures = disturbed(begin_stage, "cluster.weight_transport=gloo")
    assert found.checksums == wanted.checksums
    assert figures["learner_restarts"] == 1
    assert figures["lost_calls"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_imagination_of_all_weights_ends_as_undisturbed_whatever_it_loses(begin_stage):
    wanted, _ = begin_stage("imagination", *LONGER, "imagination.finetune=all").result()
    found, figures = disturbed(begin_stage, "imagination.finetune=all")
    assert found.checksums == wanted.checksums
    assert figures["learner_restarts"] == 1
    assert "dynamics" in found.made_by


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "arguments", [(), ("cluster.weight_transport=gloo",), ("imagination.finetune=all", "cluster.tuning.sharded=true")], ids=" ".join
)
def test_imagination_loses_one_of_two_learners_and_the_store(begin_stage, arguments):
    """The store three times: a learner whose replicas find it empty must not wait for the other, which may wait for it."""
    two = (*LONGER, "cluster.learners=2", "cluster.cpus=6", *arguments)
    wanted, _ = begin_stage("imagination", *two).result()
    disturbed = begin_stage("imagination", *two)
    for step, victim in ((5, "Learner"), (15, "WeightStore"), (20, "WeightStore"), (25, "WeightStore")):
        disturbed.reach(step)
        disturbed.kill(victim)
    found, figures = disturbed.result()
    assert found.checksums == wanted.checksums
    assert figures["learner_restarts"] == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_loses_a_loader_a_worker_and_its_trainer(begin_stage, toy):
    disturbed = begin_stage("dynamics", "dynamics.fit.checkpoint_every=5")
    disturbed.kill("MapBatches(read)")
    for step, victim in ((10, "RayTrainWorker"), (15, "TrainController")):
        disturbed.reach(step)
        disturbed.kill(victim)
    found, _ = disturbed.result()
    wanted = latest_checkpoint(toy[0] / "dynamics" / "checkpoints")
    assert wanted is not None
    assert found.checksums == wanted.checksums
    steps = [json.loads(line)["step"] for line in (disturbed.folder / "dynamics" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 24


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("stage", "worker"), [("record", "Recorder.write"), ("encode", "MapWorker(Map(Encoder))")])
def test_a_file_whose_worker_is_lost_is_made_once(begin_stage, toy, stage, worker):
    """All files are those of the undisturbed run by their checksums, so no episode is missing, doubled or cut."""
    disturbed = begin_stage(stage)
    disturbed.wait(lambda: any((disturbed.folder / stage).glob("*/*.parquet")))
    disturbed.kill(worker)
    disturbed.end()
    for split in ("train", "heldout"):
        found, wanted = (json.loads((run / stage / split / "manifest.json").read_text())["files"] for run in (disturbed.folder, toy[0]))
        assert found == wanted
        assert {path.name for path in (disturbed.folder / stage / split).glob("*.parquet")} == {file["name"] for file in wanted}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_loses_the_head_ends_with_one_error_and_goes_on_with_another(begin_stage):
    wanted, _ = begin_stage("imagination", *LONGER).result()
    disturbed = begin_stage("imagination", *LONGER, RAY_gcs_rpc_server_reconnect_timeout_s="30")
    disturbed.reach(10)
    disturbed.kill("gcs_server")
    disturbed.process.wait(timeout=60)
    said = disturbed.end(code=1)
    assert said.count("error: ") == 1
    assert re.search(r"the head of the Ray cluster at 127\.0\.0\.1:\d+ is lost: no answer for 24 s", said)
    assert "Traceback" not in said
    assert 10 <= disturbed.newest() < 40
    disturbed.start()
    found, _ = disturbed.result()
    assert "imagination   resume (was cut off)" in disturbed.said.read_text()
    assert found.checksums == wanted.checksums


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pool_loses_a_node_with_what_lay_there_and_gets_another():
    script = Path(__file__).with_name("node_loss.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=2 * LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seen"] == list(range(3 * 16))
    assert found["replicas"]["without the node"] == 1.0
    assert found["replicas"]["with another"] == 4.0
    assert found["lost"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_cluster_grows_with_the_pool_while_it_trains_and_gives_back_what_it_does_not_need(begin_stage, toy, toy_command, tmp_path):
    settings = ("imagination.contexts.batch_size=8", "imagination.dreams_per_call=2", "imagination.fit.steps=150")
    wanted, _ = begin_stage("imagination", *settings).result()
    folder = shutil.copytree(toy[0], tmp_path / "scaled" / toy[0].name) / "imagination"
    shutil.rmtree(folder)
    pool = ("cluster.replicas=3", "cluster.fewest_replicas=1", "cluster.dedicated_replicas=true", "cluster.wait_seconds=120")
    line = toy_command(tmp_path / "scaled", "--only", "imagination", *settings, *pool)
    script = [sys.executable, str(Path(__file__).with_name("autoscaling.py")), str(folder / "metrics.jsonl")]
    with subprocess.Popen([*script, *line[line.index("run") :]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said, errors = process.communicate(timeout=2 * LIMIT)
        finally:
            process.terminate()  # where it has not ended, it ends its cluster now
    assert process.returncode == 0, errors
    nodes = json.loads(said.splitlines()[-1])
    assert (nodes[0], max(nodes), nodes[-1]) == (0, 3, 1)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.checksums == wanted.checksums
