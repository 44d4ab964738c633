"""The tokens of a frame, in their order, and which kind may attend to which."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """Kinds of tokens in the order in which they stand in a frame, with their counts."""

    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Tokens a frame."""
        return sum(self.counts.values())

    def slice(self, kind: str) -> slice:
        """Where the tokens of ``kind`` stand."""
        start = 0
        for name, count in self.counts.items():
            if name == kind:
                return slice(start, start + count)
            start += count
        raise KeyError(f"token kind {kind!r}; the layout has {list(self.counts)}")

    def mask(self, sees: Mapping[str, set[str]]) -> Bool[Tensor, "n n"]:
        """``mask[i, j]``: token i attends to token j, by the kinds that each kind ``sees``."""
        allowed = torch.zeros(self.total, self.total, dtype=torch.bool)
        for kind, targets in sees.items():
            for target in targets:
                allowed[self.slice(kind), self.slice(target)] = True
        return allowed
