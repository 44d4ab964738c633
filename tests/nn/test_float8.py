"""Products of eight-bit numbers beside exact ones."""

import pytest
import torch

from dreamer_ray.nn.float8 import Float8Matrix


def test_a_product_is_exact_but_for_rounding_at_any_scale_of_rows_and_columns():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 64, generator=generator) * torch.tensor([1e-4, 1e-2, 1.0, 1e2, 1e4]).unsqueeze(1)
    weights = torch.randn(64, 32, generator=generator) * torch.logspace(-5, 5, 32)
    matrix = Float8Matrix(64, 32, torch.device("cpu"))
    matrix.copy_(weights)
    found, exact = matrix.product(x).double(), x.double() @ weights.double()
    size = x.norm(dim=1).double().outer(weights.norm(dim=0).double())
    assert ((found - exact).abs() / size).max() < 0.03
    assert ((found - exact).abs() / size).mean() > 1e-4  # rounded indeed


def test_numbers_that_eight_bits_hold_multiply_exactly():
    x = torch.tensor([[448.0, 1.5, -0.25, 0.0] * 4])
    matrix = Float8Matrix(16, 16, torch.device("cpu"))
    matrix.copy_(448 * torch.eye(16))
    assert torch.equal(matrix.product(x).float(), 448 * x)


def test_a_row_and_a_column_of_zeros_give_zeros():
    matrix = Float8Matrix(16, 16, torch.device("cpu"))
    matrix.copy_(torch.zeros(16, 16))
    assert torch.equal(matrix.product(torch.zeros(2, 16)).float(), torch.zeros(2, 16))


def test_new_weights_come_into_the_same_memory():
    matrix = Float8Matrix(16, 32, torch.device("cpu"))
    before = [tensor.data_ptr() for tensor in matrix.tensors()]
    matrix.copy_(torch.randn(16, 32))
    assert [tensor.data_ptr() for tensor in matrix.tensors()] == before
    assert matrix.values.element_size() == 1


def test_sides_that_kernels_cannot_take_are_refused():
    with pytest.raises(ValueError, match="24 x 16: both sides must be multiples of 16"):
        Float8Matrix(24, 16, torch.device("cpu"))
