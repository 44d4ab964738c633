"""Training steps a second."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dreamer_ray.bench.made_up import latent_clip, pictures
from dreamer_ray.bench.rates import Rate, seconds_of_each
from dreamer_ray.phases.agent_finetuning import AgentFinetuning
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.phase import Phase
from dreamer_ray.phases.tokenizer_pretraining import TokenizerPretraining
from dreamer_ray.recipe import AgentSection, DynamicsSection, Recipe, TokenizerSection
from dreamer_ray.stages import finetuning_of, new_agent, new_models
from dreamer_ray.training.optimizer import OptimizerConfig, make_optimizer
from dreamer_ray.training.parallel import Tuning, tune
from dreamer_ray.types import Clip, LatentClip


def training_rates(recipe: Recipe, *, seconds: float, device: str) -> Iterator[Rate]:
    """Frames a second of one training step of each supervised phase, bootstrapped rows included, on one worker."""
    tokenizer, dynamics = new_models(recipe)
    jobs: dict[str, tuple[Phase, TokenizerSection | DynamicsSection | AgentSection, Callable[..., Clip | LatentClip]]] = {
        "tokenizer": (TokenizerPretraining(tokenizer), recipe.tokenizer, pictures),
        "dynamics": (DynamicsPretraining(dynamics, recipe.dynamics.forcing), recipe.dynamics, latent_clip),
    }
    if recipe.agent is not None:
        jobs["agent"] = (AgentFinetuning(new_agent(recipe, dynamics), finetuning_of(recipe)), recipe.agent, latent_clip)
    for name, (phase, section, made_up) in jobs.items():
        batch = made_up(recipe, section.batches.batch_size, section.batches.length).to(device)
        yield _training_rate(name, phase.to(device), batch, section.fit.optimizer, recipe.cluster.tuning, seconds)


def _training_rate(name: str, phase: Phase, batch: Clip | LatentClip, config: OptimizerConfig, tuning: Tuning, seconds: float) -> Rate:
    optimizer, generator = make_optimizer(phase, config), torch.Generator().manual_seed(0)
    phase.average = {name: p.detach() for name, p in phase.named_parameters()}

    def forward() -> Tensor:
        with tuning.autocast(batch.notes.labelled.device):
            return phase(batch, generator=generator, progress=1 - 1e-6).total

    def update() -> None:
        nn.utils.clip_grad_norm_(phase.parameters(), config.clip)
        optimizer.step()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()
        update()

    with FlopCounterMode(display=False) as operations:  # before compilation, which hides operations
        forward().backward()
    tune(phase, tuning)
    step()
    taken = seconds_of_each({"whole": step, "forward": forward, "optimizer": update}, seconds)
    whole = taken.pop("whole")
    shares = {part: each / whole for part, each in taken.items()}
    frames = len(batch.notes.labelled.flatten())
    return Rate(
        name=f"{name}, {batch.notes.labelled.shape[0]} x {batch.notes.labelled.shape[1]} frames",
        per_second=frames / whole,
        unit="frames",
        operations_per_second=operations.get_total_flops() / whole,
        shares=shares | {"backward": 1 - sum(shares.values())},
    )
