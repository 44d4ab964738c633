"""Sets of latents: half precision, bound to their tokenizer, with the statistics of every number."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamer_ray.data.clips import ClipRef, read_clip
from dreamer_ray.data.latents import commit_latents, latent_schema, open_latents, write_latents
from dreamer_ray.errors import UserError
from dreamer_ray.types import LatentClip

SHAPE = (4, 3)
LENGTHS = [5, 8, 3]


@pytest.fixture
def written(tmp_path, sets):
    """A folder of latents and the values that went in."""
    rng, schema = np.random.default_rng(0), latent_schema(sets.schema, *SHAPE)
    scale, shift = rng.uniform(0.1, 2, SHAPE), rng.normal(size=SHAPE)
    values = [(rng.normal(size=(length, *SHAPE)) * scale + shift).astype(np.float16) for length in LENGTHS]
    episodes = [replace(sets.episode(f"e{i}", len(v), first=i, events=[(1, 2)]), frames=v) for i, v in enumerate(values)]
    files = [write_latents(tmp_path, "a.parquet", episodes[:2], schema), write_latents(tmp_path, "b.parquet", episodes[2:], schema)]
    commit_latents(tmp_path, schema, files, made_by={"stage": "test"}, parents={"tokenizer": "aaaa", "shards": "bbbb"})
    return tmp_path, episodes


def test_statistics_are_those_of_all_frames_of_all_files(written):
    folder, episodes = written
    found = open_latents(folder, tokenizer_fingerprint="aaaa")
    everything = np.concatenate([e.frames for e in episodes]).astype(np.float64)
    assert found.mean.shape == found.std.shape == SHAPE
    assert found.mean.dtype == found.std.dtype == torch.float32
    np.testing.assert_allclose(found.mean.numpy(), everything.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.std.numpy(), everything.std(0), rtol=1e-4)


def test_a_clip_of_latents_needs_no_pictures(written):
    folder, episodes = written
    found = open_latents(folder, tokenizer_fingerprint="aaaa")
    clip = read_clip(found, [ClipRef(1, 2, 3, task=2, relevant=False, label=True), ClipRef(0, 0, 3, task=2, relevant=True, label=False)])
    assert isinstance(clip, LatentClip)
    assert clip.latents.dtype == torch.float32
    np.testing.assert_array_equal(clip.latents.numpy(), np.stack([episodes[1].frames[2:5], episodes[0].frames[:3]]).astype(np.float32))
    np.testing.assert_array_equal(clip.notes.actions["mouse"][0].numpy(), episodes[1].actions["mouse"][2:5])
    assert clip.notes.rewards.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert clip.notes.labelled.tolist() == [[True] * 3, [False] * 3]


def test_latents_of_another_tokenizer_are_refused_by_name(written):
    with pytest.raises(UserError, match=r"tokenizer aaaa.*is cccc.*--from encode"):
        open_latents(written[0], tokenizer_fingerprint="cccc")


def test_pictures_are_not_latents(tmp_path, sets):
    sets.make(tmp_path, [4, 5])
    with pytest.raises(UserError, match=r"tokenizer None.*--from encode"):
        open_latents(tmp_path, tokenizer_fingerprint="aaaa")


@pytest.mark.parametrize("statistics", [None, {}, {"mean": [[0.0]], "std": [[1.0]]}, {"mean": "x", "std": [[1.0]]}])
def test_statistics_that_do_not_fit(written, statistics):
    path = written[0] / "manifest.json"
    values = json.loads(path.read_text())
    values["made_by"]["statistics"] = statistics
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="statistics"):
        open_latents(written[0], tokenizer_fingerprint="aaaa")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_committed(tmp_path, sets, value):
    schema = latent_schema(sets.schema, *SHAPE)
    frames = np.zeros((4, *SHAPE), np.float16)
    frames[1, 2, 0] = value
    file = write_latents(tmp_path, "a.parquet", [replace(sets.episode("e", 4), frames=frames)], schema)
    with pytest.raises(UserError, match=r"not finite.*--from tokenizer"):
        commit_latents(tmp_path, schema, [file], made_by={}, parents={"tokenizer": "aaaa"})
    assert not (tmp_path / "manifest.json").exists()
