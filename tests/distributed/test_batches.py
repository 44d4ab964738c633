"""Batches through Ray Data: the very batches of the plan, in order, from any step on."""

from pathlib import Path

import pytest
import torch

from dreamer_ray.config_file import load_config
from dreamer_ray.distributed import batches
from dreamer_ray.distributed.batches import pack, stream, unpack
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import feed
from dreamer_ray.types import Clip

RECIPE = Path(__file__).parents[2] / "configs/crafter/toy.yaml"


def tensors(batch) -> dict:
    notes = vars(batch.notes)
    return notes["actions"] | {name: value for name, value in (notes | vars(batch)).items() if isinstance(value, torch.Tensor)}


def same(a, b) -> bool:
    found, wanted = tensors(a), tensors(b)
    return type(a) is type(b) and found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("stage", "first", "steps"), [("tokenizer", 37, 60), ("dynamics", 0, 24)])
def test_the_stream_is_the_plan_from_any_step(local_ray, toy, monkeypatch, stage, first, steps):
    monkeypatch.setattr(batches, "WINDOW_BYTES", 5_000_000)
    folder, _ = toy
    recipe = load_config(Recipe, RECIPE)
    for rank in (0, 1):
        wanted, step = feed(stage, recipe, folder), first
        for batch in stream(stage, recipe, folder, steps=steps, rank=rank, world=2)(first):
            assert same(batch, wanted.load(step, rank=rank, world=2))
            step += 1
        assert step == steps


def test_packing_keeps_every_tensor(tiny):
    clip = tiny.clip(3, 4)
    assert same(unpack(pack(clip)), clip)
    frames = Clip(torch.randint(0, 256, (3, 4, 6, 5, 3), dtype=torch.uint8), clip.notes)
    assert same(unpack(pack(frames)), frames)
    assert not same(frames, Clip(frames.frames.flip(0), clip.notes))
