"""The switches for the speed of dreams: the same formulas, other rounding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamer_ray.errors import UserError
from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.imagination.tuning import DreamTuning, tune_dreams

CONTEXT, FRAMES, PLAIN = 6, 5, DreamTuning()


def _dreamed(tiny, tuning=PLAIN, *, device="cpu", agent=True, commit=True, compiled=None):
    """Frames of three worlds of which one joins later; actions are given, so that rounding cannot choose others."""
    acting, tokenizer = models = tiny.agent().to(device), tiny.tokenizer().to(device)
    sampling = Sampling(steps=2, commit=commit)
    for model in models:
        tune_dreams(model, tuning)
    for transformer in (acting.dynamics.transformer, tokenizer.decoder):
        transformer.compiled = compiled
        for attention in transformer.attentions():
            with torch.no_grad():
                attention.query_norm.weight.uniform_(0.5, 2.0, generator=torch.Generator(device).manual_seed(0))
    engine = DreamEngine(acting.dynamics, slots=3, agent=acting if agent else None, tokenizer=tokenizer, graph=tuning.graph)
    context, actions, frames = tiny.clip(3, CONTEXT).to(device), tiny.actions(3, 2 * FRAMES, seed=4), []
    engine.join(context.rows(slice(0, 2)), [1, 2], sampling=sampling)
    for t in range(2 * FRAMES):
        if t == FRAMES:
            engine.join(context.rows(slice(2, 3)), [3], sampling=sampling)
        frame = engine.dream({name: value[:, t].to(device) for name, value in actions.items()}, sampling=sampling)
        frames.append(frame.rows(slice(0, 2 if t < FRAMES else 3)))
    return engine, frames


def _difference(frames, others):
    return max(float((a.latents - b.latents).abs().max()) for a, b in zip(frames, others, strict=True))


@pytest.mark.parametrize(("precision", "close"), [("bf16", 0.1), ("fp8", 0.5)])
def test_low_precision_is_that_of_transformers_and_caches_alone(tiny, precision, close):
    _, plain = _dreamed(tiny)
    engine, rough = _dreamed(tiny, DreamTuning(precision=precision))
    assert {ring.keys.dtype for cache in (engine.cache, engine.decoder_cache) for ring in cache.rings} == {torch.bfloat16}
    assert {p.dtype for p in engine.dynamics.transformer.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in engine.agent.policy.parameters()} == {engine.dynamics.predict.weight.dtype} == {torch.float32}
    assert all(tensor.dtype == torch.float32 for tensor in rough[-1].tensors() if tensor.is_floating_point())
    assert 0 < _difference(plain[:1], rough[:1]) < close
    flat = [torch.cat([frame.latents.flatten() for frame in frames]) for frames in (plain, rough)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.98


def test_eight_bits_are_those_of_products_and_differ_from_bf16(tiny):
    _, rough = _dreamed(tiny, DreamTuning(precision="bf16"))
    engine, rougher = _dreamed(tiny, DreamTuning(precision="fp8"))
    assert _difference(rough[:1], rougher[:1]) > 0
    transformer = engine.dynamics.transformer
    rounded = [tensor for tensor in transformer.laid_out() if tensor.dtype == torch.float8_e4m3fn]
    products = sum(p.numel() for block in transformer.blocks for p in block.parameters() if p.ndim == 2)
    assert sum(tensor.numel() for tensor in rounded) == products
    tune_dreams(engine.dynamics, PLAIN)
    engine.dynamics.new_cache(1)
    assert {tensor.dtype for tensor in transformer.laid_out()} <= {torch.bfloat16}


def test_eight_bits_are_refused_where_no_kernel_takes_the_widths(tiny):
    odd = tiny.dynamics(transformer={"width": 24, "heads": 2, "kv_heads": 2})
    with pytest.raises(UserError, match=r"precision = fp8: .* side of 24, no multiple of 16; use bf16"):
        tune_dreams(odd, DreamTuning(precision="fp8"))


def test_passes_are_compiled_as_the_switches_say(tiny):
    dynamics = tiny.dynamics()
    for compile_, graph, found in ((False, False, None), (True, False, "whole"), (True, True, "blocks"), (False, True, None)):
        tune_dreams(dynamics, DreamTuning(compile=compile_, graph=graph))
        assert dynamics.transformer.compiled == found


def test_a_cpu_takes_of_a_gpus_switches_what_it_can_do():
    switches = DreamTuning(precision="fp8", compile=True, graph=True)
    assert switches.on("cuda") is switches
    assert switches.on("cpu") == DreamTuning(precision="bf16", compile=True)
    assert DreamTuning(precision="bf16").on("cpu") == DreamTuning(precision="bf16")


def test_a_graph_without_a_gpu_is_refused(tiny):
    with pytest.raises(UserError, match="needs a GPU, and the model is on cpu"):
        DreamEngine(tiny.dynamics(), slots=1, graph=True)


COMPILED = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
import conftest
os.environ.pop("TORCHDYNAMO_DISABLE")  # conftest's
from imagination.test_tuning import _difference, _dreamed
from torch._dynamo.utils import counters
for agent, commit in ((True, True), (False, True), (True, False)):
    plain, *others = (_dreamed(conftest.Tiny(), agent=agent, commit=commit, compiled=c)[1] for c in (None, "whole", "blocks"))
    print(*(_difference(plain, frames) for frames in others))
print(counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_passes_dream_the_same():
    """In a process of its own: tests run without compilation, and with shapes checked by code that cannot be compiled."""
    command, unchecked = [sys.executable, "-c", COMPILED, str(Path(__file__).parents[1])], os.environ | {"JAXTYPING_DISABLE": "1"}
    done = subprocess.run(command, env=unchecked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *differences, graphs = map(float, done.stdout.split()[-7:])
    assert max(differences) < 1e-4
    # Whole: the dynamics with and without agent tokens and of two frames at once, the decoder. The same by blocks, one for each axis.
    assert graphs == 4 + 2 * 4


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [None, "blocks"])
@pytest.mark.parametrize(("agent", "commit"), [(True, True), (False, True), (True, False)])
def test_a_recorded_frame_is_the_frame(tiny, agent, commit, compiled):
    """Frames stay where they are made until the end, so that a replay that overwrites an earlier one is seen."""
    kinds = {"device": "cuda", "agent": agent, "commit": commit}
    _, plain = _dreamed(tiny, **kinds)
    _, recorded = _dreamed(tiny, DreamTuning(graph=True), compiled=compiled, **kinds)
    for frame, other in zip(plain, recorded, strict=True):
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(frame.tensors(), other.tensors(), strict=True))
