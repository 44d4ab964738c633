"""Weights laid out for inference give the products of their layers, whatever the layout, and follow them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dreamer_ray.nn.columns import Columns
from dreamer_ray.nn.packed import PackedColumns

LAYOUTS = [Columns, PackedColumns]
WIDTH, SIDES = 24, (40, 8, 16)


def _layers(*, frozen: bool = True) -> list[nn.Linear]:
    return [nn.Linear(WIDTH, side, bias=False).requires_grad_(not frozen) for side in SIDES]


def _exact(layers, x):
    return torch.cat([layer(x) for layer in layers], -1).detach()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 13, 64])
@torch.no_grad()
def test_products_are_those_of_the_layers(layout, rows):
    layers, x, other = _layers(), torch.randn(rows, WIDTH), torch.randn(rows, sum(SIDES))
    columns, exact = layout(*layers), _exact(layers, x)
    for found, wanted in (
        (columns.product(x), exact),
        (columns.added(x, other), other + exact),
        (columns.silu(x), F.silu(exact)),
        (columns.times(x, other), other * exact),
    ):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("frozen", [True, False])
@torch.no_grad()
def test_changed_weights_are_those_of_the_next_product_after_a_refresh(layout, frozen):
    layers, x = _layers(frozen=frozen), torch.randn(5, WIDTH)
    columns = layout(*layers)
    for layer in layers:
        layer.load_state_dict({"weight": torch.randn_like(layer.weight)})
        columns.refresh()
        assert torch.allclose(columns.product(x), _exact(layers, x), rtol=1e-4, atol=1e-5)


def test_weights_that_have_not_changed_are_not_packed_again():
    columns = PackedColumns(*_layers())
    (before,) = columns.tensors()
    columns.refresh()
    assert columns.tensors()[0] is before
    assert before.numel() == WIDTH * sum(SIDES)


def test_weights_that_a_fused_optimiser_changed_are_packed_again():
    layers, x = _layers(frozen=False), torch.randn(5, WIDTH)
    columns = PackedColumns(*layers)
    optimizer = torch.optim.AdamW([layer.weight for layer in layers], lr=0.1, fused=True)
    sum(layer(x).square().sum() for layer in layers).backward()
    optimizer.step()
    with torch.no_grad():
        columns.refresh()
        assert torch.allclose(columns.product(x), _exact(layers, x), rtol=1e-4, atol=1e-5)
        for layer in layers:
            layer.requires_grad_(False)
            layer.weight.mul_(2)
        columns.refresh()
        assert torch.allclose(columns.product(x), _exact(layers, x), rtol=1e-4, atol=1e-5)


def test_frozen_weights_live_in_the_columns_and_trained_ones_do_not():
    frozen, trained = _layers(), _layers(frozen=False)
    memory = [Columns(*layers).weights.untyped_storage().data_ptr() for layers in (frozen, trained)]
    assert {layer.weight.untyped_storage().data_ptr() for layer in frozen} == {memory[0]}
    assert memory[1] not in {layer.weight.untyped_storage().data_ptr() for layer in trained}


@pytest.mark.parametrize(("after", "others"), [("none", 0), ("swish", 0), ("add", 1), ("mul", 1)])
def test_compiled_code_knows_packed_weights_by_their_number(after, others):
    columns, x = PackedColumns(*_layers()), torch.randn(5, WIDTH)
    other = torch.randn(5, sum(SIDES)) if others else None
    given = (x, columns.number, after, other, sum(SIDES))
    torch.library.opcheck(torch.ops.dreamer_ray.packed_linear, given)
    assert torch.equal(torch.ops.dreamer_ray.packed_linear(*given), columns.run(x, after, other))


def test_only_fp32_on_a_cpu_is_packed():
    assert PackedColumns.serves(torch.zeros(1))
    assert not PackedColumns.serves(torch.zeros(1, dtype=torch.bfloat16))
    assert not PackedColumns.serves(torch.zeros(1, dtype=torch.float64))
    assert not PackedColumns.serves(torch.zeros(1, device="meta"))
