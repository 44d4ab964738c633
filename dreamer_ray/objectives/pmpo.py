"""PMPO (Dreamer 4, Eq. 11): raise the probability of actions that turned out well, lower the others', stay near the prior."""

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.numerics import masked_mean


def pmpo(
    log_prob: Float[Tensor, "*s"],
    advantage: Float[Tensor, "*s"],
    kl: Float[Tensor, "*s"],
    *,
    alpha: float,
    beta: float,
    weights: Float[Tensor, "*s"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss; their sum is what is minimised.

    ``(1 - alpha) mean_{D-} ln pi(a|s)  -  alpha mean_{D+} ln pi(a|s)  +  beta mean KL[pi || prior]`` with D+ = {A >= 0}, D- = {A < 0}
    over the batches of all ranks, means weighted by ``weights`` where given.
    The size of an advantage has no influence. An empty set contributes 0.
    """
    good = advantage >= 0
    weights = torch.ones_like(kl) if weights is None else weights
    return {
        "positive": -alpha * masked_mean(log_prob, good * weights),
        "negative": (1 - alpha) * masked_mean(log_prob, ~good * weights),
        "prior": beta * masked_mean(kl, weights),
    }
