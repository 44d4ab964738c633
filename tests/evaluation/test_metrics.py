"""Picture figures against hand-made cases and an independent implementation; trivial predictors against their definition."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from dreamer_ray.evaluation.metrics import block_averages, changed_tiles, lite0_distance, psnr, ssim
from dreamer_ray.objectives.lpips import perceptual_distance


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_of_the_whole_set_not_the_mean_of_each():
    truth = torch.zeros(2, 4, 4, 3)
    wrong = truth.clone()
    wrong[0] += 0.1
    assert psnr(wrong[:1], truth[:1]) == pytest.approx(20, abs=1e-5)
    assert psnr(wrong, truth) == pytest.approx(20 + 10 * math.log10(2), abs=1e-5)
    assert psnr(truth, truth) == math.inf


def ssim_by_scipy(pictures: torch.Tensor, truth: torch.Tensor) -> float:
    def local(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 1.5, axes=(1, 2), radius=5)[:, 5:-5, 5:-5]

    a, b = pictures.double().numpy(), truth.double().numpy()
    means, spreads = local(a) * local(b), local(a * a) + local(b * b) - local(a) ** 2 - local(b) ** 2
    up = (2 * means + 0.01**2) * (2 * (local(a * b) - means) + 0.03**2)
    return float((up / ((local(a) ** 2 + local(b) ** 2 + 0.01**2) * (spreads + 0.03**2))).mean())


def test_ssim_agrees_with_another_implementation_inside_the_picture():
    truth = pictures(18, 24, 40)
    for noise in (0.02, 0.1, 0.5):
        other = (truth + noise * (pictures(18, 24, 40, seed=1) - 0.5)).clamp(0, 1)
        assert ssim(other, truth) == pytest.approx(ssim_by_scipy(other, truth), abs=1e-6)
    light, dark = torch.full((1, 12, 12, 3), 0.6), torch.full((1, 12, 12, 3), 0.3)
    assert ssim(light, dark) == pytest.approx((2 * 0.6 * 0.3 + 1e-4) / (0.36 + 0.09 + 1e-4), abs=1e-6)
    assert ssim(truth, truth) == pytest.approx(1)
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(truth[:, :8], truth[:, :8])


def test_the_perceptual_distance_is_the_mean_over_all_pictures_however_many_at_once():
    truth = pictures(20, 24, 40)
    other = truth.clone()
    other[17:] = truth[17:].mean((1, 2), keepdim=True)
    found, network = lite0_distance(other, truth), perceptual_distance("lite0")
    with torch.no_grad():
        alone = network(other[17:].permute(0, 3, 1, 2), truth[17:].permute(0, 3, 1, 2))
    assert found == pytest.approx(float(alone.sum()) / 20, rel=1e-4)
    assert found > 0
    assert lite0_distance(truth, truth) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("numbers", "cells"), [(256, 9), (242, 8), (243, 9), (432, 12), (3, 1), (1, 1), (10**6, 72)])
def test_block_averages_hold_at_most_the_given_numbers(numbers, cells):
    truth = pictures(2, 72, 72)
    blocks = block_averages(truth, numbers)
    assert blocks.shape == truth.shape
    side = 72 // cells
    assert torch.equal(blocks, blocks[:, ::side, ::side].repeat_interleave(side, 1).repeat_interleave(side, 2))
    assert len(blocks[0].reshape(-1, 3).unique(dim=0)) == cells**2
    torch.testing.assert_close(blocks[1, :side, -side:].mean((0, 1)), truth[1, :side, -side:].mean((0, 1)))


def test_block_averages_take_the_best_grid_not_the_finest():
    tiles = pictures(2, 9, 9).repeat_interleave(8, 1).repeat_interleave(8, 2)
    torch.testing.assert_close(block_averages(tiles, 3 * 12 * 12), tiles)


def test_a_tile_counts_as_changed_by_any_pixel_of_any_colour():
    before = pictures(2, 5, 16, 24)
    after = before.clone()
    after[1, 3, 15, 8, 2] += 0.01
    mask = changed_tiles(before, after, 8)
    expected = torch.zeros(2, 5, 16, 24, 1, dtype=torch.bool)
    expected[1, 3, 8:, 8:16] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(("shape", "numbers", "grid"), [((36, 64), 3 * 9 * 16, (9, 16)), ((36, 64), 300, (6, 8)), ((7, 11), 1000, (7, 11))])
def test_blocks_of_wide_pictures_are_as_square_as_they_can_be(shape, numbers, grid):
    truth = pictures(2, *shape)
    blocks = block_averages(truth, numbers)
    assert blocks.shape == truth.shape
    assert len(blocks[0].reshape(-1, 3).unique(dim=0)) == grid[0] * grid[1]


def test_tiles_that_do_not_divide_a_picture_are_smaller_at_its_end():
    before = pictures(1, 2, 10, 13)
    after = before.clone()
    after[0, 1, 9, 12, 0] += 0.01
    expected = torch.zeros(1, 2, 10, 13, 1, dtype=torch.bool)
    expected[0, 1, 8:, 12:] = True
    assert torch.equal(changed_tiles(before, after, 4), expected)
