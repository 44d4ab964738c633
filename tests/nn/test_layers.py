"""RMSNorm, rotary codes, sine grids, SwiGLU and the heads' MLP."""

import pytest
import torch
from torch.nn import functional as F

from dreamer_ray.nn.layers import EPS, MLP, SwiGLU, rms_norm, rotary_code, rotate, sine_grid


def test_rotation_depends_on_the_difference_of_positions_only():
    q, k = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        return float(rotate(q, rotary_code(torch.tensor([i]), 8)) @ rotate(k, rotary_code(torch.tensor([j]), 8)).T)

    assert abs(score(7, 3) - score(4, 0)) < 1e-6
    assert abs(score(5_000_007, 5_000_003) - score(7, 3)) < 1e-6
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_rotation_keeps_lengths_and_position_zero_is_the_identity():
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    rotated = rotate(x, rotary_code(torch.arange(5), 8))
    assert torch.allclose(rotated.norm(dim=-1), x.norm(dim=-1), atol=1e-6)
    assert torch.equal(rotated[:, 0], x[:, 0])


def test_rotary_angles_are_position_times_falling_frequencies():
    code = rotary_code(torch.tensor([3]), 4)
    angles = 3 * torch.tensor([1.0, 1e4**-0.5])
    assert torch.allclose(code[0], torch.stack([angles.cos(), angles.sin()], -1), atol=1e-6)


def test_rotation_turns_neighbouring_numbers():
    x, angles = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 3 * torch.tensor([1.0, 1e4**-0.5])
    (c, d), (s, u) = angles.cos(), angles.sin()
    assert torch.allclose(
        rotate(x, rotary_code(torch.tensor([3]), 4)), torch.stack([c - 2 * s, 2 * c + s, 3 * d - 4 * u, 4 * d + 3 * u])[None]
    )


def test_rotation_is_the_same_where_there_are_no_complex_numbers():
    x, code = torch.randn(3, 5, 8), rotary_code(torch.arange(5), 8)
    assert torch.equal(rotate(x.bfloat16(), code), rotate(x.bfloat16().float(), code).bfloat16())


@pytest.mark.parametrize("weight", [(6,), (4, 6)])
def test_rms_norm_and_its_gradients_are_pytorchs(weight):
    x, scale = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True), torch.rand(weight, dtype=torch.float64, requires_grad=True)
    y, expected = rms_norm(x, scale), F.rms_norm(x, (6,), None, EPS) * scale
    assert torch.allclose(y, expected, atol=1e-12)
    assert all(
        torch.allclose(*pair, atol=1e-12)
        for pair in zip(torch.autograd.grad(y.sin().sum(), (x, scale)), torch.autograd.grad(expected.sin().sum(), (x, scale)), strict=True)
    )
    with torch.no_grad():
        assert torch.allclose(rms_norm(x, scale), y, atol=1e-12)
        assert torch.allclose(rms_norm(1e-3 * x, scale), F.rms_norm(1e-3 * x, (6,), None, EPS) * scale, atol=1e-12)
        assert torch.allclose(rms_norm(x.bfloat16(), scale.bfloat16()).double(), y, atol=0.05)


def test_swiglu_formula():
    layer, x = SwiGLU(4, 6), torch.randn(2, 4)
    gate, value = x @ layer.gate.weight.T, x @ layer.up.weight.T
    assert torch.allclose(layer(x), (F.silu(gate) * value) @ layer.down.weight.T, atol=1e-6)


def test_mlp_starts_at_zero_with_an_output_scale_of_zero():
    assert torch.equal(MLP(4, 3, hidden=8, layers=2, output_scale=0.0)(torch.randn(5, 4)), torch.zeros(5, 3))
    assert MLP(4, 3, hidden=8, layers=0)(torch.randn(5, 4)).abs().sum() > 0


def test_sine_grid_gives_every_cell_its_own_code_and_equal_places_equal_codes():
    grid = sine_grid(3, 4, 18)
    assert grid.shape == (12, 18)
    assert torch.cdist(grid, grid).fill_diagonal_(9).min() > 0.1
    centre_of_nine, centre_of_one = sine_grid(3, 3, 16)[4], sine_grid(1, 1, 16)[0]
    assert torch.allclose(centre_of_nine, centre_of_one, atol=1e-6)
