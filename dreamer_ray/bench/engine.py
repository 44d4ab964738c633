"""Dreamed frames a second."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dreamer_ray.bench.made_up import latent_clip
from dreamer_ray.bench.rates import Rate, seconds_of_each
from dreamer_ray.errors import UserError
from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.sampler import Sampling, commit_frame, commit_pass, sample_frame
from dreamer_ray.imagination.tuning import tune_dreams
from dreamer_ray.models.actions import no_actions
from dreamer_ray.models.distributions import draw_count
from dreamer_ray.models.dynamics import Conditioning
from dreamer_ray.nn.transformer import TransformerCache
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import new_agent, new_models


@torch.no_grad()
def engine_rates(recipe: Recipe, *, worlds: Sequence[int], seconds: float, device: str) -> Iterator[Rate]:
    """Dreamed frames a second, acted, judged and decoded, of so many worlds at once; with the commit pass and without it."""
    if recipe.imagination is None:
        raise UserError("bench engine: measures the dreams of the section imagination, and this recipe has none")
    tokenizer, dynamics = new_models(recipe)
    agent = new_agent(recipe, dynamics)
    for model in (tokenizer, agent):
        model.to(device).requires_grad_(False).eval()
    sampling, tuning = Sampling(steps=recipe.imagination.sampling_steps), recipe.cluster.dreaming

    def start(rows: int, chosen: Sampling, *, graph: bool) -> tuple[DreamEngine, Callable[[], object]]:
        engine = DreamEngine(agent.dynamics, slots=rows, agent=agent, tokenizer=tokenizer, graph=graph)
        context = latent_clip(recipe, rows, recipe.dynamics.model.transformer.context).to(device)
        engine.join(context, list(range(rows)), sampling=chosen)
        return engine, lambda: engine.dream(engine.act(sampling=chosen), sampling=chosen)

    kinds = [(rows, chosen) for rows in worlds for chosen in (sampling, replace(sampling, commit=False))]
    counted = []
    for rows, chosen in kinds:  # before compilation, which hides operations
        _, frame = start(rows, chosen, graph=False)
        with FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _product}) as operations:  # noqa: SLF001
            frame()
        counted.append(operations.get_total_flops())
    for model in (tokenizer, agent):
        tune_dreams(model, tuning)
    for (rows, chosen), operations in zip(kinds, counted, strict=True):
        engine, frame = start(rows, chosen, graph=tuning.graph)
        name = f"{rows} world{'s' if rows > 1 else ''}" + ("" if chosen.commit else ", no commit")
        parts = {} if tuning.graph else _parts(engine, chosen)  # of a recorded frame no part runs alone
        yield _rate(name, engine, chosen, seconds_of_each({"whole": frame} | parts, seconds), operations)


def _product(x: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:
    """Operations of a product with packed weights."""
    return 2 * out_shape.numel() * x[-1]


def _rate(name: str, engine: DreamEngine, sampling: Sampling, taken: dict[str, float], operations: float) -> Rate:
    whole, rows = taken.pop("whole"), len(engine.streams.rows)
    moved = (sampling.steps + sampling.commit) * _bytes(engine.dynamics.transformer, engine.cache)
    if engine.tokenizer is not None and engine.decoder_cache is not None:
        moved += _bytes(engine.tokenizer.decoder, engine.decoder_cache)
    shares = {part: each / whole for part, each in taken.items()}
    return Rate(
        name=name,
        per_second=rows / whole,
        unit="frames",
        operations_per_second=operations / whole,
        bytes_per_second=moved / whole,
        shares=shares and shares | {"rest": 1 - sum(shares.values())},
    )


def _parts(engine: DreamEngine, sampling: Sampling) -> dict[str, Callable[[], object]]:
    agent, tokenizer, dynamics, streams = engine.agent, engine.tokenizer, engine.dynamics, engine.streams
    assert agent is not None
    assert tokenizer is not None
    rows, device = len(streams.rows), engine.device
    noise = streams.normal(1, *dynamics.latent_mean.shape)
    uniform, clean = streams.uniform(draw_count(dynamics.actions.space)), dynamics.restore(noise)
    known = torch.ones(rows, 1, dtype=torch.bool, device=device)
    actions = {key: value.unsqueeze(1) for key, value in no_actions(dynamics.actions.space, rows, device).items()}
    told = Conditioning(actions, known)
    asked = replace(told, agent=agent.prompt(engine.task, 1))
    first = told if sampling.commit else asked

    def heads() -> None:
        agent.policy.now(engine.states).sample(uniform, 1.0)
        _ = agent.reward.now(engine.states).mean, agent.continues.probability(engine.states)

    parts: dict[str, Callable[[], object]] = {
        f"{sampling.steps} passes": lambda: sample_frame(dynamics, engine.cache, first, steps=sampling.steps, noise=noise),
        "heads": heads,
        "decode": lambda: tokenizer.decode(clean, cache=engine.decoder_cache),
    }
    if sampling.commit:
        parts["commit"] = lambda: commit_frame(dynamics, engine.cache, commit_pass(dynamics, asked, latents=noise, noise=noise))
    return parts


def _bytes(module: nn.Module, cache: TransformerCache) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *cache.tensors()])
