"""From recordings to shards, without Ray: what is planned, written, left out, done again and refused."""

import json
import os
import shutil
import threading
import tracemalloc
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from pydantic import ValidationError

from dreamer_ray.data import ingest
from dreamer_ray.data.ingest import IngestPlan, Job, ingest_plan, make_file
from dreamer_ray.data.ingest_report import Tally, hardly, summary
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.open_source import open_source
from dreamer_ray.data.recordings import Png, RecordingsConfig
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.shards import EpisodeEntry, ShardFile, ShardSet, open_shards
from dreamer_ray.data.sources import Recording
from dreamer_ray.data.splits import Split
from dreamer_ray.data.video import pictures
from dreamer_ray.data.vpt import VptConfig
from dreamer_ray.errors import UserError
from dreamer_ray.types import Binary

LUANTI, LEROBOT = Path(__file__).parent / "luanti", Path(__file__).parent / "lerobot_v3"
SAMPLES = os.environ.get("DREAMER_RAY_SAMPLES", "")
COLUMNS = "frame: frame\nactions:\n  keys: {kind: binary, columns: [left, jump]}\nevents: {coin: coins}\n"
SPLITS: tuple[Split, ...] = ("train", "heldout")


def config(*sources: dict, **options) -> RecordingsConfig:
    values = {"sources": list(sources), "layout": {"shape": [48, 64]}, "episode_frames": 25} | options
    return RecordingsConfig.model_validate_json(json.dumps(values))


def folder_of(path: Path, **entry) -> dict:
    return {"source": {"kind": "videos", "path": str(path)}} | entry


def luanti(**entry) -> dict:
    return {"source": {"kind": "vpt", "path": str(LUANTI), "tasks": {"dig_dirt": "mine_block:*dirt*"}}} | entry


