"""Sets of ours as sources of another run: which side, which frames, what is known of them, and what is no such set."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreamer_ray.data import ingest
from dreamer_ray.data.codecs import H264
from dreamer_ray.data.crafter import RecordConfig
from dreamer_ray.data.crafter_files import commit_recording, record_jobs, write_episodes
from dreamer_ray.data.ingest import ingest_plan, make_file
from dreamer_ray.data.ingest_report import Tally
from dreamer_ray.data.open_source import open_sources
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.data.shards import ShardSet, open_shards
from dreamer_ray.errors import UserError

LENGTHS = {"a.mp4": 60, "b.mp4": 30, "c.mp4": 45, "d.mp4": 20}
COLUMNS = "frame: frame\nactions:\n  keys: {kind: binary, columns: [left, jump]}\nevents: {coin: coins}\n"
SIDES = ("train", "heldout")


def config(*sources: dict, **options) -> RecordingsConfig:
    entries = [{"source": source} for source in sources]
    values = {"sources": entries, "layout": {"shape": [48, 64]}, "episode_frames": 25, "heldout": 0.4} | options
    return RecordingsConfig.model_validate_json(json.dumps(values))


def made(values: RecordingsConfig, folder: Path) -> dict[str, ShardSet]:
    plan, sources = ingest_plan(values), open_sources(values)
    tally = Tally(plan)
    for number, job in enumerate(plan.jobs):
        tally.add(number, make_file(values, sources[job.source], plan.schema, job, folder / job.split))
    assert not tally.bad
    tally.commit(values, folder)
    return {side: open_shards(folder / side) for side in SIDES}


def shards(path: Path) -> dict:
    return {"kind": "shards", "path": str(path)}


@pytest.fixture
def films(tmp_path, videos) -> dict:
    (tmp_path / "in").mkdir()
    for name, length in LENGTHS.items():
        videos.write(tmp_path / "in" / name, length)
        rows = [f"{t},{t % 2},{(t // 2) % 2},{int(t % 10 == 9)}" for t in range(length)]
        (tmp_path / "in" / name).with_suffix(".csv").write_text("\n".join(["frame,left,jump,coins", *rows]) + "\n")
    (tmp_path / "in" / "actions.yaml").write_text(COLUMNS)
    return {"kind": "videos", "path": str(tmp_path / "in")}


@pytest.fixture
def first(tmp_path, films) -> dict[str, ShardSet]:
    return made(config(films), tmp_path / "one" / "record")


def content(found: ShardSet, videos) -> list[tuple[int, ...]]:
    """What the frames of the episodes show, and what is known of them."""
    rows = []
    for index in range(len(found.episodes)):
        episode = found.read_episode(index)
        shown = [videos.number(frame) for frame in episode.frames]
        rows += zip(shown, *episode.actions["keys"].T.tolist(), episode.events[:, 0].tolist(), episode.labelled.tolist(), strict=True)
    return rows


def no_work(*_, **__):
    raise AssertionError("nothing is to be decoded or compressed")


def test_a_set_is_taken_over_by_another_run_side_by_side_without_decoding(tmp_path, first, videos, monkeypatch):
    wanted = {side: content(found, videos) for side, found in first.items()}
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "code_pictures", no_work)
        second = made(config(shards(tmp_path / "one" / "record"), seed=7), tmp_path / "two" / "record")
    assert {side: content(found, videos) for side, found in second.items()} == wanted
    assert second["train"].schema == first["train"].schema
    for side in SIDES:
        payloads = [[found.rows(i).coded.payload for i in range(len(found.episodes))] for found in (first[side], second[side])]
        assert payloads[0] == payloads[1]
        assert [episode.info["from"] for episode in second[side].episodes] == [episode.name for episode in first[side].episodes]
        assert {episode.info["group"] for episode in second[side].episodes} == {
            episode.info["recording"] for episode in first[side].episodes
        }


@pytest.mark.parametrize("change", [{"fps": 10.0}, {"layout": {"shape": [24, 32]}}, {"codec": {"kind": "png"}}, {"episode_frames": 9}])
def test_a_set_of_other_pictures_is_decoded_and_brought_to_what_is_wanted(tmp_path, first, videos, change):
    values = config(shards(tmp_path / "one" / "record"), **change)
    if "fps" in change:
        with pytest.raises(UserError, match=r"record holds actions at 20 frames a second, and 10 are wanted; .*labelled_fraction: 0"):
            ingest_plan(values)
        values = values.model_copy(
            update={"sources": tuple(entry.model_copy(update={"labelled_fraction": 0.0}) for entry in values.sources)}
        )
    second = made(values, tmp_path / "two")
    step = 2 if "fps" in change else 1
    for side in SIDES:
        numbers = [videos.number(frame) for i in range(len(second[side].episodes)) for frame in second[side].each_frame(i)]
        before = [[videos.number(frame) for frame in first[side].each_frame(i)] for i in range(len(first[side].episodes))]
        assert numbers == [number for episode in before for number in episode[::step]]
    assert second["train"].schema.fps == change.get("fps", 20)
    assert second["train"].schema.frame_shape == tuple(change.get("layout", {"shape": (48, 64)})["shape"])
    assert second["train"].lengths.max() <= change.get("episode_frames", 25)


def test_a_set_is_mixed_with_other_sources(tmp_path, first, videos):
    (tmp_path / "plain").mkdir()
    for name in ("x.mp4", "y.mp4"):
        videos.write(tmp_path / "plain" / name, 30)
    plain = {"kind": "videos", "path": str(tmp_path / "plain")}
    found = made(config(plain, shards(tmp_path / "one" / "record")), tmp_path / "two")["train"]
    labelled = {
        number: [found.rows(i).labelled.all() for i, e in enumerate(found.episodes) if e.info["source"] == number] for number in (0, 1)
    }
    assert not any(labelled[0]) and labelled[0]
    assert all(labelled[1]) and len(labelled[1]) == len(first["train"].episodes)
    assert [(note.kind, note.place) for note in found.manifest.origin.sources][1] == ("shards", str(tmp_path / "one" / "record"))


def test_what_was_recorded_together_stays_on_one_side_of_a_set_that_is_divided_anew(tmp_path, films, videos):
    (tmp_path / "in" / "walk").mkdir()
    for name in ("p.mp4", "q.mp4", "r.mp4"):
        videos.write(tmp_path / "in" / "walk" / name, 20)
    made(config(films | {"group": "folder"}, heldout=0.5), tmp_path / "one")
    side = max(SIDES, key=lambda side: len({e.info["recording"] for e in open_shards(tmp_path / "one" / side).episodes}))
    recordings = {str(e.info["recording"]): e.info.get("group") for e in open_shards(tmp_path / "one" / side).episodes}
    assert len(set(recordings.values())) == 1 and len(recordings) > 1
    with pytest.raises(UserError, match=r"recordings are of one group"):
        ingest_plan(config(shards(tmp_path / "one" / side)))


def test_one_side_alone_is_divided_anew_by_recording(tmp_path, first, videos):
    second = made(config(shards(tmp_path / "one" / "record" / "train")), tmp_path / "two")
    groups = [{episode.info["group"] for episode in second[side].episodes} for side in SIDES]
    assert groups[0].isdisjoint(groups[1]) and all(groups)
    assert groups[0] | groups[1] == {episode.info["recording"] for episode in first["train"].episodes}


def test_a_run_may_be_named_in_place_of_its_recordings(tmp_path, first):
    files = {tuple(job.recording.files) for job in ingest_plan(config(shards(tmp_path / "one"))).jobs}
    assert files == {tuple(job.recording.files) for job in ingest_plan(config(shards(tmp_path / "one" / "record"))).jobs}


def test_labels_that_were_withheld_stay_so(tmp_path, films, videos):
    values = config(films)
    values = values.model_copy(update={"sources": tuple(entry.model_copy(update={"labelled_fraction": 0.5}) for entry in values.sources)})
    one = made(values, tmp_path / "one")["train"]
    two = made(config(shards(tmp_path / "one")), tmp_path / "two")["train"]
    known = [one.rows(i).labelled.any() for i in range(len(one.episodes))]
    assert [two.rows(i).labelled.any() for i in range(len(two.episodes))] == known
    assert 0 < sum(known) < len(known)


def test_files_are_taken_over_again_only_where_they_have_changed(tmp_path, films, videos):
    values = config(shards(tmp_path / "one"))
    made(config(films), tmp_path / "one")
    made(values, tmp_path / "two")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("*/*.parquet")}
    videos.write(tmp_path / "in" / "a.mp4", 50)
    (tmp_path / "in" / "a.csv").unlink()
    made(config(films), tmp_path / "one")
    made(values, tmp_path / "two")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("*/*.parquet")}
    assert {name for name in after if after[name] != before[name]} == {next(name for name in after if "a.mp4" in name)}


def test_what_was_played_in_crafter_is_such_a_set(tmp_path):
    played = RecordConfig(episodes=6, holdout_episodes=2, length=12, size=36)
    files, jobs = record_jobs(played, tmp_path / "one")
    for job in jobs:
        files[job.split].append(write_episodes(played, tmp_path / "one", job))
    commit_recording(played, tmp_path / "one", files)
    one = {side: open_shards(tmp_path / "one" / side) for side in SIDES}
    values = config(shards(tmp_path / "one"), layout={"shape": list(one["train"].schema.frame_shape)}, codec={"kind": "png"})
    two = made(values, tmp_path / "two")
    for side in SIDES:
        assert [e.info["from"] for e in two[side].episodes] == [e.name for e in one[side].episodes]
        for index in range(len(one[side].episodes)):
            a, b = one[side].read_episode(index), two[side].read_episode(index)
            np.testing.assert_array_equal(a.frames, b.frames)
            np.testing.assert_array_equal(a.actions["action"], b.actions["action"])
            np.testing.assert_array_equal(a.events, b.events)
            np.testing.assert_array_equal(a.continues, b.continues)
    packed = made(values.model_copy(update={"codec": H264()}), tmp_path / "three")
    assert packed["train"].schema.codec == "h264"
    assert packed["train"].lengths.tolist() == one["train"].lengths.tolist()


def test_a_damaged_file_of_a_set_costs_itself(tmp_path, first):
    file = tmp_path / "one" / "record" / "train" / first["train"].files[0].name
    data = bytearray(file.read_bytes())
    data[data.index(first["train"].rows(0).coded.payload[2]) + 3] ^= 1
    file.write_bytes(data)
    values = config(shards(tmp_path / "one" / "record"))
    plan = ingest_plan(values)
    job = next(job for job in plan.jobs if job.recording.files == (str(file),))
    found = make_file(values, open_sources(values)[0], plan.schema, job, tmp_path / "two")
    assert isinstance(found, str)
    assert f"{file}: is damaged, or was written anew since: its manifest has another SHA-256" in found
    assert not list((tmp_path / "two").glob("*"))


def test_what_is_no_set_is_refused_with_the_remedy(tmp_path, first):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        ingest_plan(config(shards(tmp_path / "empty")))
    (tmp_path / "one" / "record" / "heldout" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"heldout: has no manifest\.json, so the stage that makes it has not finished"):
        ingest_plan(config(shards(tmp_path / "one" / "record")))
    with pytest.raises(UserError, match=r"kind shards: its frames are taken over as they are wherever.*choose codec\.kind = h264"):
        ingest_plan(config(shards(tmp_path / "one" / "record" / "train"), codec={"kind": "source"}))
    with pytest.raises(UserError, match=r"s3://x/record: recordings of kind shards are read from a folder"):
        ingest_plan(config({"kind": "shards", "path": "s3://x/record"}))


@pytest.mark.parametrize("unlabelled_first", [False, True])
def test_one_number_is_one_action_in_a_set_and_beside_it(tmp_path, films, unlabelled_first):
    (tmp_path / "in" / "actions.yaml").unlink()
    first = [films | {"fps": 10.0}] if unlabelled_first else []
    path = Path(__file__).parent / "lerobot_v3"
    arm = {"kind": "lerobot", "path": str(path), "camera": "observation.images.top"}
    made(config(*first, arm), tmp_path / "one" / "record")
    assert ingest_plan(config(shards(tmp_path / "one"), arm)).jobs
    size = open_sources(config(arm))[0].action_space["action"].size
    with pytest.raises(UserError, match=r"sources\.1: its action of low: \[-99,"):
        ingest_plan(config(shards(tmp_path / "one"), arm | {"low": [-99.0] * size, "high": [99.0] * size}))
