"""Scalar transforms and running statistics: symlog, symexp, two-hot codes, running RMS, reductions over all ranks."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


def symlog(x: Tensor) -> Tensor:
    """``sign(x) ln(1 + |x|)`` (Dreamer 3, Eq. 9)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """``sign(x) (exp(|x|) - 1)``, the inverse of ``symlog``."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def symexp_bins(count: int, limit: float = 20.0) -> Float[Tensor, "k"]:
    """``symexp`` of ``count`` (odd) values evenly spaced over ``[-limit, limit]``; exactly mirrored around 0 (Dreamer 3, Eq. 10)."""
    if count < 3 or count % 2 == 0:
        raise ValueError(f"symexp_bins: count = {count}, expected an odd number of at least 3")
    half = symexp(torch.linspace(0, limit, count // 2 + 1, dtype=torch.float64))
    return torch.cat([-half[1:].flip(0), half]).float()


def twohot_encode(x: Float[Tensor, "*s"], bins: Float[Tensor, "k"]) -> Float[Tensor, "*s k"]:
    """Weights over ``bins`` (ascending) that are non-zero on the two neighbours of ``x`` only, and whose mean is ``x``.

    Values beyond the outer bins are clipped to them.
    """
    x = x.float().clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, x.contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    weight = (x - low) / (high - low)
    code = torch.zeros(*x.shape, len(bins), dtype=torch.float32, device=x.device)
    code.scatter_(-1, above.unsqueeze(-1), weight.unsqueeze(-1))
    return code.scatter_(-1, (above - 1).unsqueeze(-1), (1 - weight).unsqueeze(-1))


def twohot_mean(probs: Float[Tensor, "*s k"], bins: Float[Tensor, "k"]) -> Float[Tensor, "*s"]:
    """Expectation over mirrored ``bins``; both halves are summed from the centre outwards.

    A plain fp32 sum over bins of up to 4.9e8 does not cancel: a uniform distribution would have a mean of about 1 instead of 0.
    """
    half = len(bins) // 2
    positive = probs[..., half + 1 :] * bins[half + 1 :]
    negative = probs[..., :half].flip(-1) * bins[half + 1 :]
    return (positive - negative).sum(-1)


def reduce_sum(*values: Tensor) -> tuple[Tensor, ...]:
    """Sums of detached scalars over all ranks of the process group; the values themselves where there is none."""
    stacked = torch.stack([value.detach().float() for value in values])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(stacked)
    return tuple(stacked.unbind())


def world_size() -> int:
    """Number of ranks that train together (1 without a process group)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def masked_mean(terms: Float[Tensor, "*s"], mask: Tensor | None = None) -> Float[Tensor, ""]:
    """Mean of ``terms`` where ``mask``, or by the weights in it, over the batches of *all* ranks; 0 where it is empty everywhere.

    Each rank's result is scaled by the number of ranks, so that the average of gradients that data parallelism takes is the gradient
    of one big batch (a mean of rank means would not be, with unequal counts).
    """
    weights = torch.ones_like(terms) if mask is None else mask.to(terms.dtype).expand_as(terms)
    (count,) = reduce_sum(weights.sum())
    return (terms * weights).sum() * world_size() / count.clamp(min=1.0)


class RunningRMS(nn.Module):
    """Running root mean square of named loss terms over all ranks; a term divided by it has a size of about 1.

    ``rms^2 <- decay rms^2 + (1 - decay) x^2`` with bias correction (Dreamer 4, section 3.1: loss terms are normalised by it).
    """

    square: Tensor
    weight: Tensor

    def __init__(self, names: list[str], decay: float = 0.99):
        super().__init__()
        self.names, self.decay = names, decay
        self.register_buffer("square", torch.zeros(len(names)))
        self.register_buffer("weight", torch.zeros(len(names)))

    def forward(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Divides each scalar term by its running RMS; in training mode the statistics take the terms in first.

        A term that is exactly 0 (an empty mask) leaves its statistics alone.
        """
        if set(terms) != set(self.names):
            raise ValueError(f"RunningRMS: terms {sorted(terms)}, expected {sorted(self.names)}")
        if self.training:
            values = torch.stack(reduce_sum(*(terms[name] for name in self.names))) / world_size()
            rate = (values != 0).float() * (1 - self.decay)
            self.square.lerp_(values.square(), rate)
            self.weight.lerp_(torch.ones_like(rate), rate)
        rms = (self.square / self.weight.clamp(min=1e-8)).sqrt().clamp(min=1e-8)
        rms = torch.where(self.weight > 0, rms, torch.ones_like(rms))
        return {name: terms[name] / rms[i] for i, name in enumerate(self.names)}
