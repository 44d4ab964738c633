"""The recipes that are shipped, and mistakes between their sections, found before anything runs."""

from itertools import combinations
from pathlib import Path

import pytest

from dreamer_ray.config_file import load_config
from dreamer_ray.data.crafter import HELDOUT_SEEDS, episode_plan
from dreamer_ray.errors import UserError
from dreamer_ray.recipe import FIRST_DOCTOR_WORLD, FIRST_FRESH_WORLD, MOST_WORLDS, Recipe

RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*/*.yaml"))
TOY = next(path for path in RECIPES if path.stem == "toy")


@pytest.mark.parametrize("data_seed", [0, 7, 999])
@pytest.mark.parametrize("first", [FIRST_FRESH_WORLD, FIRST_DOCTOR_WORLD - MOST_WORLDS])
def test_worlds_of_rounds_reproductions_doctor_and_evaluation_are_others_and_none_is_recorded_in_the_largest_recipe(data_seed, first):
    sizes = {"data.crafter.episodes": HELDOUT_SEEDS, "data.crafter.holdout_episodes": HELDOUT_SEEDS, "data.crafter.seed": data_seed}
    sizes |= dict.fromkeys(("evaluation.worlds", "evaluation.round_worlds"), MOST_WORLDS) | {"evaluation.seed": first}
    recipe = load_config(Recipe, TOY, [f"{key}={value}" for key, value in sizes.items()])
    section, recorded = recipe.evaluation, {plan.seed for plan in episode_plan(recipe.data.crafter)}
    own = [range(seed, seed + MOST_WORLDS) for seed in (section.seed, FIRST_DOCTOR_WORLD)]
    played = [section.round_seeds(), section.reproduction_seeds(), *own]
    for seeds in played:
        assert len(seeds) == MOST_WORLDS
        assert not recorded.intersection(seeds)
    for one, other in combinations(played, 2):
        assert set(one).isdisjoint(other)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_recipes_are_valid_and_named_after_their_file(path):
    assert load_config(Recipe, path).name == f"{path.parent.name}-{path.stem}"


def test_every_value_of_the_papers_recipe_says_whether_it_is_the_papers():
    lines = next(path for path in RECIPES if path.stem == "2b").read_text().splitlines()
    marked = [line for line in lines if "# paper" in line or "# ours" in line]
    assert len(marked) > 40
    fixed = {"shape": "[384, 640]", "context": "192", "k_max": "64", "mask_max": "0.9", "sampling_steps": "4", "image_fraction": "0.3"}
    for key, value in fixed.items():
        assert any(line.strip().startswith(f"{key}: {value}") for line in marked), key


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dynamics.model.packing=3", ("packing = 3", "latents = 16")),
        ("imagination.sampling_steps=3", ("imagination.sampling_steps = 3", "power of two", "k_max = 16")),
        ("evaluation.sampling_steps=32", ("evaluation.sampling_steps = 32", "k_max = 16")),
        ("cluster.workers=3", ("tokenizer.batches.batch_size = 8", "cluster.workers = 3")),
        ("dynamics.fit.accumulate=3", ("dynamics.batches.batch_size = 16", "dynamics.fit.accumulate = 3")),
        ("imagination.fit.accumulate=5", ("imagination.contexts.batch_size = 32", "imagination.fit.accumulate = 5")),
        ("data.crafter.length=20", ("dynamics.batches", "32 frames", "data.crafter.length")),
        ("dynamics.model.transformer.heads=3", ("dynamics.model.transformer", "width = 128", "heads = 3")),
        ("imagination.contexts.length=500", ("imagination.contexts", "500 frames")),
        ("evaluation.dream_frames=500", ("evaluation.dream_frames", "515 frames")),
        ("dynamics.model.transformer.context=1", ("dynamics.model.transformer.context = 1",)),
        ("dynamics.batches.seed=-1", ("dynamics.batches.seed = -1",)),
        ("evaluation.seed=5", ("evaluation.seed = 5", "1000000")),
        ("evaluation.seed=6520001", ("evaluation.seed = 6520001", "6520000")),
        ("evaluation.round_worlds=1", ("evaluation.round_worlds = 1", "2")),
        ("cluster.evaluators=-1", ("cluster.evaluators = -1",)),
        ("dynamics.fit.optimizer.betas=[0.9, 1.5]", ("dynamics.fit.optimizer.betas",)),
        ("cluster.learners=3", ("cluster", "learners = 3", "a replica of its own", "replicas = 2")),
        ("cluster.fewest_replicas=3", ("fewest_replicas = 3", "replicas + cpu_replicas = 2")),
        ("cluster.dreaming.graph=true", ("cluster", "dreaming.graph = true", "gpus_per_replica")),
        ("cluster.cpu_replicas=2", ("cluster", "cpu_replicas = 2", "gpus_per_replica = 0", "raise replicas")),
        ("cluster.weight_transport=nccl", ("cluster", "weight_transport = nccl", "gpus_per_learner = 0", "gpus_per_replica = 0")),
        ("agent.batches.relevant_fraction=0.05", ("agent", "relevant_fraction = 0.05", "batch_size = 16", "task-relevant")),
        ("imagination.dreams_per_call=5", ("dreams_per_call = 5", "batch_size = 32")),
        ("imagination.prompts=ladder and imagination.finetune=all", ("prompts = ladder", "finetune = all", "prompts = fixed")),
        (
            "imagination.prompts=ladder and imagination.contexts.lookahead=0 and imagination.contexts.relevant_fraction=0.5",
            ("prompts = ladder", "lookahead = 0"),
        ),
        ("dynamics.forcing.teacher=ema and dynamics.fit.ema=0", ("dynamics.forcing.teacher = ema", "dynamics.fit.ema = 0")),
        ("agent.finetuning.teacher=ema and agent.fit.ema=0", ("agent.finetuning.teacher = ema", "agent.fit.ema = 0")),
        ("agent.finetuning.teacher=ema and imagination.finetune=all", ("agent.finetuning.teacher = ema", "imagination.fit.ema = 0")),
        ("dynamics.forcing.teacher=ema and cluster.tuning.sharded=true", ("dynamics.forcing.teacher = ema", "sharded = true")),
        ("tokenizer.fit.optimizer.kind=muon and cluster.tuning.sharded=true", ("tokenizer.fit.optimizer.kind = muon", "sharded = true")),
        ("imagination.fit.optimizer.kind=muon", ("imagination.fit.optimizer.kind = muon", "finetune = heads")),
        ("imagination.loss.slow_value=1.0", ("imagination.loss.slow_value",)),
    ],
)
def test_sections_that_do_not_fit_each_other_are_refused(override, words):
    with pytest.raises(UserError) as refusal:
        load_config(Recipe, TOY, override.split(" and "))
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_replicas_on_cpus_are_those_that_may_be_missing_first():
    mixed = ["cluster.gpus_per_replica=0.5", "cluster.replicas=3", "cluster.cpu_replicas=2"]
    whole = load_config(Recipe, TOY, mixed).cluster
    assert (whole.dreaming_replicas, whole.least_replicas) == (5, 5)
    assert load_config(Recipe, TOY, [*mixed, "cluster.fewest_replicas=2"]).cluster.least_replicas == 2
