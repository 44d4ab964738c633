"""Each clip once: training on consecutive integers, through whatever is lost; see ``counting.py``."""

import json
import re
import signal
import sys
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from dreamer_ray.training.checkpoint import latest_checkpoint

SCRIPT = Path(__file__).with_name("counting.py")
BATCH, FRAMES = 6, 60
LIMIT = 360.0


class Training:
    """A counting run in a folder."""

    def __init__(self, folder: Path, begin):
        self.folder, self.begin = folder, begin

    def start(self, *settings: str):
        return self.begin([sys.executable, str(SCRIPT), str(self.folder), *settings], limit=LIMIT)

    def steps(self) -> list[dict]:
        """What the workers wrote of every step that they did, also of those that were done again."""
        log = self.folder / "steps.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] if log.exists() else []

    def reach(self, running, step: int) -> None:
        """Waits until a worker has done this step or a later one."""
        running.wait(lambda: any(line["step"] >= step for line in self.steps()))

    def sizes(self) -> list[int]:
        """How many workers there were, group after group."""
        return [world for world, _ in groupby(line["world"] for line in self.steps())]

    def assert_each_clip_once(self, steps: int, every: int = 5) -> None:
        """By what the last checkpoint has counted; and of the steps of a lost group at most ``every`` were done again."""
        checkpoint = latest_checkpoint(self.folder / "tokenizer" / "checkpoints")
        assert checkpoint is not None
        counted = checkpoint.read("weights")
        assert checkpoint.step == steps
        assert counted["position"].item() == steps * BATCH
        assert counted["shown"].tolist() == [steps * BATCH // FRAMES] * FRAMES
        numbers = [line["step"] for line in self.steps()]
        assert set(numbers) == set(range(steps))
        assert all(after >= before - every for before, after in pairwise(numbers))


@pytest.fixture
def training(begin, tmp_path) -> Training:
    return Training(tmp_path / "run", begin)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_lost_loaders_cost_no_clip(training):
    running = training.start("cluster.workers=2")
    for step in (10, 30, 50, 70):
        training.reach(running, step)
        running.kill("MapBatches(read)")
    running.end()
    training.assert_each_clip_once(steps=100)
    assert training.sizes() == [2], "no group was lost"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_lost_worker_costs_no_clip_and_at_most_the_steps_since_the_last_checkpoint(training):
    running = training.start("cluster.workers=2")
    for step in (23, 61):
        training.reach(running, step)
        running.kill("RayTrainWorker")
    said = running.end()
    assert len(re.findall(r"tokenizer: worker \d is lost \(.*\); its group is started again", said)) == 2
    training.assert_each_clip_once(steps=100)
    assert training.sizes() == [2]
    done = [line["step"] for line in training.steps()]
    assert sum(after < before for before, after in pairwise(done)) == 2, "two groups were lost"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_step_that_hangs_is_ended_and_costs_no_clip(training):
    said = training.start("--hang", "cluster.job_seconds=60", "tokenizer.fit.steps=30").end()
    training.assert_each_clip_once(steps=30)
    assert "tokenizer: worker 0 has done no step for cluster.job_seconds = 60, is taken for hung and ended" in said
    assert said.count("; its group is started again") == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_trainer_that_is_lost_before_the_first_checkpoint_is_replaced(training):
    running = training.start("tokenizer.fit.steps=60", "tokenizer.fit.checkpoint_every=30")
    training.reach(running, 0)
    running.kill("TrainController")
    said = running.end()
    training.assert_each_clip_once(steps=60, every=30)
    assert re.search(r"tokenizer: trainer 0 is lost \(.*\); started again from step 0", said)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_with_another_number_of_workers(training):
    for workers, step in ((1, 20), (2, 40), (3, 70)):
        running = training.start(f"cluster.workers={workers}", "cluster.cpus=6")
        training.reach(running, step)
        running.look()
        running.process.send_signal(signal.SIGKILL)
        running.end(code=-signal.SIGKILL)
    training.start("cluster.workers=2").end()
    training.assert_each_clip_once(steps=100)
    assert training.sizes() == [1, 2, 3, 2]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_workers_come_and_go_with_the_nodes(training):
    """One worker, then two on a node that joins, then one where that node is lost."""
    training.start("--elastic").end()
    training.assert_each_clip_once(steps=200)
    assert training.sizes() == [1, 2, 1]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_elastic_workers_leave_their_loaders_room(training):
    """Ray Train takes all CPUs that there are for workers."""
    training.start("cluster.workers=2", "cluster.fewest_workers=1", "cluster.cpus=2", "tokenizer.fit.steps=30").end()
    training.assert_each_clip_once(steps=30)
    assert training.sizes() == [2]
