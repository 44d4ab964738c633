"""What a recipe needs before it is run: sizes, parameters, and rough memory and time on this machine, stage by stage.

Time is operations over the speed of a matrix product measured here: 2 per parameter and token forward, 6 with the backward pass.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.benchmark import Timer

from dreamer_ray.data.batches import BatchConfig
from dreamer_ray.domain import domain_of
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.nn.transformer import TransformerConfig
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.recipe import ImaginationSection, Recipe
from dreamer_ray.stages import agent_of, new_agent, new_models

SHARE_OF_PEAK = 0.35
"""Share of the speed of a big matrix product that the small networks of the shipped recipes reach on two cores."""
START_SECONDS = 15.0
"""From the beginning of a stage to its first step: processes start and import."""
FRAMES_RECORDED_PER_SECOND = 300.0
"""Of the scripted player and the world, by one actor on one core."""
FRAMES_PLAYED_PER_SECOND = 500.0
"""Of the world alone."""
PROCESS_MB = 450.0
"""Memory of an actor that has imported PyTorch and holds a small model."""
RAY_MB = 1500.0
"""Memory of Ray's own processes, its dashboard and the driver."""
FEED_MB = 2300.0
"""Memory of the actors with which Ray Train and Ray Data manage a phase, and of the processes that load its batches."""
NUMBERS_KEPT_PER_WIDTH = 30
"""Activations kept for the backward pass, per token, layer and unit of width."""


@dataclass(frozen=True)
class Need:
    """What one stage takes."""

    size: str
    parameters: int
    """Trained ones."""
    memory_mb: float
    """Of all processes of the stage together with Ray and its object store."""
    seconds: float
    """On this machine; 0 where it goes with the amount of recordings, which nobody knows before they are read."""


@dataclass(frozen=True)
class Sizes:
    """The models of a recipe without memory for their weights, and how fast this machine is."""

    tokenizer: Tokenizer
    dynamics: Dynamics
    agent: Agent | None
    """Around the dynamics."""
    operations_per_second: float

    @property
    def acting(self) -> nn.Module:
        """The agent, or the dynamics alone."""
        return self.agent or self.dynamics


def estimate(recipe: Recipe, operations_per_second: float | None = None) -> dict[str, Need]:
    """Needs by stage name; the speed of this machine is measured where it is not given."""
    sizes = sizes_of(recipe, operations_per_second or matrix_product_speed())
    needs = _data_needs(recipe, sizes) | _training_needs(recipe, sizes) | _acting_needs(recipe, sizes)
    return {stage: replace(need, seconds=need.seconds + START_SECONDS) if need.seconds else need for stage, need in needs.items()}


