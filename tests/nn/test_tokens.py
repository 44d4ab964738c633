"""The token layout and its masks."""

import pytest

from dreamer_ray.nn.tokens import TokenLayout


def test_slices_and_mask_follow_the_kinds():
    layout = TokenLayout({"a": 2, "none": 0, "b": 1})
    assert layout.total == 3
    assert (layout.slice("a"), layout.slice("none"), layout.slice("b")) == (slice(0, 2), slice(2, 2), slice(2, 3))
    assert layout.mask({"a": {"a"}, "b": {"a", "b"}}).int().tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_unknown_kind_is_refused_by_name():
    with pytest.raises(KeyError, match="zebra"):
        TokenLayout({"a": 2}).slice("zebra")
