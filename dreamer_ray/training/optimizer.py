"""AdamW with its parameter groups and a warm-up / constant / linear-decay schedule."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from dreamer_ray.config import Config
from dreamer_ray.errors import UserError


class OptimizerConfig(Config):
    """Step sizes of one phase."""

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


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW, fused where it can be, over the parameters that require gradients, ``factor`` in each group.

    Raises ``UserError`` where ``config.rates`` has a name with which no parameter begins.
    """
    trained = [(name.removeprefix("agent."), p) for name, p in module.named_parameters() if p.requires_grad]
    for prefix in config.rates:
        if not any(name.startswith(prefix) for name, _ in trained):
            parts = ", ".join(sorted({name.partition(".")[0] for name, _ in trained}))
            raise UserError(f"optimizer.rates: no trained parameter's name begins with {prefix!r}; there are {parts}")
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, p in trained:
        factor = next((factor for prefix, factor in config.rates.items() if name.startswith(prefix)), 1.0)
        groups.setdefault((p.ndim >= 2 and "positions" not in name, factor), []).append(p)
    options = [
        {
            "params": groups[key],
            "weight_decay": config.weight_decay if key[0] else 0.0,
            "factor": key[1],
            "lr": key[1] * config.learning_rate,
        }
        for key in sorted(groups, reverse=True)
    ]
    fused = all(p.is_contiguous() for _, p in trained)  # the fused update of a CPU takes numbers as they lie in memory
    return torch.optim.AdamW(options, lr=config.learning_rate, betas=config.betas, eps=1e-8, fused=fused, foreach=not fused)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Rate of update ``step`` (from 0) out of ``steps``."""
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    fall_steps = config.decay * steps
    fall = min(1.0, (steps - step) / fall_steps) if fall_steps > 0 else 1.0
    return config.learning_rate * rise * fall
