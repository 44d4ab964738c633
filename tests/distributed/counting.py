"""Training that counts, by the real way of a supervised phase (Ray Train, Ray Data, ``fit``, checkpoints), in a process of its own.

    python counting.py RUN path=value ...        on a local Ray, from where RUN is
    python counting.py RUN --hang path=value ... the same, and one step hangs when it is done first
    python counting.py RUN --elastic             on nodes that come and go

RUN/steps.jsonl then has a line for every step and worker that did it.

The frames of the data show consecutive integers. The phase keeps, in its checkpoints, how often each was shown, and refuses one that is out
of turn: so what the last checkpoint says holds across workers, restarts and resume.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ray
import torch
import torch.distributed as dist
from ray.cluster_utils import Cluster
from torch import nn

from dreamer_ray.config_file import load_config
from dreamer_ray.data.batches import BatchPlan
from dreamer_ray.data.rows import Episode, ShardSchema
from dreamer_ray.data.shards import commit_manifest, open_shards, write_shard
from dreamer_ray.distributed import batches
from dreamer_ray.distributed import train as module
from dreamer_ray.distributed.cluster import cluster
from dreamer_ray.envs.crafter import ACTION_SPACE, LADDER, TASKS
from dreamer_ray.phases.phase import Phase
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import Supervised

RECIPE = Path(__file__).parents[2] / "configs/crafter/toy.yaml"
LENGTHS, BATCH = (13, 7, 25, 15), 6
HANGING_STEP = 12
SCHEMA = ShardSchema(codec="png", frame_shape=(4, 6), action_space=ACTION_SPACE, tasks=TASKS, fps=20.0)
SETTINGS = (
    f"tokenizer.batches={{batch_size: {BATCH}, length: 1}}",
    "tokenizer.fit={steps: 100, optimizer: {learning_rate: 0.001}, ema: 0, checkpoint_every: 5, log_every: 1}",
    *("dynamics.batches.batch_size=12", "dynamics.batches.long_batch_size=6", "agent.batches.batch_size=12"),  # three workers share all
    "cluster.dashboard=false",
)


def write_numbers(folder: Path) -> None:
    """Episodes whose frames show 0, 1, 2 and so on, two in a file."""
    files, first = [], 0
    for part in range(0, len(LENGTHS), 2):
        episodes = []
        for length in LENGTHS[part : part + 2]:
            frames = np.repeat(np.arange(first, first + length, dtype=np.uint8), 4 * 6 * 3).reshape(length, 4, 6, 3)
            actions = {name: np.zeros(length, np.int64) for name in ACTION_SPACE}
            nothing = np.zeros((length, len(TASKS)), np.uint8)
            episodes.append(
                Episode(f"e-{first}", frames, actions, np.arange(length) < length - 1, nothing, np.ones(length, np.float32), {})
            )
            first += length
        files.append(write_shard(folder, f"part-{part}.parquet", episodes, SCHEMA))
    commit_manifest(folder, SCHEMA, files, made_by={}, parents={})


class Counting(Phase):
    """Counts what it is shown; ``order`` says what is to come, ``hang`` which step hangs where there is no such file yet."""

    def __init__(self, order: torch.Tensor, log: Path, hang: tuple[int, Path] | None):
        super().__init__({"nothing": 1.0}, normalized=())
        self.log, self.still, self.hang = log, nn.Parameter(torch.zeros(1)), hang
        self.register_buffer("order", order)
        self.register_buffer("shown", torch.zeros(sum(LENGTHS), dtype=torch.long))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def forward(self, batch, *, generator, progress):
        parts = [batch.frames[:, 0, 0, 0, 0].long()]
        if dist.is_initialized():
            parts = [None] * dist.get_world_size()
            dist.all_gather_object(parts, batch.frames[:, 0, 0, 0, 0].long())
        numbers, first = torch.cat(parts), int(self.position)
        assert numbers.tolist() == self.order[first : first + BATCH].tolist(), (first, numbers, self.order)
        if self.hang is not None and first // BATCH == self.hang[0] and not self.hang[1].exists():
            self.hang[1].touch()
            threading.Event().wait()
        self.shown += torch.bincount(numbers, minlength=len(self.shown))
        self.position += len(numbers)
        with self.log.open("a") as file:
            line = {"step": first // BATCH, "world": len(parts), "node": ray.get_runtime_context().get_node_id(), "pid": os.getpid()}
            file.write(json.dumps(line) + "\n")
        time.sleep(0.2)
        return self.weigh({"nothing": self.still.sum() * 0})


def order_of(recipe: Recipe, run: Path) -> torch.Tensor:
    """The numbers in the order of the plan."""
    source, steps = open_shards(run / "record" / "train"), recipe.tokenizer.fit.steps
    plan, firsts = BatchPlan(source, recipe.tokenizer.batches, steps=steps, tasks=LADDER), np.cumsum([0, *LENGTHS])
    return torch.tensor([int(firsts[ref.episode]) + ref.start for step in range(steps) for ref in plan.refs(step)])


def train(run: Path, *settings: str, hang: bool) -> None:
    """The stage ``tokenizer`` of the run, with the counting phase in the place of its own."""
    recipe = load_config(Recipe, RECIPE, [*SETTINGS, *settings])
    if not (run / "record").exists():
        write_numbers(run / "record" / "train")
    order = order_of(recipe, run)

    def counting(config):
        batches.WINDOW_BYTES = 10 * 1024  # some steps, so that loaders are at work all the time
        phase = Counting(order, run / "steps.jsonl", (HANGING_STEP, run / "hung") if hang else None)
        module.supervised = lambda *_: Supervised(phase, {}, recipe.tokenizer.fit)
        module._worker(config)  # in the worker's process, where it is its own

    module._worker = counting
    module.train("tokenizer", recipe, run, Progress("tokenizer", recipe.tokenizer.fit.steps, "steps"))


def steps(run: Path) -> list[dict]:
    log = run / "steps.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] if log.exists() else []


def elastic(run: Path) -> None:
    """Training on nodes that come and go: begins with one worker, goes on with two on another node, and with one without that node."""
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    nodes.add_node(num_cpus=1, **small)
    settings = ["cluster.workers=2", "cluster.fewest_workers=1", "tokenizer.fit.steps=200"]
    line = [sys.executable, __file__, str(run), "--watchful", *settings]
    training = subprocess.Popen(line, env=os.environ | {"RAY_ADDRESS": nodes.address})

    def wait(happened: Callable[[], bool]) -> None:
        while not happened():
            assert training.poll() is None, "the training had ended before all was done to it"
            time.sleep(0.2)

    try:
        wait(lambda: len(steps(run)) > 10)
        second = nodes.add_node(num_cpus=1, **small)
        wait(lambda: any(step["node"] == second.node_id for step in steps(run)))
        time.sleep(4)
        nodes.remove_node(second, allow_graceful=False)
        assert training.wait() == 0
    finally:
        training.kill()
        nodes.shutdown()


def main() -> None:
    folder, *settings = sys.argv[1:]
    run = Path(folder)
    if settings == ["--elastic"]:
        elastic(run)
        return
    if "--watchful" in settings:
        settings.remove("--watchful")
        module.SECONDS_BETWEEN_RESIZES = 5.0
    if hang := "--hang" in settings:
        settings.remove("--hang")
    with cluster(load_config(Recipe, RECIPE, [*SETTINGS, *settings]), ["tokenizer"]):
        train(run, *settings, hang=hang)


if __name__ == "__main__":
    main()
