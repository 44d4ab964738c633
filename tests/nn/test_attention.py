"""Attention: grouped queries, soft-cap, masks and the ring cache."""

import pytest
import torch

from dreamer_ray.nn.attention import Attention, RingCache, attend, flex_attend
from dreamer_ray.nn.layers import rotary_code


def _qkv(heads=4, kv_heads=2, length=5, width=6, dtype=torch.float64):
    return (
        torch.randn(3, heads, length, width, dtype=dtype),
        torch.randn(3, kv_heads, length, width, dtype=dtype),
        torch.randn(3, kv_heads, length, width, dtype=dtype),
    )


def _causal(length=5):
    return torch.ones(length, length, dtype=torch.bool).tril().view(1, 1, length, length)


@pytest.mark.parametrize("soft_cap", [None, 50.0, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_grouped_queries_equal_repeated_keys_and_values(soft_cap, masked):
    q, k, v = _qkv()
    mask = _causal() if masked else None
    grouped = attend(q, k, v, mask=mask, soft_cap=soft_cap)
    full = attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), mask=mask, soft_cap=soft_cap)
    assert torch.allclose(grouped, full, atol=1e-12)


@pytest.mark.parametrize("soft_cap", [None, 50.0])
def test_grouped_attention_module_equals_multi_head_with_repeated_projections(soft_cap):
    grouped = Attention(16, heads=4, kv_heads=2, soft_cap=soft_cap).double()
    full = Attention(16, heads=4, kv_heads=4, soft_cap=soft_cap).double()
    weights = grouped.state_dict()
    for name in ("key.weight", "value.weight"):
        weights[name] = weights[name].unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    full.load_state_dict(weights)
    x, rotary = torch.randn(2, 3, 7, 16, dtype=torch.float64), rotary_code(torch.arange(7), 4).unsqueeze(1)

    def attended(module: Attention) -> torch.Tensor:
        q, k, v = (part.transpose(-2, -3) for part in module.project(x, rotary))
        return module.output(attend(q, k, v, mask=_causal(7), soft_cap=soft_cap).transpose(-2, -3).flatten(-2))

    assert torch.allclose(attended(grouped), attended(full), atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_a_huge_soft_cap_is_no_soft_cap(masked):
    q, k, v = _qkv()
    mask = _causal() if masked else None
    assert torch.allclose(attend(q, k, v, mask=mask, soft_cap=1e6), attend(q, k, v, mask=mask, soft_cap=None), atol=1e-8)


def test_soft_cap_is_cap_times_tanh_of_logits():
    q, k, v = (x[0, 0] for x in _qkv(kv_heads=4))
    logits = 2.0 * torch.tanh(10 * q @ k.T / 2.0)
    expected = logits.softmax(-1) @ v
    found = attend(10 * q[None, None], k[None, None], v[None, None], mask=None, soft_cap=2.0)[0, 0]
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("soft_cap", [None, 50.0])
def test_masked_positions_have_no_weight(soft_cap):
    q, k, v = _qkv()
    before = attend(q, k, v, mask=_causal(), soft_cap=soft_cap)
    k[:, :, 3:], v[:, :, 3:] = torch.randn_like(k[:, :, 3:]), 1e6
    after = attend(q, k, v, mask=_causal(), soft_cap=soft_cap)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.allclose(before[:, :, 3:], after[:, :, 3:])


def test_query_key_norm_makes_the_size_of_the_input_irrelevant_to_the_weights():
    module = Attention(16, heads=4, kv_heads=2).double()
    x = torch.randn(1, 1, 5, 16, dtype=torch.float64)
    q, k, v = module.project(x, None)
    q2, k2, v2 = module.project(100 * x, None)
    assert torch.allclose(q, q2, atol=1e-4)
    assert torch.allclose(k, k2, atol=1e-4)
    assert torch.allclose(100 * v, v2)


def test_queries_are_scaled_by_the_root_of_their_width():
    module = Attention(16, heads=4, kv_heads=2).double()
    q, k, _ = module.project(torch.randn(1, 3, 5, 16, dtype=torch.float64), None)
    assert torch.allclose(q.norm(dim=-1), torch.ones(1, 3, 5, 4).double(), atol=1e-4)
    assert torch.allclose(k.norm(dim=-1), 2 * torch.ones(1, 3, 5, 2).double(), atol=1e-4)


@pytest.mark.parametrize(("width", "heads", "kv_heads"), [(15, 4, 2), (16, 4, 3), (12, 4, 2)])
def test_sizes_that_do_not_divide_are_refused(width, heads, kv_heads):
    with pytest.raises(ValueError, match=str(width)):
        Attention(width, heads=heads, kv_heads=kv_heads)


def test_ring_keeps_the_last_frames_in_their_slots():
    keys = torch.arange(7.0).view(1, 1, 1, 7, 1).expand(2, 3, 1, 7, 1)
    ring = RingCache(torch.full((4, 2, 1, 3, 1), -1.0), torch.full((4, 2, 1, 3, 1), -1.0))
    ring.fill(keys, 10 * keys)
    assert ring.keys[0, 0, 0, :, 0].tolist() == [6.0, 4.0, 5.0]
    assert ring.values[2, 1, 0, :, 0].tolist() == [60.0, 40.0, 50.0]
    assert bool((ring.keys[3] == -1).all())
    ring.write(torch.full((2, 1, 3, 1, 1), 9.0), torch.full((2, 1, 3, 1, 1), 90.0), torch.tensor([[1], [2]]))
    assert ring.keys[0, 0, 0, :, 0].tolist() == [6.0, 9.0, 5.0]
    assert ring.values[0, 1, 0, :, 0].tolist() == [60.0, 40.0, 90.0]


@pytest.mark.parametrize("masked", ["not", "all alike", "by rows"])
def test_flex_attention_is_the_same(masked):
    q, k, v = (torch.randn(2, 3, heads, 5, 8) for heads in (4, 2, 2))
    rows = torch.tensor([True, False]).view(2, 1, 1, 1, 1)
    mask = {"not": None, "all alike": _causal()[0], "by rows": _causal() & (rows | torch.eye(5, dtype=torch.bool))}[masked]
    found = flex_attend(20 * q, k, v, mask=mask, soft_cap=2.0)
    assert torch.allclose(found, attend(20 * q, k, v, mask=mask, soft_cap=2.0), atol=1e-5)
