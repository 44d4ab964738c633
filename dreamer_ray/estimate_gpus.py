"""What training and dreaming need of the GPUs that a recipe's section ``cluster`` gives them: operations, memory of each, time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from dreamer_ray.estimate import NUMBERS_KEPT_PER_WIDTH, Sizes, frames_of, operations_per_frame, parameters_of, sizes_of
from dreamer_ray.nn.transformer import TransformerConfig
from dreamer_ray.recipe import ImaginationSection, Recipe
from dreamer_ray.training.parallel import Tuning

PEAKS = {"fp8": 1979e12, "bf16": 989e12, "fp32": 67e12}
"""Operations a second in dense matrix products, by precision, as the data sheet of H100 and H200 (SXM) has them."""
SHARE_OF_PEAK = 0.4
"""Of them that is taken to be reached; what is computed again does not count (MFU)."""
STATE_BYTES = 5 * 4
"""Of a parameter: weight, gradient, two moments and moving average, in single precision."""
STREAM_BYTES, BYTES = 4, {"fp8": 2, "bf16": 2, "fp32": 4}
"""Of a number between blocks, and of weights and what is inside of blocks by precision."""


@dataclass(frozen=True)
class GpuNeed:
    """What one stage takes."""

    gpus: float
    operations: float
    """Floating point operations of the whole stage, which are the same on any number of GPUs."""
    memory_mb: float
    """Of each GPU: weights and what belongs to them, and the activations of the largest batch or the caches of all dreams."""
    seconds: float
    """On all its GPUs together."""


def estimate_gpus(recipe: Recipe) -> dict[str, GpuNeed]:
    """Needs by stage of what is done on GPUs: the supervised phases, and dreams."""
    sizes, found = sizes_of(recipe), {}
    if gpus := recipe.cluster.workers * recipe.cluster.gpus_per_worker:
        found |= _training(recipe, sizes, gpus)
    if recipe.imagination is not None and (gpus := recipe.cluster.replicas * recipe.cluster.gpus_per_replica):
        found["imagination"] = _dreaming(recipe, recipe.imagination, sizes, gpus)
    return found


def _training(recipe: Recipe, sizes: Sizes, gpus: float) -> dict[str, GpuNeed]:
    operations, speed = operations_per_frame(recipe), gpus * PEAKS[recipe.cluster.tuning.precision] * SHARE_OF_PEAK
    found = {}
    for stage, section in recipe.supervised.items():
        frames, largest = frames_of(section.batches, section.fit.steps)
        there = -(-largest // (recipe.cluster.workers * section.fit.accumulate))
        whole = operations[stage] * frames
        found[stage] = GpuNeed(gpus, whole, _training_mb(recipe, stage, sizes, frames=there), whole / speed)
    return found | ({"agent_scratch": found["agent"]} if recipe.agent is not None and recipe.agent.scratch else {})


def _training_mb(recipe: Recipe, stage: str, sizes: Sizes, *, frames: int) -> float:
    tokenizer, dynamics, transformers = sizes.tokenizer, sizes.dynamics, [recipe.dynamics.model.transformer]
    model, tokens = (sizes.acting, dynamics.layout.total) if stage == "agent" else (dynamics, dynamics.world_tokens)
    if stage == "tokenizer":
        model, tokens = tokenizer, tokenizer.layout.total
        transformers = [recipe.tokenizer.model.encoder, recipe.tokenizer.model.decoder]
    tuning, workers = recipe.cluster.tuning, recipe.cluster.workers
    state = STATE_BYTES * parameters_of(model) / (workers if tuning.sharded else 1)
    return (state + frames * tokens * _kept_bytes(transformers, tuning)) / 2**20


def _kept_bytes(transformers: Sequence[TransformerConfig], tuning: Tuning) -> float:
    """Of a token: what enters each layer, and all inside of it, of all layers, or of the widest where a block is computed again."""
    widths = list(chain.from_iterable([config.width] * config.layers for config in transformers))
    inside = max(widths) if tuning.recompute else sum(widths)
    return sum(widths) * STREAM_BYTES + inside * NUMBERS_KEPT_PER_WIDTH * BYTES[tuning.precision]


def _dreaming(recipe: Recipe, dreams: ImaginationSection, sizes: Sizes, gpus: float) -> GpuNeed:
    dynamics, transformer, precision = sizes.dynamics, recipe.dynamics.model.transformer, recipe.cluster.dreaming.precision
    passes = dreams.contexts.length + dreams.horizon * (dreams.sampling_steps + 1)
    a_pass, rollouts = 2.0 * parameters_of(dynamics) * dynamics.layout.total, dreams.fit.steps * dreams.contexts.batch_size
    keys = 2 * dynamics.transformer.axes.count("time") * transformer.kv_heads * (transformer.width // transformer.heads)
    cache = dreams.dreams_per_call * dynamics.layout.total * (transformer.context + 1) * keys
    memory = (parameters_of(sizes.acting) + cache) * BYTES[precision] / min(1.0, recipe.cluster.gpus_per_replica)
    whole = rollouts * passes * a_pass
    return GpuNeed(gpus, whole, memory / 2**20, whole / (gpus * PEAKS[precision] * SHARE_OF_PEAK))
