"""AdamW with its parameter groups and a warm-up / constant / linear-decay schedule."""

import torch
from pydantic import Field
from torch import nn

from dreamer_ray.config import Config


class OptimizerConfig(Config):
    """Step sizes of one phase."""

    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    decay: float = Field(default=0.0, ge=0, le=1)
    """Last share of the steps, in which the rate falls linearly to 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """On matrices only: not on embeddings' biases, norms and positions."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    betas: tuple[float, float] = (0.9, 0.99)


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients; fused where they are on a GPU."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if p.ndim >= 2 and "positions" not in name]
    others = [p for name, p in trained if not (p.ndim >= 2 and "positions" not in name)]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = all(p.is_cuda for _, p in trained)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=1e-8, fused=fused, foreach=not fused)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Rate of update ``step`` (from 0) out of ``steps``."""
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    fall_steps = config.decay * steps
    fall = min(1.0, (steps - step) / fall_steps) if fall_steps > 0 else 1.0
    return config.learning_rate * rise * fall
