"""The nouns that move between modules, and the legend of their dimensions.

b batch | t time in frames | n tokens of a frame | d model width | l latents | c channels of a latent
h heads (query) | g heads (key, value) | e width of a head | y x picture rows, columns | k bins or classes | m tasks

Time (fixed for the whole project): frame ``o_t`` is seen, then action ``a_t`` is taken; reward ``r_t`` and continue ``c_t``
are those that arrive together with ``o_t``, caused by ``a_{t-1}``.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Binary(BaseModel):
    """A vector of independent keys, each held or not. Tensor: ``[b t size]``, 0 or 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["binary"] = "binary"
    size: int = Field(gt=0)


class Categorical(BaseModel):
    """One choice out of ``size``. Tensor: ``[b t]``, 0 .. size-1."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["categorical"] = "categorical"
    size: int = Field(gt=1)


class Continuous(BaseModel):
    """A vector of real numbers, scaled to about -1 .. 1. Tensor: ``[b t size]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["continuous"] = "continuous"
    size: int = Field(gt=0)


ActionComponent = Annotated[Binary | Categorical | Continuous, Field(discriminator="kind")]
ActionSpace = dict[str, ActionComponent]
"""Components by name, in a fixed order, such as ``{"keys": Binary(size=23), "mouse": Categorical(size=121)}``."""

Actions = dict[str, Tensor]
"""A tensor a component; the leading dimensions are those of the batch."""


@dataclass(frozen=True)
class Batch:
    """A frozen dataclass of tensors, dictionaries of them and other batches, which moves and slices all of them at once."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same nouns with ``function`` of every tensor."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, dict):
                return {key: function(tensor) for key, tensor in value.items()}
            return value.map(function) if isinstance(value, Batch) else value

        return replace(self, **{field.name: apply(getattr(self, field.name)) for field in fields(self)})

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        found: list[Tensor] = []
        self.map(lambda tensor: found.append(tensor) or tensor)
        return found

    def to(self, device: torch.device | str) -> Self:
        """The same values on ``device``."""
        beside = torch.device(device).type != "cpu"  # from a GPU to the CPU it would return before the values are there
        return self.map(lambda tensor: tensor.to(device, non_blocking=beside))

    def rows(self, index: slice | Tensor) -> Self:
        """Those rows of the batch dimension."""
        return self.map(lambda tensor: tensor[index])


@dataclass(frozen=True)
class Annotations(Batch):
    """What is known about each frame of a batch of clips besides its picture."""

    actions: Actions
    """``a_t``, taken after ``o_t``; zeros where not labelled."""
    labelled: Bool[Tensor, "b t"]
    """Whether ``a_t`` is known."""
    rewards: Float[Tensor, "b t"]
    """``r_t`` of the prompted task, arriving with ``o_t``."""
    continues: Float[Tensor, "b t"]
    """``c_t``: 0 where ``o_t`` is terminal, else 1."""
    task: Int[Tensor, "b"]
    """The prompt: index of the task."""
    relevant: Bool[Tensor, "b"]
    """Whether the clip was drawn because its task's event occurs in it (else drawn uniformly)."""
    enrichment: Float[Tensor, "b"] | None = None
    """How many times likelier a relevant draw gives the clip and its prompt than a uniform one; None where no plan drew them."""


@dataclass(frozen=True)
class Clip(Batch):
    """A batch of clips of pictures."""

    frames: UInt8[Tensor, "b t y x 3"]
    notes: Annotations


@dataclass(frozen=True)
class LatentClip(Batch):
    """A batch of clips after the tokenizer."""

    latents: Float[Tensor, "b t l c"]
    notes: Annotations


@dataclass(frozen=True)
class Trajectory(Batch):
    """Dreamed rollouts of ``t`` actions and ``t + 1`` states: all that the policy and value losses need."""

    states: Float[Tensor, "b t+1 d"]
    """Agent states ``h_0 .. h_T``."""
    actions: Actions
    """``a_0 .. a_{T-1}``, sampled by the policy."""
    rewards: Float[Tensor, "b t"]
    """``r_1 .. r_T``: arriving with ``h_1 .. h_T``."""
    continues: Float[Tensor, "b t"]
    """``c_1 .. c_T``."""
    task: Int[Tensor, "b"]
    version: int
    """Version of the weights that dreamed it."""
    frames: LatentClip | None = None
    """The context and the ``t`` dreamed frames, with ``a_0`` at the last frame of the context; where only heads train nobody needs them."""


@dataclass(frozen=True)
class Loss:
    """What a phase returns: the scalar to differentiate and detached figures for the log."""

    total: Float[Tensor, ""]
    metrics: dict[str, Tensor]
