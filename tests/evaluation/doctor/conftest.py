"""A small world in which everything that the doctor asks for can be learned in minutes, and a run trained on it, without Ray.

Six cells on a ring, three of them in sight. Walking moves the view; what was out of sight comes back as it was. Stepping on gold is the
task, stepping into the pit the end. One of the four actions does nothing, and nobody was recorded taking it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from dreamer_ray.config_file import parse_config
from dreamer_ray.data.latents import commit_latents, latent_schema, write_latents
from dreamer_ray.data.rows import Episode, ShardSchema
from dreamer_ray.data.shards import commit_manifest, open_shards, write_shard
from dreamer_ray.doctor import admit
from dreamer_ray.evaluation.doctor import Extent, Patient
from dreamer_ray.recipe import Recipe
from dreamer_ray.run import StageContext, execute, plan, recipe_stages
from dreamer_ray.stages import Dreamer, acting_agent, encode_episode, feed, imagination, supervised, trained
from dreamer_ray.training.loop import Place, fit
from dreamer_ray.training.restore import restore_tokenizer
from dreamer_ray.types import Categorical

CELLS, CELL, IN_SIGHT, LENGTH = 6, 8, 3, 240
KINDS = 5
GOLD, PIT = 3, 4
LEFT, RIGHT, STAY, UNUSED = range(4)
EXTENT = Extent(pictures=128, windows=64, long_windows=12, clips=128, dreams=64, worlds=64, warm_up=8)


def _tiles() -> np.ndarray:
    """A picture of each kind of cell, full of fine detail."""
    y, x = np.indices((CELL, CELL))
    patterns = [(y + x) % 2, x % 2, y % 2, (y + x) // 2 % 2, (x // 2 + y // 2) % 2]
    colours = [(220, 60, 60), (60, 200, 80), (70, 110, 230), (250, 220, 60), (150, 150, 160)]
    tiles = [np.where(pattern[..., None] > 0, colour, np.array(colour) // 4) for pattern, colour in zip(patterns, colours, strict=True)]
    return np.stack(tiles).astype(np.uint8)


TILES = _tiles()


class Ring(gymnasium.Env):
    """The world of a seed."""

    def reset(self, *, seed=None, options=None):
        self.draw = np.random.default_rng(seed)
        self.cells = np.concatenate([self.draw.permutation([GOLD, PIT]), self.draw.integers(0, 3, CELLS - 2)])
        self.cells = self.cells[self.draw.permutation(CELLS)]
        self.place = int(self.draw.choice(np.flatnonzero(self.cells < GOLD)))
        return self.picture(), {"events": np.zeros(1, np.uint8)}

    def step(self, action):
        moved = {LEFT: -1, RIGHT: 1}.get(int(action), 0)
        self.place = (self.place + moved) % CELLS
        here = self.cells[self.place]
        return self.picture(), 0.0, bool(here == PIT), False, {"events": np.array([moved != 0 and here == GOLD], np.uint8)}

    def picture(self) -> np.ndarray:
        seen = [TILES[self.cells[(self.place + offset) % CELLS]] for offset in (-1, 0, 1)]
        return np.concatenate(seen, axis=1)


class LimitedRing(gymnasium.wrappers.TimeLimit):
    """As the recipe's worlds, it ends after so many steps."""

    def __init__(self):
        super().__init__(Ring(), LENGTH)


@dataclass(frozen=True)
class RingWorlds:
    """Where agents are played."""

    def make(self) -> gymnasium.Env:
        return LimitedRing()

    def prompt(self, counts: Sequence[int]) -> int:
        return 0


def recorded(seed: int) -> Episode:
    """A walk that mostly keeps its direction, and mostly sees the pit."""
    ring = Ring()
    frame, _ = ring.reset(seed=seed)
    frames, actions, events, ended, direction = [frame], [], [0], False, 1
    while len(frames) < LENGTH and not ended:
        if ring.draw.random() < 0.25:
            direction = -direction
        ahead = ring.cells[(ring.place + direction) % CELLS]
        if ahead == PIT and ring.draw.random() < 0.94:
            direction = -direction
        action = STAY if ring.draw.random() < 0.1 else (RIGHT if direction > 0 else LEFT)
        frame, _, ended, _, info = ring.step(action)
        frames.append(frame)
        actions.append(action)
        events.append(int(info["events"][0]))
    continues = np.ones(len(frames), np.float32)
    continues[-1] = 0.0 if ended else 1.0
    labelled = np.ones(len(frames), bool)
    labelled[-1] = False
    return Episode(
        name=f"ring-{seed:06d}",
        frames=np.stack(frames),
        actions={"move": np.array([*actions, 0], np.int64)},
        labelled=labelled,
        events=np.array(events, np.uint8)[:, None],
        continues=continues,
        info={},
    )


def transformer(width: int, **changes) -> dict:
    return {"width": width, "layers": 2, "heads": 4, "kv_heads": 4, "mlp_ratio": 2.0, "context": 1} | changes


def fitted(steps: int, rate: float, **changes) -> dict:
    return {
        "steps": steps,
        "optimizer": {"learning_rate": rate, "warmup": 20, "decay": 0.4},
        "ema": 0.98,
        "checkpoint_every": steps // 4,
    } | changes


