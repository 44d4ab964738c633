"""Masked autoencoding: the law of the mask, and the squared error."""

import pytest
import torch
from scipy.stats import kstest

from dreamer_ray.objectives.reconstruction import draw_mask, squared_error


@pytest.mark.parametrize("mask_max", [0.9, 0.5])
def test_each_picture_draws_its_own_share_uniformly(mask_max):
    masked = draw_mask((30, 20, 2000), mask_max, torch.Generator().manual_seed(0))
    share = masked.float().mean(-1).flatten()
    assert kstest(share.numpy() / mask_max, "uniform").pvalue > 0.01
    assert float(share.max()) < mask_max + 0.03
    assert float(masked.float().mean(-1).std(1).min()) > 0.1


def test_patches_of_a_picture_are_masked_on_their_own():
    masked = draw_mask((400, 10, 16), 0.9, torch.Generator().manual_seed(0)).flatten(0, 1)
    by_patch = masked.float().mean(0)
    assert torch.allclose(by_patch, torch.full((16,), 0.45), atol=0.04)
    assert len(masked.unique(dim=0)) > 1500


def test_a_maximum_of_zero_masks_nothing():
    assert not draw_mask((4, 5, 6), 0.0, torch.Generator()).any()


def test_squared_error_is_the_mean_over_a_pictures_numbers():
    frames, decoded = torch.zeros(2, 3, 4, 5, 3), torch.zeros(2, 3, 4, 5, 3)
    decoded[1, 2, 0, 0, 0] = 6.0
    expected = torch.zeros(2, 3)
    expected[1, 2] = 36 / 60
    assert torch.allclose(squared_error(decoded, frames), expected)
