"""Batches through Ray Data: the very batches of the plan, in order, from any step on."""

import os
import threading
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


@pytest.mark.timeout(900)
def test_loaders_that_are_killed_cost_no_batch_and_give_none_twice(local_ray, toy, monkeypatch, descendants):
    monkeypatch.setattr(batches, "WINDOW_BYTES", 5_000_000)
    folder, recipe, ended, killed = toy[0], load_config(Recipe, RECIPE), threading.Event(), set()

    def kill() -> None:
        while not ended.wait(0.05) and len(killed) < 3:
            for each in descendants(os.getpid()):
                if each not in killed and each.called("MapBatches(read)"):
                    each.kill()
                    killed.add(each)

    killer, wanted, step = threading.Thread(target=kill), feed("tokenizer", recipe, folder), 0
    killer.start()
    try:
        for batch in stream("tokenizer", recipe, folder, steps=60, rank=1, world=2)(0):
            assert same(batch, wanted.load(step, rank=1, world=2))
            step += 1
    finally:
        ended.set()
        killer.join()
    assert step == 60
    assert len(killed) == 3


def test_packing_keeps_every_tensor(tiny):
    clip = tiny.clip(3, 4)
    assert same(unpack(pack(clip)), clip)
    frames = Clip(torch.randint(0, 256, (3, 4, 6, 5, 3), dtype=torch.uint8), clip.notes)
    assert same(unpack(pack(frames)), frames)
    assert not same(frames, Clip(frames.frames.flip(0), clip.notes))
