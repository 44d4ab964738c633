"""Tiny models and batches for all tests: one thread, sizes of a few thousand numbers, every draw seeded.

Before anything else: a Ray that listens on the loopback interface only, and shapes in signatures checked at run time.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import install_import_hook

from dreamer_ray.loopback import bind_ray_to_loopback

os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ.pop("RAY_ADDRESS", None)
bind_ray_to_loopback()
if not os.environ.get("JAXTYPING_DISABLE"):
    install_import_hook([f"dreamer_ray.{room}" for room in ("models", "imagination")], "beartype.beartype")

from dreamer_ray.models.agent import Agent, AgentConfig
from dreamer_ray.models.dynamics import Dynamics, DynamicsConfig
from dreamer_ray.models.heads import HeadsConfig
from dreamer_ray.models.tokenizer import Tokenizer, TokenizerConfig
from dreamer_ray.nn.transformer import TransformerConfig
from dreamer_ray.types import ActionSpace, Annotations, Binary, Categorical, Continuous, LatentClip

LATENTS, CHANNELS, TASKS = 4, 3, 5
MIXED: ActionSpace = {"keys": Binary(size=3), "mouse": Categorical(size=5), "arm": Continuous(size=2)}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _process_as_before(monkeypatch):
    """What a verb of the command line sets for its process is set back."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    log, handlers = logging.getLogger("dreamer_ray"), {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before, propagate, level = log.handlers[:], log.propagate, log.level
    yield
    log.handlers[:], log.propagate = before, propagate
    log.setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transformer_config(**changes) -> TransformerConfig:
    return TransformerConfig(
        **({"width": 16, "layers": 4, "heads": 4, "kv_heads": 2, "mlp_ratio": 2.0, "time_every": 2, "context": 4} | changes)
    )


def make_dynamics(*, space: ActionSpace | None = None, transformer: dict | None = None, **changes) -> Dynamics:
    """Weights are enlarged, so that every path through the model has an effect that a test can see."""
    torch.manual_seed(1)
    config = DynamicsConfig(
        **({"transformer": transformer_config(**(transformer or {})), "packing": 2, "registers": 1, "k_max": 8} | changes)
    )
    dynamics = Dynamics(config, latents=LATENTS, channels=CHANNELS, action_space=MIXED if space is None else space)
    with torch.no_grad():
        dynamics.predict.weight.mul_(10)
    return dynamics


def make_agent(*, heads: dict | None = None, **changes) -> Agent:
    dynamics = make_dynamics(**changes)
    agent = Agent(
        AgentConfig(heads=HeadsConfig(**({"hidden": 16, "layers": 1, "distance": 2, "bins": 21} | (heads or {})))), dynamics, tasks=TASKS
    )
    with torch.no_grad():
        for head in (agent.policy, agent.reward, agent.value, agent.continues):
            head.net.output.weight.normal_(std=0.3)
    return agent


def make_tokenizer(shape: tuple[int, int] = (8, 8), *, encoder: dict | None = None, decoder: dict | None = None, **changes) -> Tokenizer:
    torch.manual_seed(2)
    parts = {
        "encoder": transformer_config(**({"kv_heads": 4} | (encoder or {}))),
        "decoder": transformer_config(**({"kv_heads": 4} | (decoder or {}))),
    }
    config = TokenizerConfig(**({"patch": 4, "latents": LATENTS, "channels": CHANNELS, "perceptual": "none"} | parts | changes))
    tokenizer = Tokenizer(config, shape)
    with torch.no_grad():
        tokenizer.pixels.weight.mul_(10)
        tokenizer.encoder_positions.mul_(10)
        tokenizer.decoder_positions.mul_(10)
    return tokenizer


def make_actions(rows: int, frames: int, *, space: ActionSpace | None = None, seed: int = 0):
    generator, actions = seeded(seed), {}
    for name, component in (MIXED if space is None else space).items():
        if isinstance(component, Categorical):
            actions[name] = torch.randint(0, component.size, (rows, frames), generator=generator)
        elif isinstance(component, Binary):
            actions[name] = torch.randint(0, 2, (rows, frames, component.size), generator=generator)
        else:
            actions[name] = torch.randn(rows, frames, component.size, generator=generator)
    return actions


def make_clip(rows: int, frames: int, *, space: ActionSpace | None = None, seed: int = 0) -> LatentClip:
    generator = seeded(seed + 100)
    notes = Annotations(
        actions=make_actions(rows, frames, space=space, seed=seed),
        labelled=torch.ones(rows, frames, dtype=torch.bool),
        rewards=torch.randint(0, 2, (rows, frames), generator=generator).float(),
        continues=torch.randint(0, 2, (rows, frames), generator=generator).float(),
        task=torch.randint(0, TASKS, (rows,), generator=generator),
        relevant=torch.arange(rows) % 2 == 0,
    )
    return LatentClip(torch.rand(rows, frames, LATENTS, CHANNELS, generator=generator) * 2 - 1, notes)


@dataclass(frozen=True)
class Tiny:
    """What the tests build from."""

    latents: int = LATENTS
    channels: int = CHANNELS
    tasks: int = TASKS
    generator: Callable = seeded
    transformer_config: Callable = transformer_config
    dynamics: Callable = make_dynamics
    agent: Callable = make_agent
    tokenizer: Callable = make_tokenizer
    actions: Callable = make_actions
    clip: Callable = make_clip


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()
