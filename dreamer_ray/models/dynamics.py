"""The interactive dynamics: predicts clean latents of every frame from noisy ones, actions and the past (Dreamer 4, section 3.2)."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from dreamer_ray.config import Config
from dreamer_ray.models.actions import ActionEmbedding
from dreamer_ray.nn.frame import compiled
from dreamer_ray.nn.tokens import TokenLayout
from dreamer_ray.nn.transformer import Places, Transformer, TransformerCache, TransformerConfig
from dreamer_ray.types import Actions, ActionSpace, Batch


class DynamicsConfig(Config):
    """Sizes and switches of the dynamics."""

    transformer: TransformerConfig
    packing: int = Field(default=2, gt=0)
    """Latents of the tokenizer side by side in one token: N_z = N_b / packing."""
    registers: int = Field(default=4, ge=0)
    action_tokens: int = Field(default=1, gt=0)
    agent_tokens: int = Field(default=1, gt=0)
    k_max: int = Field(default=64, gt=1)
    """Finest number of sampling steps, a power of two; d_min = 1 / k_max."""
    context_signal: float = Field(default=0.9, gt=0, lt=1)
    """Signal level of context frames in dreams and when acting; rounded to a multiple of 1 / k_max."""
    standardize: bool = True
    """Shift and scale latents to mean 0 and deviation 1 per number (not in the paper)."""

    @model_validator(mode="after")
    def _power_of_two(self) -> "DynamicsConfig":
        if self.k_max & (self.k_max - 1):
            raise ValueError(f"k_max = {self.k_max} is not a power of two")
        return self

    @property
    def finest(self) -> int:
        """Exponent of d_min = 2^-finest."""
        return self.k_max.bit_length() - 1

    def signal_level(self, signal: float | None = None) -> int:
        """``signal``, by default the context signal, in units of 1 / k_max, rounded to a level that training has seen."""
        return min(max(round((self.context_signal if signal is None else signal) * self.k_max), 1), self.k_max - 1)


@dataclass(frozen=True)
class Noising(Batch):
    """The discrete signal level and step size of each frame.

    tau = ``signal / k_max`` (0 is noise, 1 would be data) and d = ``2 ** -exponent``.
    """

    signal: Int[Tensor, "b t"]
    exponent: Int[Tensor, "b t"]

    def tau(self, k_max: int) -> Float[Tensor, "b t"]:
        """Signal level in [0, 1)."""
        return self.signal.float() / k_max


@dataclass(frozen=True)
class Conditioning(Batch):
    """What a pass is told about each frame besides the noisy latents."""

    actions: Actions
    """``a_{t-1}``, the action that led to frame t."""
    labelled: Bool[Tensor, "b t"]
    agent: Float[Tensor, "b t a d"] | None = None
    """Agent tokens; None leaves them out."""
    images: Bool[Tensor, "b"] | None = None
    """Rows that are separate pictures."""


@dataclass(frozen=True)
class Prediction(Batch):
    """What a pass returns."""

    latents: Float[Tensor, "b t l c"]
    """The predicted clean latents (x-prediction), standardised."""
    states: Float[Tensor, "b t d"] | None
    """Agent states ``h_t``, where agent tokens were given."""


class Dynamics(nn.Module):
    """Tokens of a frame: previous action, one for (tau, d), packed latents, registers, agent. Nothing sees the agent tokens."""

    space_mask: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: DynamicsConfig, *, latents: int, channels: int, action_space: ActionSpace):
        super().__init__()
        if latents % config.packing:
            raise ValueError(f"dynamics.packing = {config.packing} does not divide the tokenizer's {latents} latents")
        self.config = config
        width, packed = config.transformer.width, channels * config.packing
        world = {"action": config.action_tokens, "noise": 1, "latents": latents // config.packing, "registers": config.registers}
        self.layout = TokenLayout(world | {"agent": config.agent_tokens})
        self.world_tokens = sum(world.values())
        kinds = set(self.layout.counts)
        mask = self.layout.mask({kind: kinds if kind == "agent" else kinds - {"agent"} for kind in kinds})
        self.register_buffer("space_mask", mask, persistent=False)
        self.register_buffer("latent_mean", torch.zeros(latents, channels))
        self.register_buffer("latent_std", torch.ones(latents, channels))
        self.actions = ActionEmbedding(action_space, tokens=config.action_tokens, width=width)
        self.signal = nn.Embedding(config.k_max, width // 2)
        self.step_size = nn.Embedding(config.finest + 1, width - width // 2)
        self.expand = nn.Linear(packed, width)
        # As large as the contents of tokens: with 0.02 the dynamics came to follow actions later.
        self.positions = nn.Parameter(torch.randn(self.layout.total, width) * 0.5)
        self.transformer = Transformer(config.transformer)
        self.predict = nn.Linear(width, packed)
        nn.init.zeros_(self.predict.bias)
        with torch.no_grad():
            self.predict.weight.mul_(0.1)

    def set_latent_statistics(self, mean: Float[Tensor, "l c"], std: Float[Tensor, "l c"]) -> None:
        """Takes the data's mean and deviation; without ``standardize`` they are left at 0 and 1."""
        if self.config.standardize:
            self.latent_mean.copy_(mean)
            self.latent_std.copy_(std.clamp(min=1e-3))

    def standardize(self, latents: Float[Tensor, "b t l c"]) -> Float[Tensor, "b t l c"]:
        """Latents of the tokenizer to those that the dynamics works on."""
        return (latents.float() - self.latent_mean) / self.latent_std

    def restore(self, latents: Float[Tensor, "b t l c"]) -> Float[Tensor, "b t l c"]:
        """The inverse of ``standardize``, clipped to what the tokenizer's tanh can give."""
        return (latents * self.latent_std + self.latent_mean).clamp(-1, 1)

    def forward(
        self, noisy: Float[Tensor, "b t l c"], noising: Noising, conditioning: Conditioning, *, cache: TransformerCache | None = None
    ) -> Prediction:
        """One pass over whole sequences; with a new ``cache`` it also fills it."""
        tokens = self._tokens(noisy, noising, conditioning)
        mask = self._mask(tokens)
        return self._read(self.transformer(tokens, space_mask=mask, images=conditioning.images, cache=cache))

    def step(self, noisy: Float[Tensor, "b f l c"], noising: Noising, conditioning: Conditioning, *, cache: TransformerCache) -> Prediction:
        """One pass over the current frame of running sequences, or over it and the next.

        Run again it overwrites them, until ``cache.advance()``.
        """
        step = compiled(Dynamics._step) if self.transformer.compiled == "whole" else Dynamics._step
        return step(self, noisy, noising, conditioning, cache, self.transformer.places(cache, noisy.shape[1]))

    def _step(self, noisy: Tensor, noising: Noising, conditioning: Conditioning, cache: TransformerCache, places: Places) -> Prediction:
        tokens = self._tokens(noisy, noising, conditioning)
        return self._read(self.transformer.step(tokens, cache, space_mask=self._mask(tokens), places=places))

    def new_cache(self, batch: int) -> TransformerCache:
        """An empty cache for ``batch`` sequences."""
        return self.transformer.new_cache(batch, self.layout.total, self.positions.device)

    def _tokens(self, noisy: Tensor, noising: Noising, conditioning: Conditioning) -> Float[Tensor, "b t n d"]:
        pair = torch.cat([self.signal(noising.signal), self.step_size(noising.exponent)], dim=-1).unsqueeze(2)
        packed = rearrange(noisy.to(self.positions.dtype), "b t (n p) c -> b t n (p c)", p=self.config.packing)
        registers = pair.new_zeros(*pair.shape[:2], self.config.registers, pair.shape[-1])
        parts = [self.actions(conditioning.actions, conditioning.labelled), pair, self.expand(packed), registers]
        if conditioning.agent is not None:
            parts.append(conditioning.agent)
        tokens = torch.cat(parts, dim=2)
        return tokens + self.positions[: tokens.shape[2]]

    def _mask(self, tokens: Tensor) -> Tensor | None:
        return self.space_mask if tokens.shape[2] > self.world_tokens else None

    def _read(self, y: Float[Tensor, "b t n d"]) -> Prediction:
        with torch.autocast(y.device.type, enabled=False):
            packed = self.predict(y[:, :, self.layout.slice("latents")].to(self.predict.weight.dtype)).float()
        latents = rearrange(packed, "b t n (p c) -> b t (n p) c", p=self.config.packing)
        states = y[:, :, self.layout.slice("agent")].mean(2) if y.shape[2] > self.world_tokens else None
        return Prediction(latents, states)
