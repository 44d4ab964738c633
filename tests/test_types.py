"""Nouns on their way between devices."""

import pytest
import torch


@pytest.mark.gpu
def test_what_comes_from_a_gpu_is_there_when_the_call_returns(tiny):
    clip = tiny.clip(64, 64)
    busy = torch.randn(8192, 8192, device="cuda")
    for _ in range(20):
        busy = busy @ busy / 8192
    late = clip.to("cuda").map(lambda tensor: (tensor.double() + 0 * busy[0, 0].nan_to_num()).to(tensor.dtype))
    moved = late.to("cpu")
    assert all(torch.equal(found, expected) for found, expected in zip(moved.tensors(), clip.tensors(), strict=True))
