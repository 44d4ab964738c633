"""What a recipe is said to need of GPUs: the paper's sizes, work that is the same on any number of them, memory that goes with them."""

from pathlib import Path

import pytest

from dreamer_ray.cli.run import overview
from dreamer_ray.config_file import load_config
from dreamer_ray.estimate import estimate
from dreamer_ray.estimate_gpus import PEAKS, SHARE_OF_PEAK, estimate_gpus
from dreamer_ray.recipe import Recipe
from dreamer_ray.run import plan, recipe_stages

CONFIGS = Path(__file__).parents[1] / "configs"
PAPER, TINY = CONFIGS / "minecraft/2b.yaml", CONFIGS / "crafter/tiny.yaml"


def needs(*overrides: str, path: Path = PAPER):
    return estimate_gpus(load_config(Recipe, path, overrides))


def test_the_papers_recipe_has_the_papers_sizes():
    found = estimate(load_config(Recipe, PAPER), 1e11)
    assert found["tokenizer"].parameters == pytest.approx(400e6, rel=0.03)
    assert found["dynamics"].parameters == pytest.approx(1.6e9, rel=0.03)


def test_a_recipe_on_cpus_asks_for_no_gpu():
    assert needs(path=TINY) == {}


def test_more_gpus_do_the_same_work_in_less_time_and_share_the_state():
    few, many = (needs("cluster.workers=64"), needs("cluster.workers=256"))
    for stage in ("tokenizer", "dynamics", "agent"):
        assert few[stage].operations == many[stage].operations
        assert few[stage].seconds == pytest.approx(4 * many[stage].seconds)
        assert few[stage].memory_mb > many[stage].memory_mb
        assert many[stage].seconds * 256 * PEAKS["bf16"] * SHARE_OF_PEAK == pytest.approx(many[stage].operations)


def test_dynamics_at_the_papers_size_cost_what_is_worked_out_by_hand():
    """6 operations a weight and token, and 4 more for the quarter of the rows that is bootstrapped in three quarters of the steps."""
    frames = 100_000 * (0.95 * (0.9 * 256 * 64 + 0.1 * 256 * 256) + 0.05 * 256 * 256)
    by_hand = (6 + 4 * 0.25 * 0.75) * 1.57e9 * 290 * frames
    assert needs()["dynamics"].operations == pytest.approx(by_hand, rel=0.01)


def test_memory_is_what_the_switches_say():
    whole, sharded = needs("cluster.tuning.sharded=false")["dynamics"], needs()["dynamics"]
    assert whole.memory_mb - sharded.memory_mb == pytest.approx(20 * 1.57e9 / 2**20 * 255 / 256, rel=0.01)
    assert needs("cluster.tuning.recompute=false")["dynamics"].memory_mb > 5 * sharded.memory_mb
    assert needs("imagination.dreams_per_call=64")["imagination"].memory_mb > needs()["imagination"].memory_mb


def test_a_dry_run_of_the_papers_recipe_says_what_it_costs(tmp_path):
    recipe = load_config(Recipe, PAPER)
    text = overview(plan(recipe_stages(recipe), recipe, tmp_path / "runs"))
    rows = {line.split()[0]: line for line in text.splitlines()[::-1]}
    assert "on GPUs" in rows["dynamics"] and "1571601632" in rows["dynamics"]
    assert f"{needs()['dynamics'].operations:.2e} FLOP" in text
    assert "GPU days" in text and "of work on this machine" not in text
