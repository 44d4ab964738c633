"""Products of eight-bit numbers beside exact ones."""

import pytest
import torch
from torch import nn

from dreamer_ray.nn.float8 import Float8Columns


def _columns(weights: torch.Tensor) -> Float8Columns:
    """Of one layer with ``weights [d k]``."""
    layer = nn.Linear(*weights.shape, bias=False).requires_grad_(False)
    layer.weight.copy_(weights.t())
    return Float8Columns(layer)


def test_a_product_is_exact_but_for_rounding_at_any_scale_of_rows_and_columns():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 64, generator=generator) * torch.tensor([1e-4, 1e-2, 1.0, 1e2, 1e4]).unsqueeze(1)
    weights = torch.randn(64, 32, generator=generator) * torch.logspace(-5, 5, 32)
    found, exact = _columns(weights).product(x).double(), x.double() @ weights.double()
    size = x.norm(dim=1).double().outer(weights.norm(dim=0).double())
    assert ((found - exact).abs() / size).max() < 0.03
    assert ((found - exact).abs() / size).mean() > 1e-4  # rounded indeed


def test_numbers_that_eight_bits_hold_multiply_exactly():
    x = torch.tensor([[448.0, 1.5, -0.25, 0.0] * 4])
    assert torch.equal(_columns(448 * torch.eye(16)).product(x), 448 * x)


def test_a_row_and_a_column_of_zeros_give_zeros():
    assert torch.equal(_columns(torch.zeros(16, 16)).product(torch.zeros(2, 16)), torch.zeros(2, 16))


def test_new_weights_come_into_the_same_memory():
    columns, x = _columns(torch.randn(16, 32)), torch.randn(3, 16)
    before, memory = columns.product(x), [tensor.data_ptr() for tensor in columns.tensors()]
    columns.layers[0].weight.mul_(2)
    columns.refresh()
    assert torch.equal(columns.product(x), 2 * before)
    assert [tensor.data_ptr() for tensor in columns.tensors()] == memory
    assert columns.values.element_size() == 1


def test_sides_that_kernels_cannot_take_are_refused():
    with pytest.raises(ValueError, match="24 x 16: both sides must be multiples of 16"):
        _columns(torch.zeros(24, 16))
