"""Models over more rows than go through them at once."""

import pytest
import torch
from torch import nn

from dreamer_ray.evaluation.passes import ROWS, in_passes
from dreamer_ray.types import Annotations, LatentClip


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


def test_rows_of_a_batch_go_together():
    rows = 2 * ROWS + 3
    numbers = torch.arange(rows)
    whether, known = numbers % 2 == 0, torch.ones(rows, 1)
    notes = Annotations({"move": numbers[:, None]}, known.bool(), rewards=known, continues=known, task=numbers, relevant=whether)
    clip = LatentClip(numbers[:, None, None, None].float(), notes)
    found = in_passes(
        nn.Linear(1, 1), lambda some, x: torch.stack([some.latents[:, 0, 0, 0], some.notes.task.float(), x], 1), clip, numbers
    )
    assert torch.equal(found, numbers.float()[:, None].expand(-1, 3))
