"""AdamW, or Muon beside it, with their parameter groups and a warm-up / constant / linear-decay schedule."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from dreamer_ray.config import Config
from dreamer_ray.errors import UserError
from dreamer_ray.nn.transformer import Block


class OptimizerConfig(Config):
    """Step sizes of one phase."""

    kind: Literal["adamw", "muon"] = "adamw"
    """``muon`` moves the matrices of transformer blocks by Muon, whose steps are scaled to the size of AdamW's; AdamW moves the rest."""
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    decay: float = Field(default=0.0, ge=0, le=1)
    """Last share of the steps, in which the rate falls linearly to 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """On matrices and tables only: not on biases, norms and positions."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Factors on the learning rate of parameters whose names begin so, such as ``{value: 4}``; 1 for all others.

    What belongs to the agent is named as there: ``value``, not ``agent.value``.
    """


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, fused where it can be, over the parameters that require gradients, ``factor`` in each group.

    Raises ``UserError`` where ``config.rates`` has a name with which no parameter begins, or where Muon has no matrix to move.
    """
    trained = [(name.removeprefix("agent."), p) for name, p in module.named_parameters() if p.requires_grad]
    for prefix in config.rates:
        if not any(name.startswith(prefix) for name, _ in trained):
            parts = ", ".join(sorted({name.partition(".")[0] for name, _ in trained}))
            raise UserError(f"optimizer.rates: no trained parameter's name begins with {prefix!r}; there are {parts}")
    hidden = _hidden_matrices(module) if config.kind == "muon" else set()
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, p in trained:
        factor = next((factor for prefix, factor in config.rates.items() if name.startswith(prefix)), 1.0)
        groups.setdefault((p in hidden, p.ndim >= 2 and "positions" not in name, factor), []).append(p)
    options: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for by_muon, decayed, factor in sorted(groups, reverse=True):
        weight_decay, parameters = config.weight_decay if decayed else 0.0, groups[by_muon, decayed, factor]
        options[by_muon].append({"params": parameters, "weight_decay": weight_decay, "factor": factor, "lr": factor * config.learning_rate})
    fused = all(p.is_contiguous() for _, p in trained)  # the fused update of a CPU takes numbers as they lie in memory
    adamw = torch.optim.AdamW(options[False], lr=config.learning_rate, betas=config.betas, eps=1e-8, fused=fused, foreach=not fused)
    return _Together([torch.optim.Muon(options[True], adjust_lr_fn="match_rms_adamw"), adamw]) if hidden else adamw


def _hidden_matrices(module: nn.Module) -> set[nn.Parameter]:
    """What Muon moves: it was made for matrices between hidden layers, not for tables and what goes in and out (Jordan et al. 2024)."""
    parameters = (p for block in module.modules() if isinstance(block, Block) for p in block.parameters())
    if found := {p for p in parameters if p.requires_grad and p.ndim == 2}:
        return found
    raise UserError("optimizer.kind = muon: no matrix of a transformer block is trained in this phase; use adamw")


class _Together(torch.optim.Optimizer):
    """Optimizers of different parameters as one; groups and state are theirs.

    Muon's steps have the size of AdamW's, ``0.2 sqrt(max(rows, columns))`` times an orthogonal matrix (Liu et al. 2025, arXiv 2502.16982).
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update by each."""
        for part in self.parts:
            part.step()


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Rate of update ``step`` (from 0) out of ``steps``."""
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    fall_steps = config.decay * steps
    fall = min(1.0, (steps - step) / fall_steps) if fall_steps > 0 else 1.0
    return config.learning_rate * rise * fall
