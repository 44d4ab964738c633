"""Lambda-returns (Dreamer 4, Eq. 10, read with the value of the next state)."""

import torch
from jaxtyping import Float
from torch import Tensor


def lambda_returns(
    rewards: Float[Tensor, "b t"], continues: Float[Tensor, "b t"], values: Float[Tensor, "b t+1"], *, gamma: float, lam: float
) -> Float[Tensor, "b t"]:
    """``R_t = r_{t+1} + gamma c_{t+1} ((1 - lam) v_{t+1} + lam R_{t+1})`` and ``R_T = v_T``, for t = 0 .. T-1.

    Entry t of ``rewards`` and ``continues`` holds ``r_{t+1}`` and ``c_{t+1}``, those that action ``a_t`` brought about.
    """
    result = values[:, -1]
    returns = []
    for t in reversed(range(rewards.shape[1])):
        result = rewards[:, t] + gamma * continues[:, t] * ((1 - lam) * values[:, t + 1] + lam * result)
        returns.append(result)
    return torch.stack(returns[::-1], dim=1)
