"""What a recipe is said to need: parameters are exact, time goes with the work, and nothing is allocated for it."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamer_ray.bench.made_up import latent_clip, pictures
from dreamer_ray.config_file import load_config
from dreamer_ray.estimate import START_SECONDS, estimate, matrix_product_speed, operations_per_frame
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.phases.agent_finetuning import AgentFinetuning
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.tokenizer_pretraining import TokenizerPretraining
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import new_agent, new_models

TINY = Path(__file__).parents[1] / "configs" / "crafter" / "tiny.yaml"
SPEED = 1e11
FORCED = ("dynamics.forcing", "agent.finetuning")


def needs(*overrides: str):
    return estimate(load_config(Recipe, TINY, overrides), SPEED)


def test_parameters_are_those_of_the_model():
    recipe = load_config(Recipe, TINY)
    tokenizer = Tokenizer(recipe.tokenizer.model, (72, 72))
    assert needs()["tokenizer"].parameters == sum(parameter.numel() for parameter in tokenizer.parameters())


@pytest.mark.parametrize("stage", ["tokenizer", "dynamics", "agent", "imagination"])
def test_time_goes_with_the_steps_and_memory_does_not(stage):
    one, two = (needs(f"{stage}.fit.steps={steps}")[stage] for steps in (100, 200))
    fast = estimate(load_config(Recipe, TINY, [f"{stage}.fit.steps=100"]), 2 * SPEED)[stage]
    assert two.seconds - START_SECONDS == pytest.approx(2 * (one.seconds - START_SECONDS))
    assert two.memory_mb == one.memory_mb
    assert fast.seconds - START_SECONDS == pytest.approx((one.seconds - START_SECONDS) / 2)


def test_memory_goes_with_processes_and_batches():
    assert needs("cluster.workers=2")["dynamics"].memory_mb > needs()["dynamics"].memory_mb
    assert needs("dynamics.batches.batch_size=64")["dynamics"].memory_mb > needs()["dynamics"].memory_mb
    assert needs("cluster.object_store_mb=1300")["record"].memory_mb == needs("cluster.object_store_mb=300")["record"].memory_mb + 1000


def test_a_large_model_is_estimated_without_memory_for_its_weights():
    large = needs("dynamics.model.transformer.width=8192", "dynamics.model.transformer.layers=48")["dynamics"]
    assert large.parameters > 10**10
    assert large.memory_mb > 200_000


def test_the_comparison_from_random_weights_counts_when_it_is_asked_for():
    assert needs()["agent_scratch"] == needs()["agent"]
    assert "agent_scratch" not in needs("agent.scratch=false")


def test_this_machine_multiplies():
    assert matrix_product_speed(width=64, seconds=0.01) > 1e6


@pytest.mark.parametrize("recipe", ["toy", "tiny", "small"])
def test_operations_of_a_frame_are_about_those_that_are_counted_as_it_is_trained_on(recipe):
    overrides = ["tokenizer.model.perceptual=none", *(f"{stage}.bootstrap_after=0.0" for stage in FORCED)]
    values = load_config(Recipe, TINY.with_name(f"{recipe}.yaml"), overrides)
    tokenizer, dynamics = new_models(values)
    jobs = {
        "tokenizer": (TokenizerPretraining(tokenizer), pictures, values.tokenizer),
        "dynamics": (DynamicsPretraining(dynamics, values.dynamics.forcing), latent_clip, values.dynamics),
        "agent": (AgentFinetuning(new_agent(values, dynamics), values.agent.finetuning), latent_clip, values.agent),
    }
    estimated = operations_per_frame(values)
    for stage, (phase, made_up, section) in jobs.items():
        batch = made_up(values, 4, section.batches.length)
        with FlopCounterMode(display=False) as counted:
            phase(batch, generator=torch.Generator().manual_seed(0), progress=1.0).total.backward()
        assert estimated[stage] * 4 * section.batches.length == pytest.approx(counted.get_total_flops(), rel=0.15), stage
