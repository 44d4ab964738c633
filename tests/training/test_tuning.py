"""The switches for speed and memory: the same formulas, other rounding."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamer_ray.nn.layers import RMSNorm
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.training.parallel import Tuning, tune

CPU = torch.device("cpu")


@pytest.fixture
def phase(tiny):
    return DynamicsPretraining(tiny.dynamics(), ForcingConfig(bootstrap_fraction=0.25, bootstrap_after=0.0, image_fraction=0.25))


def _gradients(phase, clip, tuning):
    phase = copy.deepcopy(phase)
    tune(phase, tuning)
    with tuning.autocast(CPU):
        loss = phase(clip, generator=torch.Generator().manual_seed(0), progress=0.5)
    loss.total.backward()
    return loss.metrics["shortcut"], {name: p.grad for name, p in phase.named_parameters() if p.grad is not None}


def test_recomputed_blocks_have_the_same_gradients_and_keep_less(tiny, phase):
    clip, kept = tiny.clip(4, 6), {}

    def numbers(tensor):
        kept[name] = kept.get(name, 0) + tensor.numel()
        return tensor

    found = {}
    for name, tuning in (("plain", Tuning()), ("recomputed", Tuning(recompute=True))):
        with torch.autograd.graph.saved_tensors_hooks(numbers, lambda tensor: tensor):
            found[name] = _gradients(phase, clip, tuning)
    (loss, plain), (same, recomputed) = found.values()
    assert torch.equal(loss, same)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(value, recomputed[name]) for name, value in plain.items())
    assert kept["recomputed"] < kept["plain"] / 3


def test_low_precision_leaves_weights_norms_and_the_flow_head_as_they_are(tiny, phase):
    clip, seen = tiny.clip(4, 6), {"norm": set(), "flow head": set(), "product": set()}
    for module in phase.modules():
        if isinstance(module, RMSNorm):
            module.register_forward_hook(lambda _, __, y: seen["norm"].add(y.dtype))
    phase.dynamics.predict.register_forward_hook(lambda _, __, y: seen["flow head"].add(y.dtype))
    phase.dynamics.transformer.blocks[0].mlp.gate.register_forward_hook(lambda _, __, y: seen["product"].add(y.dtype))
    loss, plain = _gradients(phase, clip, Tuning())
    assert seen == {kind: {torch.float32} for kind in seen}
    seen["product"].clear()
    rough, gradients = _gradients(phase, clip, Tuning(precision="bf16"))
    assert seen == {"norm": {torch.float32}, "flow head": {torch.float32}, "product": {torch.bfloat16}}
    assert rough.dtype == torch.float32
    assert 0 < abs(float(rough - loss)) < 0.02 * float(loss)
    assert all(value.dtype == torch.float32 for value in gradients.values())
    flat, other = (torch.cat([g.flatten() for g in gs.values()]) for gs in (plain, gradients))
    assert torch.cosine_similarity(flat, other, dim=0) > 0.99


COMPILED = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from conftest import make_clip, make_dynamics
os.environ.pop("TORCHDYNAMO_DISABLE")  # conftest's
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.training.parallel import Tuning, tune
losses = []
for tuning in (Tuning(), Tuning(compile=True, recompute=True)):
    phase = DynamicsPretraining(make_dynamics(), ForcingConfig(bootstrap_fraction=0.25, bootstrap_after=0.0, image_fraction=0.25))
    tune(phase, tuning)
    optimizer = torch.optim.SGD(phase.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        loss = phase(make_clip(4, 6, seed=step), generator=torch.Generator().manual_seed(step), progress=0.5)
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.metrics["shortcut"]))
print(*losses, torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_blocks_train_as_the_others():
    """In a process of its own: tests run without compilation."""
    folder = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", COMPILED, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *losses, graphs = map(float, done.stdout.split()[-7:])
    assert losses[3:] == pytest.approx(losses[:3], rel=1e-4)
    assert graphs > 0
