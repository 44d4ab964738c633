"""A made-up report with every part."""

import math

import numpy as np
import pytest

from dreamer_ray.evaluation.intervals import mean, paired_bootstrap, success_rate
from dreamer_ray.evaluation.report import ActionShares, Comparison, Dream, Quality, Report, Score, StageTime

TASKS = ["collect_wood", "place_table", "make_wood_pickaxe", "collect_stone", "make_stone_pickaxe", "collect_coal", "collect_diamond"]
ACTIONS = ["noop", "left", "right", "up", "down", "do", "sleep", "place_stone", "place_table", "place_plant", "make_wood_pickaxe"]


def frames(count: int, rng: np.random.Generator) -> np.ndarray:
    """Coloured tiles and a bright one that walks to the right."""
    tiles = rng.integers(40, 160, (1, 9, 9, 3)).repeat(count, 0)
    for t in range(count):
        tiles[t, 4, t % 9] = (250, 230, 90)
    return tiles.repeat(8, 1).repeat(8, 2).astype(np.uint8)


@pytest.fixture(scope="session")
def report() -> Report:
    rng = np.random.default_rng(0)
    originals = frames(8, rng)
    dimmed = (originals * 0.8 + rng.normal(0, 6, originals.shape)).clip(0, 255).astype(np.uint8)
    players = {"random play": 0.3, "cloned, random start": 0.65, "behaviour cloning": 0.7, "imagination": 0.78}

    def row(name: str, ease: float) -> Score:
        return Score(name, {player: success_rate(int(80 * skill * ease), 80) for player, skill in players.items()})

    def decay(scale: float) -> list[tuple[int, float]]:
        return [(step, float(scale * math.exp(-step / 150) + 0.1 + 0.03 * abs(rng.normal()))) for step in range(0, 600, 4)]

    return Report(
        title="Crafter <tiny>",
        recipe="name: tiny\ndata:\n  home: https://example.org  # <no link>\n",
        environment={"command": "dreamer-ray run configs/crafter/tiny.yaml", "machine": "2 cores, 6 GB", "torch": "2.13.0"},
        stages=[StageTime("record", 61.2, 28096, 459.1, "frames"), StageTime("tokenizer", 241.0, 3400, 14.1, "steps")],
        curves={
            "tokenizer": {"mse": decay(20.0), "perceptual": [*decay(1.0), (600, math.nan)]},
            "dynamics": {"flow": decay(2.0), "one": [(0, 1.0)]},
        },
        originals=originals,
        reconstructions=dimmed,
        dreams=[Dream(f"Window {i}.", frames(12, rng), frames(12, rng), context=4) for i in range(2)],
        quality=[
            Quality("reconstruction (dB)", 22.143, "mean frame", 15.16, "6 dB above", met=True),
            Quality("8-step error over copying", 0.97, "copy of the last frame", 1.0, "at most 0.95", met=False),
            Quality("1-step error over copying", 1.3, "copy of the last frame", math.inf),
        ],
        actions=ActionShares(
            ACTIONS, {name: rng.dirichlet(np.ones(len(ACTIONS))).tolist() for name in ("recorded", "cloned", "imagination")}
        ),
        success=[row(task, 0.6**place) for place, task in enumerate(TASKS)],
        scores=[Score("achievements", {player: mean(rng.poisson(4 * skill, 80)) for player, skill in players.items()})],
        comparisons=[
            Comparison(
                "wood an episode, imagination - cloning", paired_bootstrap(rng.poisson(2.7, 160), rng.poisson(2, 160), rng), "bootstrap"
            )
        ],
        rounds={task: [(step, success_rate(min(16, step // 2), 16)) for step in (0, 8, 40)] for task in TASKS[:2]},
        notes=["Made up for a test."],
    )
