"""Random numbers for the rows of a batch, each row from its own seed: a dream depends neither on its neighbours nor on its row."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class RandomStreams:
    """A stream of random numbers for each row."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self.rows = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def restart(self, row: int, seed: int) -> None:
        """Row ``row`` begins the stream of ``seed``."""
        self.rows[row].manual_seed(seed)

    def normal(self, *shape: int, rows: Sequence[int] | None = None) -> Float[Tensor, "b *s"]:
        """Standard normal numbers, ``shape`` for each of ``rows`` (all)."""
        chosen = self.rows if rows is None else [self.rows[row] for row in rows]
        return torch.stack([torch.randn(shape, generator=row, device=row.device) for row in chosen])

    def uniform(self, *shape: int) -> Float[Tensor, "b *s"]:
        """Numbers uniform over [0, 1), ``shape`` for each row."""
        return torch.stack([torch.rand(shape, generator=row, device=row.device) for row in self.rows])