def films(folder: Path, videos, lengths: dict[str, int], *, labelled: bool = False, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, length in lengths.items():
        videos.write(folder / name, length, **options)
        if labelled:
            rows = [f"{t},{t % 2},{(t // 2) % 2},{int(t % 10 == 9)}" for t in range(length)]
            (folder / name).with_suffix(".csv").write_text("\n".join(["frame,left,jump,coins", *rows]) + "\n")
    if labelled:
        (folder / "actions.yaml").write_text(COLUMNS)
    return folder


def do(values: RecordingsConfig, folder: Path) -> tuple[IngestPlan, Tally]:
    """The work of the stage, here."""
    plan = ingest_plan(values)
    tally, sources = Tally(plan), [open_source(entry.source) for entry in values.entries()]
    for number, job in enumerate(plan.jobs):
        tally.add(number, make_file(values, sources[job.source], plan.schema, job, folder / job.split))
    return plan, tally


def made(values: RecordingsConfig, folder: Path) -> dict[Split, ShardSet]:
    _, tally = do(values, folder)
    tally.commit(values, folder)
    return {split: open_shards(folder / split) for split in SPLITS}


def numbers(found: ShardSet, videos) -> dict[str, list[int]]:
    """What the frames of each recording show, episode by episode."""
    shown: dict[str, list[int]] = {}
    for index, episode in enumerate(found.episodes):
        shown.setdefault(str(episode.info["recording"]), []).extend(videos.number(frame) for frame in found.each_frame(index))
    return shown


@pytest.mark.parametrize("codec", ["h264", "jpeg", "png", "source", "link"])
def test_a_folder_of_videos_becomes_two_sets_that_hold_each_frame_once(tmp_path, videos, codec):
    lengths = {"a.mp4": 60, "b.mp4": 30, "c.mp4": 61, "d.mp4": 12}
    found = made(config(folder_of(films(tmp_path / "in", videos, lengths)), codec={"kind": codec}), tmp_path / "out")
    shown = [numbers(found[split], videos) for split in SPLITS]
    assert set(shown[0]).isdisjoint(shown[1])
    assert shown[0] | shown[1] == {name: list(range(length)) for name, length in lengths.items()}
    assert all(set_.lengths.max() <= 25 for set_ in found.values())
    assert found["train"].schema.codec == ("h264" if codec == "source" else codec)
    assert found["train"].schema.fps == pytest.approx(20)


def test_actions_and_events_stay_with_their_frames(tmp_path, videos):
    folder = films(tmp_path / "in", videos, {"a.mp4": 60, "b.mp4": 30, "c.mp4": 40}, labelled=True)
    for set_ in made(config(folder_of(folder)), tmp_path / "out").values():
        assert set_.schema.action_space == {"keys": Binary(size=2)}
        assert set_.schema.tasks == ("coin",)
        for index in range(len(set_.episodes)):
            episode = set_.read_episode(index)
            shown = np.array([videos.number(frame) for frame in episode.frames])
            np.testing.assert_array_equal(episode.actions["keys"], np.stack([shown % 2, shown // 2 % 2], 1))
            np.testing.assert_array_equal(episode.events[:, 0], shown % 10 == 9)
            assert episode.labelled.all()


def test_a_single_recording_is_divided_in_time_and_the_set_says_so(tmp_path, videos):
    values = config(folder_of(films(tmp_path / "in", videos, {"a.mp4": 100})), heldout=0.2, heldout_gap=7, episode_frames=30)
    found = made(values, tmp_path / "out")
    assert numbers(found["train"], videos) == {"a.mp4": list(range(73))}
    assert numbers(found["heldout"], videos) == {"a.mp4": list(range(80, 100))}
    assert [set_.manifest.origin.notes for set_ in found.values()] == [found["train"].manifest.origin.notes] * 2
    assert (
        "a.mp4 is the only recording of its source: its last 20% in time is held out, after a gap of 7 frames"
        in found["train"].manifest.origin.notes[0]
    )


def test_the_first_recordings_of_a_source_may_be_all_that_is_taken(tmp_path, videos):
    folder = films(tmp_path / "in", videos, {f"{i}.mp4": 12 for i in range(5)})
    sides = []
    for first in (None, 3, 9):
        plan = ingest_plan(config(folder_of(folder, recordings=first), heldout=0.3))
        assert [job.recording.name for job in plan.jobs] == [f"{i}.mp4" for i in range(3 if first == 3 else 5)]
        assert any("sources[0]: the first 3 of its 5 recordings" in note for note in plan.notes) == (first == 3)
        sides.append([job.split for job in plan.jobs])
    assert sides[0] == sides[2]
    alone = ingest_plan(config(folder_of(folder, recordings=1), heldout=0.3))
    assert [job.part for job in alone.jobs] == ["begin", "end"], "a single recording is divided in time"


def test_at_half_the_rate_every_second_frame_is_kept(tmp_path, videos):
    values = config(folder_of(films(tmp_path / "in", videos, {"a.mp4": 40, "b.mp4": 21})), fps=10.0)
    found = made(values, tmp_path / "out")
    shown = numbers(found["train"], videos) | numbers(found["heldout"], videos)
    assert shown == {"a.mp4": list(range(0, 40, 2)), "b.mp4": list(range(0, 21, 2))}
    assert found["train"].schema.fps == 10


def test_the_luanti_recording_with_videos_that_have_no_actions(tmp_path, videos):
    plain = films(tmp_path / "in", videos, {"a.mp4": 40, "b.mp4": 30})
    values = config(luanti(share=0.75), folder_of(plain, share=0.25), heldout=0.2, layout={"shape": [36, 64]}, episode_frames=200)
    found = made(values, tmp_path / "out")
    train = found["train"]
    by_source = {number: [i for i, e in enumerate(train.episodes) if e.info["source"] == number] for number in (0, 1)}
    assert all(train.rows(i).labelled.all() for i in by_source[0])
    assert not any(train.rows(i).labelled.any() or train.rows(i).events.any() for i in by_source[1])
    assert [(note.kind, note.share) for note in train.manifest.origin.sources] == [("vpt", 0.75), ("videos", 0.25)]
    assert train.manifest.origin.dropped == {"frames of server lag above 200 ms": 1}
    assert found["heldout"].manifest.origin.dropped == {}
    assert train.manifest.origin.layout == values.layout
    first = next(pictures(str(next(LUANTI.glob("*.mp4"))), layout=values.layout))
    assert np.abs(train.frames(0, slice(0, 1))[0].astype(int) - first).mean() < 6
    assert set(train.episodes[0].info) >= {"segment", "recorder", "source", "recording", "first"}


def test_labels_beyond_the_budget_are_withheld_in_training_only(tmp_path, videos):
    folder = films(tmp_path / "in", videos, {f"{i}.mp4": 30 for i in range(6)}, labelled=True)
    found = made(config(folder_of(folder, labelled_fraction=0.5), heldout=0.3), tmp_path / "out")
    train = found["train"]
    flags = [train.rows(i).labelled.any() for i in range(len(train.episodes))]
    kept = sum(flags)
    assert flags == [True] * kept + [False] * (len(flags) - kept)
    assert 0 < train.lengths[:kept].sum() <= 0.5 * train.lengths.sum() < train.lengths[: kept + 1].sum()
    assert all(found["heldout"].rows(i).labelled.all() for i in range(len(found["heldout"].episodes)))


def test_hours_with_known_actions_are_counted_as_they_are_kept(tmp_path, videos):
    folder = films(tmp_path / "in", videos, {f"{i}.mp4": 40 for i in range(4)}, labelled=True)
    (folder / "1.csv").write_text("\n".join((folder / "1.csv").read_text().splitlines()[:11]) + "\n")
    plain = films(tmp_path / "plain", videos, {"a.mp4": 40, "b.mp4": 30})
    values = config(folder_of(folder, labelled_fraction=0.7), folder_of(plain), episode_frames=20)
    found = made(values, tmp_path / "out")["train"]
    _, tally = do(values, tmp_path / "out")
    wanted = sum(int(found.rows(i).labelled.sum()) for i in range(len(found.episodes))) / 20 / 3600
    labels = tally.labels(values)
    assert labels == {"labelled_hours": [pytest.approx(wanted), 0], "unlabelled": []}
    assert wanted > 0
    lines = summary(tally.report(tmp_path / "out") | labels)
    assert f"hours to train on with known actions: {wanted:.3g} of sources[0], 0 of sources[1]" in lines


def test_a_source_whose_labels_all_get_lost_is_named_with_the_reason(tmp_path, videos):
    folder = films(tmp_path / "in", videos, {f"{i}.mp4": 30 for i in range(3)}, labelled=True)
    values = config(folder_of(folder, labelled_fraction=0.2), episode_frames=30)
    (line,) = do(values, tmp_path / "out")[1].labels(values)["unlabelled"]
    assert "sources[0]: labelled_fraction = 0.2 leave no episode its actions, the first of its 2 episodes has 30 frames; raise" in line
    (folder / "0.csv").rename(folder / "0_actions.csv")
    (folder / "1.csv").unlink()
    (folder / "2.csv").unlink()
    values = config(folder_of(folder), episode_frames=30)
    plan, tally = do(values, tmp_path / "out")
    assert tally.labels(values)["unlabelled"] == ["sources[0]: none of its frames to train on has a known action"]
    assert any("3 of 3 videos, such as 0.mp4, have no table" in note and "0_actions.csv" in note for note in plan.notes)
    assert tally.report(tmp_path / "out")["dropped"]["actions of pictures whose video has no table"] == 90
    withheld = config(folder_of(folder, labelled_fraction=0.0), folder_of(folder))
    assert ingest_plan(withheld).labelled == {1}


# ---- done again


def test_what_is_there_is_not_made_again(tmp_path, videos, monkeypatch):
    folder = films(tmp_path / "in", videos, {f"{i}.mp4": 12 for i in range(5)})
    values = config(folder_of(folder))
    plan, tally = do(values, tmp_path / "out")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert len(written) == 5
    gone = tmp_path / "out" / plan.jobs[2].split / plan.jobs[2].file
    gone.unlink()
    cut_short = tmp_path / "out" / plan.jobs[4].split / plan.jobs[4].file
    cut_short.write_bytes(cut_short.read_bytes()[:-9])
    made_again, real = [], ingest.ingest_recording
    monkeypatch.setattr(ingest, "ingest_recording", lambda *rest: made_again.append(rest[3].recording.name) or real(*rest))
    _, again = do(values, tmp_path / "out")
    assert made_again == ["2.mp4", "4.mp4"]
    assert again.files == tally.files
    assert {path for path, time in written.items() if path.stat().st_mtime_ns != time} == {gone, cut_short}


@pytest.mark.parametrize("change", [{"codec": {"kind": "jpeg"}}, {"episode_frames": 9}, {"layout": {"shape": [24, 32]}}, {"fps": 5.0}])
def test_other_values_make_other_files(tmp_path, videos, change):
    folder = films(tmp_path / "in", videos, {"a.mp4": 12, "b.mp4": 20})
    _, tally = do(config(folder_of(folder)), tmp_path / "out")
    _, again = do(config(folder_of(folder), **change), tmp_path / "out")
    assert all(again.files[number].sha256 != file.sha256 for number, file in tally.files.items())


def test_a_video_that_was_mended_under_its_name_is_made_again(tmp_path, videos):
    folder = films(tmp_path / "in", videos, {f"{i}.mp4": 12 for i in range(3)})
    _, before = do(config(folder_of(folder)), tmp_path / "out")
    videos.write(folder / "1.mp4", 20)
    _, after = do(config(folder_of(folder)), tmp_path / "out")
    assert [file.frames for _, file in sorted(after.files.items())] == [12, 20, 12]
    assert [number for number, file in after.files.items() if file != before.files[number]] == [1]


@pytest.mark.parametrize("change", [("coins", "jump"), ("[left, jump]", "[jump, left]"), ("frame: frame", "time: frame")])
def test_labels_are_read_again_where_their_columns_are_named_anew(tmp_path, videos, change):
    """Also where the schema stays the same: an ingest that went wrong by such a mistake is mended by mending it."""
    folder = films(tmp_path / "in", videos, {"a.mp4": 30, "b.mp4": 30}, labelled=True)
    _, before = do(config(folder_of(folder)), tmp_path / "out")
    (folder / "actions.yaml").write_text("# a remark\n" + COLUMNS)
    _, same = do(config(folder_of(folder)), tmp_path / "out")
    assert same.files == before.files
    (folder / "actions.yaml").write_text(COLUMNS.replace(*change))
    _, after = do(config(folder_of(folder)), tmp_path / "out")
    assert all(after.files[number].sha256 != file.sha256 for number, file in before.files.items())


def test_other_statistics_of_a_robot_scale_its_actions_anew(tmp_path):
    shutil.copytree(LEROBOT, tmp_path / "in")
    values = config({"source": {"kind": "lerobot", "path": str(tmp_path / "in"), "camera": "observation.images.top"}}, heldout=0.5)
    _, before = do(values, tmp_path / "out")
    stats = tmp_path / "in" / "meta" / "stats.json"
    found = json.loads(stats.read_text())
    found["action"]["max"] = [2 * highest for highest in found["action"]["max"]]
    stats.write_text(json.dumps(found))
    _, after = do(values, tmp_path / "out")
    assert before.files and not before.bad
    assert all(after.files[number].sha256 != file.sha256 for number, file in before.files.items())


def test_a_second_folder_of_a_source_costs_its_own_recordings_only(tmp_path, videos, monkeypatch):
    folders = [str(played(tmp_path / name, videos, first=first)) for name, first in (("one", 0), ("two", 5))]
    do(config({"source": {"kind": "vpt", "path": folders[0]}}), tmp_path / "out")
    made_again, real = [], ingest.ingest_recording
    monkeypatch.setattr(ingest, "ingest_recording", lambda *rest: made_again.append(rest[3].recording.files[0]) or real(*rest))
    do(config({"source": {"kind": "vpt", "path": folders}}), tmp_path / "out")
    assert len(made_again) == 3
    assert all(file.startswith(folders[1]) for file in made_again)


# ---- bad recordings


def test_a_bad_recording_costs_itself_and_is_named(tmp_path, videos):
    folder = films(tmp_path / "in", videos, {f"{i}.mp4": 30 for i in range(5)}, front=True)
    raw = (folder / "1.mp4").read_bytes()
    (folder / "1.mp4").write_bytes(raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))
    (folder / "3.mp4").write_bytes(b"no video")
    _, tally = do(config(folder_of(folder), max_bad_fraction=0.5), tmp_path / "out")
    report = tally.report(tmp_path / "out")
    assert [entry["recording"] for entry in report["bad"]] == ["1.mp4", "3.mp4"]
    assert all(entry["recording"] in entry["reason"] for entry in report["bad"])
    assert (report["recordings"], report["files"], report["frames"]) == (5, 3, 90)
    assert report["bytes_per_hour"] == pytest.approx(report["bytes"] * 3600 * 20 / 90)
    lines = "\n".join(summary(report))
    assert "bad: 3.mp4: " in lines
    assert "MiB an hour" in lines
    assert not [path for path in (tmp_path / "out").rglob("*") if "1.mp4" in path.name or "3.mp4" in path.name]
    json.dumps(report)
    tally.refuse_rotten(0.4, tmp_path, begun=5)
    with pytest.raises(UserError, match=r"2 of 5 recordings.*max_bad_fraction = 0\.39.*1\.mp4: .*3\.mp4: .*mend the source"):
        tally.refuse_rotten(0.39, tmp_path, begun=5)


@pytest.mark.parametrize("kind", ["h264", "source"])
def test_each_file_of_a_recording_that_lies_elsewhere_is_fetched_once(tmp_path, kind):
    asked: Counter[str] = Counter()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked[self.path.rpartition(".")[2]] += 1
            super().do_GET()

        def log_message(self, format, *args):  # noqa: A002
            pass

    stem = next(LUANTI.glob("*.mp4")).stem
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(LUANTI)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    files = tuple(f"http://127.0.0.1:{server.server_port}/{stem}{suffix}" for suffix in (".mp4", ".jsonl"))
    values = config({"source": {"kind": "vpt", "path": str(LUANTI), "cursor": False}}, codec={"kind": kind}, layout={"shape": [36, 64]})
    job = Job(0, Recording("a", "a", files), "train", "whole")
    made = make_file(values, open_source(values.entries()[0].source), ingest_plan(values).schema, job, tmp_path)
    server.shutdown()
    assert isinstance(made, ShardFile) and made.frames > 100
    assert asked == {"mp4": 1, "jsonl": 1}


def test_what_was_mended_is_in_the_account_also_of_files_that_were_there(tmp_path):
    values = config(luanti(), heldout=0.2, layout={"shape": [36, 64]}, episode_frames=200)
    for _ in range(2):
        _, tally = do(values, tmp_path)
        lines = [line for line in summary(tally.report(tmp_path)) if line.startswith("mended or kept: ")]
        assert lines == ["mended or kept: 23 frames whose action does nothing, kept"], "one recording, though it is two files"


def test_a_set_in_which_nothing_was_mended_has_the_fingerprint_that_it_always_had():
    file = ShardFile(name="a.parquet", sha256="", episodes=())
    assert "mended" not in file.model_dump() and "mended" not in file.model_dump_json()
    mended = file.model_copy(update={"mended": {"frames": 3}})
    assert ShardFile.model_validate_json(mended.model_dump_json()) == mended


def test_the_summary_of_many_bad_recordings_names_the_first_and_counts_the_others(tmp_path):
    tally = Tally(jobs_of(50), bad={number: f"reason {number}" for number in range(50)})
    lines = summary(tally.report(tmp_path))
    assert [line for line in lines if "bad: " in line] == [f"bad: r{number}: reason {number}" for number in range(20)]
    assert "and 30 more such recordings, all in record/report.json" in lines


def jobs_of(count: int) -> IngestPlan:
    schema = ShardSchema(codec="png", frame_shape=(4, 6), action_space={}, tasks=(), fps=20.0)
    return IngestPlan(schema, tuple(Job(0, Recording(f"r{i}", "g", ()), "train", "whole") for i in range(count)), (), Counter())


def published(name: str) -> IngestPlan:
    """A job a segment of a published index, in its order: sorted by player."""
    source = open_source(VptConfig(path=str(Path(__file__).parent / "vpt_index" / f"{name}.json.gz")))
    return replace(jobs_of(1), jobs=tuple(Job(0, recording, "train", "whole") for recording in source.index()))


def told(plan: IngestPlan, bad: set[int], file: ShardFile, tmp_path: Path, *, most: float, seed: int = 0, ahead: int = 0) -> Tally:
    """What is known once each job has ended, or when the source was refused; good recordings end ``ahead`` jobs after bad ones."""
    tally, order = Tally(plan), plan.random_order(seed)
    ends = sorted(range(len(order)), key=lambda place: place + ahead * (order[place] not in bad))
    begun = 0
    for place in ends:
        begun = max(begun, place + 1)
        tally.add(order[place], "its clock is damaged" if order[place] in bad else file.model_copy(update={"name": str(order[place])}))
        if order[place] in bad:
            tally.refuse_rotten(most, tmp_path, begun=begun)
    return tally


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ahead", [0, 64])
def test_players_that_are_all_bad_end_no_ingest_that_is_within_the_limit(tmp_path, sets, seed, ahead):
    plan, file = published("all_10xx_Jun_29"), sets.files(tmp_path, [5])[0]
    players = [job.recording.name.rsplit("-", 3)[0] for job in plan.jobs]
    bad = {number for number, player in enumerate(players) if player in dict.fromkeys(players[:600])}
    assert players[: len(bad)] == [players[number] for number in sorted(bad)], "the bad ones come first, one beside the other"
    tally = told(plan, bad, file, tmp_path, most=len(bad) / len(plan.jobs), seed=seed, ahead=ahead)
    assert set(tally.bad) == bad
    assert len(tally.files) == len(plan.jobs) - len(bad)
    kept = [int(each.name) for each in tally.split_files("train", config(folder_of(tmp_path)))]
    assert kept == [number for number in range(len(plan.jobs)) if number not in bad], "in the order of the data set"


@pytest.mark.parametrize("first", [True, False])
def test_a_rotten_source_is_refused_long_before_all_of_it_was_read_wherever_its_bad_ones_lie(tmp_path, sets, first):
    plan, file = published("all_7xx_Apr_6"), sets.files(tmp_path, [5])[0]
    half = len(plan.jobs) // 2
    bad = set(range(half)) if first else set(range(half, len(plan.jobs)))
    with pytest.raises(UserError, match=r"of 17886 are allowed: .*: its clock is damaged"):
        told(plan, bad, file, tmp_path, most=0.05)
    tally = Tally(plan)
    for place, number in enumerate(plan.random_order(0), start=1):
        if number in bad:
            tally.bad[number] = "bad"
        if hardly(len(tally.bad), place, 0.05):
            break
    assert 4 < place < 60


@pytest.mark.parametrize("most", [0.001, 0.02, 0.1, 0.5, 0.9])
def test_a_source_as_bad_as_allowed_is_read_to_its_end(most):
    """Looked at after every one of its 17,886 recordings, 50 times over."""
    total = 17_886
    allowed = int(most * total)
    for seed in range(50):
        bad = np.cumsum(np.random.default_rng(seed).permutation(total) < allowed)
        looks = np.unique(np.concatenate([np.arange(1, 400), np.arange(1, total, 37)]))
        assert not any(hardly(int(bad[count - 1]), int(count), most) for count in looks)


def test_no_bad_recording_where_none_is_allowed(tmp_path):
    tally = Tally(jobs_of(100))
    tally.add(0, "bad")
    with pytest.raises(UserError, match="max_bad_fraction = 0 of 100"):
        tally.refuse_rotten(0.0, tmp_path, begun=1)


def played(folder: Path, videos, *, first: int = 0, lag: int | None = None) -> Path:
    """Three short recordings of VPT's recorder, of one of which the server was slow throughout."""
    folder.mkdir()
    mouse = {"x": 0, "y": 0, "dx": 1.0, "dy": 0, "buttons": [], "newButtons": []}
    rows = [{"mouse": mouse, "keyboard": {"keys": []}, "tick": t} for t in range(12)]
    for i in range(first, first + 3):
        name = f"a-02e496ce4ab{i}-20220421-092639"
        videos.write(folder / f"{name}.mp4", 12)
        timed = [row | {"serverTickDurationMs": 900.0 if i == lag else 50.0} for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, timed)))
    return folder


def test_a_recording_that_holds_nothing_is_no_bad_one(tmp_path, videos):
    folder = played(tmp_path / "in", videos, lag=1)
    values = config({"source": {"kind": "vpt", "path": str(folder)}}, heldout=0.4)
    found = made(values, tmp_path / "out")
    assert sum(len(set_.episodes) for set_ in found.values()) == 2
    dropped = [set_.manifest.origin.dropped.get("frames of server lag above 200 ms", 0) for set_ in found.values()]
    assert sorted(dropped) == [0, 12]


# ---- what does not fit together


def refused(values: RecordingsConfig, reason: str):
    with pytest.raises(UserError, match=reason):
        ingest_plan(values)


def test_sources_of_different_actions_are_refused(tmp_path, videos):
    one = films(tmp_path / "one", videos, {"a.mp4": 12, "b.mp4": 12}, labelled=True)
    refused(config(luanti(), folder_of(one)), r"recordings\.sources\.1: its actions are keys \(binary 2\), .*take its pictures alone")
    found = made(config(luanti(), folder_of(one, labelled_fraction=0.0)), tmp_path / "out")["train"]
    assert all(found.rows(i).labelled.any() == (e.info["source"] == 0) for i, e in enumerate(found.episodes))


def test_tasks_of_several_sources_stand_side_by_side(tmp_path, videos):
    one = films(tmp_path / "one", videos, {"a.mp4": 40, "b.mp4": 40}, labelled=True)
    other = films(tmp_path / "other", videos, {"a.mp4": 40, "b.mp4": 40}, labelled=True)
    (other / "actions.yaml").write_text(COLUMNS.replace("coin:", "gem:"))
    found = made(config(folder_of(one), folder_of(other)), tmp_path / "out")["train"]
    assert found.schema.tasks == ("coin", "gem")
    for index, episode in enumerate(found.episodes):
        assert found.rows(index).events.any(0).tolist() == [episode.info["source"] == 0, episode.info["source"] == 1]


def test_recordings_of_one_group_cannot_be_split(tmp_path, videos):
    folder = films(tmp_path / "in" / "walk", videos, {"a.mp4": 12, "b.mp4": 12})
    source = {"source": {"kind": "videos", "path": str(folder.parent), "group": "folder"}}
    refused(config(source), r"sources\[0\]: all its 2 recordings are of one group, walk, so none can be held out")


@pytest.mark.parametrize("codec", ["source", "link"])
def test_packets_are_taken_over_only_where_pictures_stay_as_they_are(tmp_path, videos, codec):
    refused(config(luanti(), codec={"kind": codec}), r"kind vpt: the cursor has to be drawn .*choose codec\.kind = h264")
    slow = films(tmp_path / "slow", videos, {"a.mp4": 12, "b.mp4": 12}, rate=10)
    fast = films(tmp_path / "fast", videos, {"a.mp4": 12, "b.mp4": 12})
    refused(config(folder_of(fast), folder_of(slow), codec={"kind": codec}), r"sources\[1\]: .*10 frames a second and sources\[0\] has 20")
    with pytest.raises(ValidationError, match="leave fps out"):
        config(folder_of(fast), codec={"kind": codec}, fps=20.0)


@pytest.mark.parametrize("codec", ["source", "link"])
def test_packets_that_are_taken_over_are_brought_to_the_layout_when_they_are_read(tmp_path, videos, codec):
    folder = films(tmp_path / "in", videos, {"a.mp4": 30, "b.mp4": 30})
    layout = {"shape": [24, 24], "fit": "letterbox"}
    found = made(config(folder_of(folder), codec={"kind": codec}, layout=layout), tmp_path / "out")["train"]
    recording = str(found.episodes[0].info["recording"])
    wanted = list(pictures(str(folder / recording), layout=PictureLayout.model_validate_json(json.dumps(layout))))
    shown = np.concatenate([found.frames(index) for index in range(len(found.episodes))])
    np.testing.assert_array_equal(shown, np.stack(wanted))


@pytest.mark.parametrize("codec", ["source", "link"])
def test_vpt_recordings_without_cursor_keep_their_packets(tmp_path, codec):
    entry = luanti()
    entry["source"]["cursor"] = False
    values = config(entry, codec={"kind": codec}, heldout_gap=20, heldout=0.3, layout={"shape": [96, 160]}, episode_frames=80)
    found, encoded = made(values, tmp_path / codec), made(values.model_copy(update={"codec": Png()}), tmp_path / "png")
    for split in SPLITS:
        wanted = {number: (index, at) for index, entry in enumerate(encoded[split].episodes) for at, number in enumerate(span(entry))}
        same = 0
        for index, entry in enumerate(found[split].episodes):
            rows = found[split].rows(index)
            for at, (number, frame) in enumerate(zip(span(entry), found[split].each_frame(index), strict=True)):
                other, place = wanted[number]
                np.testing.assert_array_equal(frame, encoded[split].frames(other, slice(place, place + 1))[0])
                np.testing.assert_array_equal(rows.actions["keys"][at], encoded[split].rows(other).actions["keys"][place])
                same += 1
        assert same > 0.3 * len(wanted), "of the frames from the first keyframe on"


def span(entry: EpisodeEntry) -> range:
    return range(int(entry.info["first"]), int(entry.info["first"]) + entry.length)


def test_linked_videos_are_not_copied_and_are_missed_by_name_when_they_change(tmp_path, videos):
    folder = films(tmp_path / "in", videos, {"a.mp4": 60, "b.mp4": 60}, labelled=True)
    values = config(folder_of(folder), codec={"kind": "link"})
    copied, found = made(config(folder_of(folder), codec={"kind": "source"}), tmp_path / "copied"), made(values, tmp_path / "out")
    for index in range(len(found["train"].episodes)):
        rows, same = found["train"].rows(index), copied["train"].rows(index)
        assert rows.coded.payload == same.coded.payload
        np.testing.assert_array_equal(rows.actions["keys"], same.actions["keys"])
    video = folder / str(found["train"].episodes[0].info["recording"])
    shard = (tmp_path / "out" / "train" / found["train"].files[0].name).read_bytes()
    assert not any(packet in shard for packet in found["train"].rows(0).coded.payload if len(packet) > 16)
    data = bytearray(video.read_bytes())
    links = found["train"].rows(0).coded.links
    assert links is not None
    data[int(links.offsets[3]) + 5] ^= 1
    video.write_bytes(data)
    for damage, reason in ((None, "its bytes from [0-9]+ on are others"), (100, "it has 100 bytes"), (0, "there is no such file")):
        if damage:
            video.write_bytes(data[:damage])
        elif damage == 0:
            video.unlink()
        with pytest.raises(UserError, match=f"video {video}: is not what it was .*{reason}.*--from record"):
            open_shards(tmp_path / "out" / "train").rows(0)


@pytest.mark.parametrize(("suffix", "in_place"), [("mp4", True), ("mov", True), ("avi", True), ("mkv", False)])
def test_packets_are_read_in_place_where_the_container_holds_them_in_one_piece(tmp_path, videos, suffix, in_place):
    folder = films(tmp_path / "in", videos, {f"a.{suffix}": 30, f"b.{suffix}": 30})
    if in_place:
        found = made(config(folder_of(folder), codec={"kind": "link"}), tmp_path / "out")
        assert numbers(found["train"], videos) == {str(found["train"].episodes[0].info["recording"]): list(range(30))}
    else:
        _, tally = do(config(folder_of(folder), codec={"kind": "link"}), tmp_path / "out")
        assert all("choose codec.kind = source, which copies them" in tally.bad[job] for job in (0, 1))


@pytest.mark.parametrize(
    ("shares", "reason"),
    [((0.6, 0.6), "sum to 1.2"), ((0.3, 0.3), "sum to 0.6; wanted 1"), ((1.0, None), "nothing is left"), ((0.0, None), "greater than 0")],
)
def test_shares_that_do_not_fit(shares, reason):
    with pytest.raises(ValidationError, match=reason):
        config(*(luanti(share=share) for share in shares))


def test_path_takes_the_place_of_the_first_source(tmp_path, videos, monkeypatch):
    films(tmp_path / "in", videos, {"a.mp4": 12, "b.mp4": 12})
    monkeypatch.chdir(tmp_path)
    values = config(folder_of(Path("nowhere")), luanti(), path="in")
    assert [entry.source.path for entry in values.entries()] == [str(tmp_path / "in"), str(LUANTI)]
    minari = config({"source": {"kind": "minari", "dataset": "a/b-v0", "fps": 10.0}}, path="in")
    assert minari.entries()[0].source.root == str(tmp_path / "in")


def test_a_path_may_begin_with_the_home_folder(tmp_path, videos, monkeypatch):
    """No shell has looked at what stands behind ``path=``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    films(tmp_path / "in", videos, {"a.mp4": 12, "b.mp4": 12})
    assert len(ingest_plan(config(folder_of(Path("nowhere")), path="~/in")).jobs) == 2
    assert len(ingest_plan(config(folder_of(Path("~/in")))).jobs) == 2


# ---- size


def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path, videos):
    """Raw, the longer recording is 11 MB."""
    peaks = []
    for length in (100, 1200):
        folder = films(tmp_path / f"in-{length}", videos, {"a.mp4": length, "b.mp4": 2})
        values = config(folder_of(folder))
        plan = ingest_plan(values)
        job = next(job for job in plan.jobs if job.recording.name == "a.mp4")
        tracemalloc.start()
        make_file(values, open_source(values.entries()[0].source), plan.schema, job, tmp_path / "out")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 10**6


@pytest.mark.skipif(not SAMPLES, reason="DREAMER_RAY_SAMPLES names no folder of recordings")
@pytest.mark.parametrize("codec", ["h264", "source"])
def test_real_videos(tmp_path, codec):
    values = config(
        folder_of(Path(SAMPLES) / "minecraft_video_360p"), layout={"shape": [360, 640]}, codec={"kind": codec}, episode_frames=300
    )
    found = made(values, tmp_path / "out")
    assert sum(set_.lengths.sum() for set_ in found.values()) == 4 * 600
    for index, episode in enumerate(found["train"].episodes):
        video = Path(SAMPLES) / "minecraft_video_360p" / str(episode.info["video"])
        shown = list(pictures(str(video), count=int(episode.info["first"]) + 20))[-1]
        frame = found["train"].frames(index, slice(19, 20))[0]
        error = np.abs(frame.astype(int) - shown).mean()
        assert error == 0 if codec == "source" else error < 8


def film_at(path: Path, videos, times: np.ndarray):
    """Numbered pictures at ``times`` in seconds, as phones and screen recorders write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "12", "bf": "0", "x264-params": "scenecut=0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(videos.picture(number), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def phone(count: int, seed: int = 0) -> np.ndarray:
    """30 fps, where one gap in ten is doubled."""
    gaps = np.where(np.random.default_rng(seed).random(count - 1) < 0.1, 2, 1) / 30
    return np.append(0, np.cumsum(gaps))


@pytest.mark.parametrize("fps", [10.0, None])
def test_recordings_of_phones_stay_in_one_piece(tmp_path, videos, fps):
    for name, seed in (("a.mp4", 0), ("b.mp4", 1)):
        film_at(tmp_path / "in" / name, videos, phone(200, seed))
    found = made(config(folder_of(tmp_path / "in"), fps=fps, episode_frames=1000), tmp_path / "out")
    for set_ in found.values():
        ((name, shown),) = numbers(set_, videos).items()
        times = phone(200, int(name == "b.mp4"))
        assert len(set_.episodes) == 1
        rate = set_.schema.fps
        assert rate == pytest.approx(fps or 30, rel=0.02)
        assert abs(len(shown) / rate - times[-1]) < 2 / rate
        assert np.abs(times[shown] - np.arange(len(shown)) / rate).max() < 0.08


def test_pictures_of_phones_that_are_not_encoded_anew_are_cut_where_some_are_missing(tmp_path, videos):
    for name in ("a.mp4", "b.mp4"):
        film_at(tmp_path / "in" / name, videos, np.delete(np.arange(61) / 30, 30))
    found = made(config(folder_of(tmp_path / "in"), codec={"kind": "source"}, episode_frames=1000), tmp_path / "out")
    for set_ in found.values():
        ((_, shown),) = numbers(set_, videos).items()
        assert shown == [*range(30), *range(36, 60)], "the second part begins at its first keyframe"


def test_videos_of_several_rates_are_brought_to_one(tmp_path, videos):
    folder = films(films(tmp_path / "in", videos, {"a.mp4": 60}, rate=30), videos, {"b.mp4": 40, "c.mp4": 44})
    found = made(config(folder_of(folder), fps=10.0), tmp_path / "out")
    shown = numbers(found["train"], videos) | numbers(found["heldout"], videos)
    assert shown == {"a.mp4": list(range(0, 60, 3)), "b.mp4": list(range(0, 40, 2)), "c.mp4": list(range(0, 44, 2))}


def test_a_picture_a_step_under_any_clock(tmp_path, videos):
    folder = films(tmp_path / "in", videos, {"a.mp4": 30, "b.mp4": 30}, rate=30)
    given = {"source": {"kind": "videos", "path": str(folder), "fps": 20}}
    found = made(config(given), tmp_path / "out")
    assert found["train"].schema.fps == 20
    assert numbers(found["train"], videos) | numbers(found["heldout"], videos) == {name: list(range(30)) for name in ("a.mp4", "b.mp4")}


def test_episodes_of_a_screen_that_stood_still_have_different_names(tmp_path, videos):
    for name in ("a.mp4", "b.mp4"):
        film_at(tmp_path / "in" / name, videos, np.concatenate([np.arange(5), 35 + np.arange(5)]) / 10)
    entry = {"source": {"kind": "videos", "path": str(tmp_path / "in"), "pause": 10}}
    found = made(config(entry, fps=10.0, episode_frames=6), tmp_path / "out")
    for set_ in found.values():
        ((_, shown),) = numbers(set_, videos).items()
        assert shown == [0, 1, 2, 3, *[4] * 31, *range(5, 10)]
        assert len({episode.name for episode in set_.episodes}) == len(set_.episodes) == 7
