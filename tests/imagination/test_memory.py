"""What a dream keeps in memory is what the engine says, and neither time nor length changes it."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.models.actions import no_actions

SIZES = {"width": 64, "layers": 8, "heads": 4, "kv_heads": 2, "time_every": 4, "context": 8}


def _most_held(job, folder) -> int:
    """The most bytes that ``job`` held at once of those that it took itself."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        job()
    profiled.export_chrome_trace(str(folder / "trace.json"))
    events = [e for e in json.loads((folder / "trace.json").read_text())["traceEvents"] if e["name"] == "[memory]"]
    held = torch.tensor([event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]).cumsum(0)
    assert len(held) > 100
    return int(held.max())


@pytest.mark.parametrize("slots", [1, 16])
@pytest.mark.parametrize(("whole", "mlp_ratio"), [(False, 1.0), (False, 4.0), (True, 4.0)])
def test_a_dream_holds_what_the_engine_says(tiny, tmp_path, slots, whole, mlp_ratio):
    sizes = SIZES | {"mlp_ratio": mlp_ratio}
    agent, tokenizer = (
        tiny.agent(transformer=sizes, registers=12).requires_grad_(False),
        tiny.tokenizer(decoder=sizes).requires_grad_(False),
    )
    dynamics, models = agent.dynamics, {"agent": agent, "tokenizer": tokenizer} if whole else {}
    engine, actions = DreamEngine(dynamics, slots=slots, **models), no_actions(dynamics.actions.space, slots, "cpu")
    engine.join(tiny.clip(slots, 4), list(range(slots)))
    tensors = [tensor for model in models.values() or [dynamics] for tensor in model.parameters()]
    tensors += [tensor for cache in (engine.cache, engine.decoder_cache) if cache is not None for tensor in cache.tensors()]
    transformers = [dynamics.transformer, *([tokenizer.decoder] if whole else [])]
    tensors += [tensor for transformer in transformers for tensor in transformer.laid_out()]
    kept = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    engine.dream(actions)
    held = _most_held(lambda: engine.dream(actions, sampling=Sampling(steps=4)), tmp_path)
    assert kept + held == pytest.approx(engine.memory(), rel=0.1)
    assert held == pytest.approx(engine.memory() - kept, rel=0.5)
