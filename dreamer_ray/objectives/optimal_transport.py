"""Which noise a clean frame is mixed with: minibatch optimal transport (Tong et al. 2023, arXiv 2302.00482, algorithm 3)."""

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def optimal_pairing(noise: Float[Tensor, "b t l c"], clean: Float[Tensor, "b t l c"]) -> Float[Tensor, "b t l c"]:
    """``noise`` shared out anew among the rows, so that ``sum_b || z0 - z1 ||^2`` is least; each frame index by itself.

    Straighter ways from noise to data. Rows of other contexts share, so that noise is no longer quite independent of a row's context. No
    noise wanders between frames of a clip, and signal levels play no part: each noise stays with one frame index, whose rows draw theirs
    alike. Solved on the CPU in ``O(t b^3)``; the result is on the device of ``noise``.
    """
    here, there = (values.flatten(2).transpose(0, 1).to("cpu", torch.float64) for values in (clean, noise))
    costs = torch.cdist(here, there).square().nan_to_num()  # broken latents are for the loss to refuse
    chosen = torch.stack([torch.from_numpy(linear_sum_assignment(cost)[1]) for cost in costs.numpy()], dim=1).to(noise.device)
    return noise[chosen, torch.arange(noise.shape[1], device=noise.device)]
