"""Models over more rows than go through them at once."""

import pytest
import torch
from torch import nn

from dreamer_ray.evaluation.passes import ROWS, in_passes


@pytest.mark.parametrize("rows", [1, ROWS, 2 * ROWS + 3])
def test_passes_are_bounded_and_joined_in_order(rows):
    model, seen = nn.Linear(2, 3), []

    def of(x, y):
        seen.append(len(x))
        return model(x) + y

    x, y = torch.randn(rows, 2), torch.randn(rows, 3)
    found = in_passes(model, of, x, y)
    assert torch.allclose(found, model(x) + y, atol=1e-6)
    assert not found.requires_grad
    assert sum(seen) == rows
    assert max(seen) <= ROWS