def matrix_product_speed(
    width: int = 1024, seconds: float = 0.2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> float:
    """Floating point operations a second of products of square matrices, on the threads that PyTorch uses here."""
    matrix = torch.rand(width, width, device=device, dtype=dtype)
    return 2 * width**3 / seconds_of(lambda: torch.mm(matrix, matrix), seconds)


def seconds_of(job: Callable[[], object], seconds: float = 0.2) -> float:
    """Median seconds of one ``job``, repeated for about so many ``seconds``; waits for a GPU to finish."""
    timer = Timer("job()", globals={"job": job}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median


def sizes_of(recipe: Recipe, speed: float = 0.0) -> Sizes:
    """The models of ``recipe`` on a machine that makes so many operations a second in big matrix products."""
    with torch.device("meta"):
        tokenizer, dynamics = new_models(recipe)
        agent = new_agent(recipe, dynamics) if recipe.agent else None
    return Sizes(tokenizer, dynamics, agent, speed * SHARE_OF_PEAK)


def _data_needs(recipe: Recipe, sizes: Sizes) -> dict[str, Need]:
    config, actors, tokenizer = recipe.data.crafter, recipe.cluster.replicas, sizes.tokenizer
    encoding = 2 * parameters_of(tokenizer.encoder) * tokenizer.layout.total
    latents = f"{tokenizer.config.latents} x {tokenizer.config.channels} numbers a frame"
    if config is None:
        recorded = Need("as many frames as the sources have", 0, _memory_mb(recipe, actors), 0.0)
        return {"record": recorded, "encode": replace(recorded, size=f"{latents}, {encoding / 1e9:,.1f} GFLOP each")}
    frames = (config.episodes + config.holdout_episodes) * config.length
    return {
        "record": Need(
            f"{config.episodes} + {config.holdout_episodes} episodes, up to {frames:,} frames",
            0,
            _memory_mb(recipe, actors),
            frames / FRAMES_RECORDED_PER_SECOND / actors,
        ),
        "encode": Need(latents, 0, _memory_mb(recipe, actors), frames * encoding / sizes.operations_per_second),
    }


def operations_per_frame(recipe: Recipe) -> dict[str, float]:
    """Floating point operations of training on one frame, by supervised stage: weights times the tokens they meet, forward and backward.

    What the model needs, whatever a switch computes again; without attention's own products and the network of a perceptual loss. Rows that
    are bootstrapped count by their mean over the whole training.
    """
    return _operations_per_frame(recipe, sizes_of(recipe))


def _operations_per_frame(recipe: Recipe, sizes: Sizes) -> dict[str, float]:
    tokenizer, dynamics = sizes.tokenizer, sizes.dynamics
    pictures = parameters_of(tokenizer.embed) + parameters_of(tokenizer.pixels)
    weights = (parameters_of(tokenizer) - pictures) * tokenizer.layout.total + pictures * tokenizer.layout.counts["patches"]
    found = {
        "tokenizer": 6.0 * weights,
        "dynamics": _passes(recipe.dynamics.forcing) * parameters_of(dynamics) * dynamics.world_tokens,
    }
    if recipe.agent is not None:
        agent = parameters_of(dynamics) * dynamics.layout.total + parameters_of(sizes.acting) - parameters_of(dynamics)
        found["agent"] = found["agent_scratch"] = _passes(recipe.agent.finetuning) * agent
    return found


def _passes(forcing: ForcingConfig) -> float:
    """Operations a weight and token: 2 forward, 4 backward, and two more passes forward for a row that is bootstrapped."""
    return 6 + 2 * 2 * forcing.bootstrap_fraction * (1 - forcing.bootstrap_after)


def _training_needs(recipe: Recipe, sizes: Sizes) -> dict[str, Need]:
    tokenizer, dynamics = sizes.tokenizer, sizes.dynamics
    encoder, decoder = recipe.tokenizer.model.encoder, recipe.tokenizer.model.decoder
    transformer, operations = recipe.dynamics.model.transformer, _operations_per_frame(recipe, sizes)
    jobs: dict[str, tuple[nn.Module, int, tuple[TransformerConfig, ...]]] = {
        "tokenizer": (tokenizer, tokenizer.layout.total, (encoder, decoder)),
        "dynamics": (dynamics, dynamics.world_tokens, (transformer,)),
        "agent": (sizes.acting, dynamics.layout.total, (transformer,)),
    }
    needs = {}
    for stage, section in recipe.supervised.items():
        model, tokens, transformers = jobs[stage]
        frames, largest = frames_of(section.batches, section.fit.steps)
        needs[stage] = Need(
            f"{section.fit.steps:,} steps, {largest:,} frames x {tokens} tokens at most a step",
            parameters_of(model),
            FEED_MB
            + _memory_mb(recipe, recipe.cluster.workers)
            + recipe.cluster.workers * (_training_mb(parameters_of(model)) + _kept_mb(largest, tokens, transformers)),
            operations[stage] * frames / sizes.operations_per_second,
        )
    if recipe.agent is not None and recipe.agent.scratch:
        needs["agent_scratch"] = needs["agent"]
    return needs


def _acting_needs(recipe: Recipe, sizes: Sizes) -> dict[str, Need]:
    dreaming = {} if recipe.imagination is None else {"imagination": _imagination(recipe, recipe.imagination, sizes)}
    return dreaming | {"evaluate": _evaluation(recipe, sizes)}


def _imagination(recipe: Recipe, dream: ImaginationSection, sizes: Sizes) -> Need:
    agent = sizes.agent
    assert agent is not None
    dynamics = 2 * parameters_of(agent.dynamics) * agent.dynamics.layout.total
    dreamed = dream.contexts.length + dream.horizon * (dream.sampling_steps + 1)
    rollouts = dream.fit.steps * dream.contexts.batch_size
    heads = parameters_of(agent.policy) + parameters_of(agent.value)
    learner_mb, trained, operations = PROCESS_MB + _training_mb(heads), heads, rollouts * 6 * heads * dream.horizon
    if dream.finetune == "all":
        frames, largest = frames_of(agent_of(recipe).batches, dream.fit.steps)
        again = dream.contexts.length + dream.horizon
        kept = _kept_mb(largest + dream.contexts.batch_size * again, agent.dynamics.layout.total, [recipe.dynamics.model.transformer])
        learner_mb, trained = FEED_MB + PROCESS_MB + _training_mb(parameters_of(agent)) + kept, parameters_of(agent)
        operations = 3 * dynamics * rollouts * again + _operations_per_frame(recipe, sizes)["agent"] * frames
    players = recipe.cluster.evaluators * (PROCESS_MB + parameters_of(agent) * 4 / 2**20)
    return Need(
        f"{dream.fit.steps:,} updates, {dream.contexts.batch_size} dreams of {dream.horizon} actions each",
        trained,
        _replicas_mb(recipe, sizes, recipe.cluster.dreaming_replicas) + learner_mb + players,
        (rollouts * dreamed * dynamics + operations) / sizes.operations_per_second,
    )


def _evaluation(recipe: Recipe, sizes: Sizes) -> Need:
    played, tokenizer, dynamics = recipe.evaluation, sizes.tokenizer, sizes.dynamics
    pass_, replicas = 2 * parameters_of(dynamics) * dynamics.layout.total, recipe.cluster.replicas
    encoding = 2 * parameters_of(tokenizer.encoder) * tokenizer.layout.total
    worlds, measured = 0, f"{played.windows} dreams, {played.pictures} pictures"
    if recipe.agent is not None and domain_of(recipe).worlds is not None:
        worlds = played.worlds * (2 if recipe.imagination else 1) + played.baseline_worlds * (2 if recipe.agent.scratch else 1)
        measured = f"{worlds} worlds of up to {played.length} steps, {measured}"
    a_frame = (encoding + 2 * pass_) / sizes.operations_per_second
    return Need(
        measured,
        0,
        _replicas_mb(recipe, sizes, replicas) + PROCESS_MB,
        worlds * played.length * (a_frame + 1 / FRAMES_PLAYED_PER_SECOND / replicas),
    )


def _replicas_mb(recipe: Recipe, sizes: Sizes, count: int) -> float:
    return _memory_mb(recipe, count) + count * parameters_of(sizes.acting) * 4 / 2**20


def parameters_of(module: nn.Module) -> int:
    """How many numbers ``module`` learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def frames_of(batches: BatchConfig, steps: int) -> tuple[float, int]:
    """Frames of all steps together, and of the largest batch."""
    short = batches.batch_size * batches.length
    if batches.long_length is None or batches.long_batch_size is None:
        return float(steps * short), short
    long = batches.long_length * batches.long_batch_size
    share = batches.final_long + (1 - batches.final_long) * batches.long_fraction
    return steps * (share * long + (1 - share) * short), max(short, long)


def _training_mb(parameters: int) -> float:
    """Weights, gradients, two moments and the moving average, in single precision."""
    return 5 * 4 * parameters / 2**20


def _kept_mb(frames: int, tokens: int, transformers: Iterable[TransformerConfig]) -> float:
    """Activations of a step over ``frames`` frames that its backward pass needs."""
    return frames * tokens * sum(t.layers * t.width for t in transformers) * NUMBERS_KEPT_PER_WIDTH * 4 / 2**20


def _memory_mb(recipe: Recipe, processes: int) -> float:
    return RAY_MB + recipe.cluster.object_store_mb + processes * PROCESS_MB