RECIPE = {
    "name": "ring",
    "data": {"recordings": {"sources": [{"source": {"kind": "videos", "path": "none"}}], "layout": {"shape": [CELL, CELL * IN_SIGHT]}}},
    "tokenizer": {
        "model": {"patch": CELL, "latents": 3, "channels": 4, "encoder": transformer(48), "decoder": transformer(48)}
        | {"mask_max": 0.0, "mean_frame": True, "grid_start": True, "perceptual": "none"},
        "batches": {"batch_size": 64, "length": 1},
        "fit": fitted(400, 3e-3),
    },
    "dynamics": {
        "model": {
            "transformer": transformer(64, layers=4, kv_heads=2, time_every=2, context=16),
            "packing": 1,
            "registers": 1,
            "k_max": 8,
        },
        "forcing": {"bootstrap_after": 0.5, "image_fraction": 0.05},
        "batches": {"batch_size": 16, "length": 16},
        "fit": fitted(1200, 3e-3),
    },
    "agent": {
        "model": {"heads": {"hidden": 48, "layers": 1, "distance": 1, "bins": 41}},
        "finetuning": {"bootstrap_after": 0.0, "image_fraction": 0.0, "relevant_signal": "context", "dynamics_weight": 0.5},
        "batches": {"batch_size": 16, "length": 16, "relevant_fraction": 0.5},
        "fit": fitted(400, 2e-3),
        "scratch": False,
    },
    "imagination": {
        "contexts": {"batch_size": 32, "length": 8},
        "horizon": 8,
        "dreams_per_call": 32,
        "loss": {"gamma": 0.9, "value_warmup": 0.3},
        "fit": fitted(40, 1e-3, ema=0.0) | {"optimizer": {"learning_rate": 1e-3, "warmup": 2, "rates": {"value": 10.0}}},
    },
    "evaluation": {"length": LENGTH, "dream_frames": 8},
}


HURRIED = {stage: RECIPE[stage] | {"fit": fitted(4, 1e-3)} for stage in ("tokenizer", "dynamics", "agent", "imagination")}


def record(context: StageContext) -> dict:
    schema = ShardSchema(
        codec="png", frame_shape=(CELL, CELL * IN_SIGHT), action_space={"move": Categorical(size=4)}, tasks=("gold",), fps=5.0
    )
    few = context.recipe.name == "hurried"
    for split, seeds in (("train", range(6 if few else 120)), ("heldout", range(1000, 1004 if few else 1040))):
        made = write_shard(context.folder / split, "a.parquet", [recorded(seed) for seed in seeds], schema)
        commit_manifest(context.folder / split, schema, [made], made_by={}, parents={})
    return {}


def encode(context: StageContext) -> dict:
    checkpoint = trained(context.run, "tokenizer")
    tokenizer = restore_tokenizer(checkpoint)
    for split in ("train", "heldout"):
        source = open_shards(context.run / "record" / split)
        shape = latent_schema(source.schema, tokenizer.config.latents, tokenizer.config.channels)
        read = [source.read_episode(i) for i in range(len(source.episodes))]
        episodes = [replace(episode, frames=encode_episode(tokenizer, episode.frames)) for episode in read]
        made = write_latents(context.folder / split, "a.parquet", episodes, shape)
        commit_latents(context.folder / split, shape, [made], made_by={}, parents={"tokenizer": checkpoint.fingerprint})
    return {}


def train(context: StageContext) -> dict:
    recipe, run, stage = context.recipe, context.run, context.stage
    if stage == "imagination":
        phase, made_by = imagination(recipe, run)
        dreamer, config = Dreamer(recipe, run, acting_agent(run, "agent"), device="cpu"), recipe.imagination.fit

        def batches(first):
            for step in range(first, config.steps):
                dreamer.agent.load_weights(phase.published())
                yield dreamer.dream(step, step)
    else:
        job, clips = supervised(stage, recipe, run), feed(stage, recipe, run)
        phase, made_by, config = job.phase, job.made_by, job.fit

        def batches(first):
            return (clips.load(step, rank=0, world=1) for step in range(first, config.steps))

    checkpoint = fit(phase, batches, config, place=Place(context.folder / "checkpoints", lambda *_: None), made_by=made_by)
    return {"checkpoint": checkpoint.fingerprint}


EXECUTORS = {"record": record, "encode": encode} | dict.fromkeys(("tokenizer", "dynamics", "agent", "imagination"), train)


def ring_run(folder: Path, **changes) -> Path:
    recipe = parse_config(Recipe, RECIPE | changes, "ring")
    stages = [stage for stage in recipe_stages(recipe) if stage.name in EXECUTORS]
    execute(plan(stages, recipe, folder), EXECUTORS)
    return folder


def ring_patient(run: Path) -> Patient:
    patient, reached = admit(parse_config(Recipe, RECIPE, "ring"), run, stage=None, seed=0)
    assert reached == "imagination"
    return replace(patient, worlds=RingWorlds(), seed=5000)


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The folder of a healthy run; its training takes some minutes."""
    return ring_run(tmp_path_factory.mktemp("ring") / "run")


@pytest.fixture(scope="module")
def hurried(tmp_path_factory) -> Path:
    """The folder of a run that learned nothing."""
    return ring_run(tmp_path_factory.mktemp("hurried") / "run", name="hurried", **HURRIED)


@pytest.fixture
def patient(run) -> Patient:
    """Its models, which a test may damage."""
    return ring_patient(run)


@pytest.fixture(scope="session")
def extent() -> Extent:
    return EXTENT
