"""VPT recordings as a source: from an index or a folder to takes and pictures, and what becomes of dirt."""

import functools
import http.server
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dreamer_ray.data import vpt
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.vpt import VptConfig, VptSource
from dreamer_ray.data.vpt_actions import KEYS, decode_mouse, encode_mouse
from dreamer_ray.data.vpt_cursor import draw_cursor
from dreamer_ray.errors import UserError

HERE = Path(__file__).parent
LUANTI = next((HERE / "luanti").glob("*.mp4"))
SAMPLES = os.environ.get("DREAMER_RAY_SAMPLES", "")
"""A folder of real recordings, which are not part of this tree."""
NAME = "some-alias-02e496ce4abb-20220421-092639"
OTHER = "Player 7-02e496ce4abb-20220421-093139"
TASKS = {"dig_dirt": "mine_block:*dirt*", "dig_stone": ("mine_block:*.stone",)}


def line(t: int, **more) -> dict:
    mouse = {"x": 640.0, "y": 360.0, "dx": 0.0, "dy": 0.0, "buttons": [], "newButtons": []}
    return {"mouse": mouse, "keyboard": {"keys": ["key.keyboard.w"]}, "tick": t, "milli": 10**12 + 50 * t, "isGuiOpen": False} | more


def write_pair(folder: Path, videos, name: str = NAME, *, frames: int = 30, lines=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [line(t) for t in range(frames)] if lines is None else lines
    (folder / f"{name}.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return videos.write(folder / f"{name}.mp4", frames)


def source(path: Path | str, **more) -> VptSource:
    return VptSource(VptConfig(path=str(path), **more))


def read_one(path: Path, **more):
    [recording] = source(path, **more).index()
    return source(path, **more).read(recording)


def test_the_luanti_recording_is_read_whole():
    found = source(LUANTI.parent, degrees_per_unit=0.2, tasks=TASKS)
    [recording] = found.index()
    assert (recording.name, recording.group) == (LUANTI.stem, "000000000001-20261121")
    reading = found.read(recording)
    assert [(take.first, len(take.labelled)) for take in reading.takes] == [(0, 32), (33, 167)]
    assert reading.dropped == {"frames of server lag above 200 ms": 1}
    dirt, stone = (np.concatenate([take.events for take in reading.takes])).T
    assert (np.flatnonzero(dirt) + 1).tolist() == [120, 136, 153]
    assert stone.sum() == 0
    assert all(take.labelled.all() for take in reading.takes)
    assert (found.tasks, found.fps) == (("dig_dirt", "dig_stone"), 20.0)
    shapes = [picture.shape for picture in reading.pictures]
    assert shapes == [(360, 640, 3)] * 200


def test_what_is_mended_is_counted(tmp_path, videos):
    still = {"dx": 0.0, "dy": 0.0, "buttons": []}
    changed = {
        2: {"hotbar": 3},
        3: {"hotbar": 3, "isGuiOpen": True, "mouse": still | {"dx": 4.0}},
        4: {"hotbar": 3, "isGuiOpen": True},
        5: {"hotbar": 3, "keyboard": {"keys": []}},
        6: {"hotbar": 3, "mouse": still | {"dy": 90.0}},
        7: {"hotbar": 3, "serverTickDurationMs": None},
    }
    rows = [line(t, **({"hotbar": 0 if t < 2 else 3} | changed.get(t, {}))) for t in range(8)]
    rows += [line(t + 500, hotbar=3) for t in range(8, 12)]
    write_pair(tmp_path / "6.8", videos, frames=12, lines=rows)
    reading = read_one(tmp_path)
    assert reading.mended == {
        "lines on which the mouse wheel changed the hotbar's slot, its key put in": 1,
        "lines whose mouse in a GUI was in another unit, by the recorder's version": 1,
        "lines with a damaged field that may be missing, taken for missing": 1,
        "frames whose action does nothing, kept": 1,
        "frames with a turn beyond 10 degrees, cut to that": 1,
        "frames before which a clock jumps, where a new take begins": 1,
        "frames with the mouse's cursor drawn in": 2,
    }
    assert not reading.dropped
    assert "frames with the mouse's cursor drawn in" not in read_one(tmp_path, cursor=False).mended


def test_the_recorder_of_a_flat_folder_may_be_named_and_is_missed_where_it_matters(tmp_path, videos):
    rows = [line(t, isGuiOpen=t > 5, mouse={"dx": 10.0, "dy": 0.0, "buttons": []}) for t in range(12)]
    write_pair(tmp_path / "flat", videos, frames=12, lines=rows)
    write_pair(tmp_path / "deep" / "6.8", videos, frames=12, lines=rows)
    nameless, named, deep = (
        read_one(tmp_path / "flat"),
        read_one(tmp_path / "flat", recorder="6.8"),
        read_one(tmp_path / "deep", recorder="10.0"),
    )
    degrees = [decode_mouse(reading.takes[0].actions["mouse"][-1])[1] for reading in (nameless, named, deep)]
    assert degrees[0] < degrees[1] == degrees[2]
    assert [reading.takes[0].info["recorder"] for reading in (nameless, named, deep)] == ["", "6.8", "6.8"]
    missed = [count for what, count in nameless.mended.items() if "whose recorder is not known" in what]
    assert missed == [1] and not any("whose recorder is not known" in what for what in named.mended)
    with pytest.raises(ValidationError, match="recorder"):
        source(tmp_path / "flat", recorder="vpt")


def test_pictures_come_in_the_layout_that_is_asked_for():
    [recording] = source(LUANTI.parent).index()
    picture = next(source(LUANTI.parent).read(recording, PictureLayout(shape=(384, 640))).pictures)
    assert picture.shape == (384, 640, 3)
    assert not picture[:12].any()
    assert picture[12:372].mean() > 30


def test_the_mouse_turns_by_the_degrees_of_the_config():
    camera = [read_one(LUANTI.parent, degrees_per_unit=unit).takes[1].actions["mouse"] for unit in (0.15, 0.2)]
    assert (decode_mouse(camera[0])[:, 1] ** 2).sum() < (decode_mouse(camera[1])[:, 1] ** 2).sum()


def test_pairs_are_found_at_any_depth_and_grouped_by_session_and_day(tmp_path, videos):
    write_pair(tmp_path / "data" / "6.9", videos)
    write_pair(tmp_path / "data" / "7.0" / "deep", videos, OTHER)
    write_pair(tmp_path / "own", videos, "walk")
    (tmp_path / ".hidden.mp4").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    found = source(tmp_path).index()
    assert [recording.name for recording in found] == [NAME, "Player_7-02e496ce4abb-20220421-093139", "walk"]
    assert [recording.group for recording in found] == ["02e496ce4abb-20220421"] * 2 + ["walk"]
    assert [sorted(Path(file).suffix for file in recording.files) for recording in found] == [[".jsonl", ".mp4"]] * 3


def test_recordings_of_one_name_keep_apart(tmp_path, videos):
    for folder in ("a", "b"):
        write_pair(tmp_path / folder, videos)
    names = [recording.name for recording in source(tmp_path).index()]
    assert len(set(names)) == 2
    assert all(name.startswith(NAME) for name in names)


def test_an_index_is_read_from_the_folder_that_is_given(tmp_path, videos):
    write_pair(tmp_path / "copy" / "data" / "6.9", videos, OTHER)
    paths = [f"data/6.9/{OTHER}.mp4", "data/6.9/notes.txt", f"data/6.9/{OTHER}.mp4"]
    index = tmp_path / "i.json"
    index.write_text(json.dumps({"basedir": "https://nowhere.invalid/", "relpaths": paths}))
    found = source(index, base=str(tmp_path / "copy"))
    assert found.left_out() == {"not the path of a segment": 1, "listed twice": 1}
    [recording] = found.index()
    assert len(found.read(recording).takes[0].labelled) == 30
    assert found.read(recording).takes[0].info["recorder"] == "6.9"
    both = VptSource(VptConfig(path=(str(index), str(index)), base=str(tmp_path)))
    assert (len(both.index()), both.left_out()["listed twice"]) == (1, 3)
    assert source(index).index()[0].files[0] == f"https://nowhere.invalid/data/6.9/{OTHER.replace(' ', '%20')}.mp4"


def test_the_recorders_version_scales_the_mouse_in_a_gui(tmp_path, videos):
    moved = {"mouse": {"x": 0, "y": 0, "dx": 10.0, "dy": 0.0, "buttons": []}, "isGuiOpen": True}
    for version in ("6.9", "6.10"):
        write_pair(tmp_path / version, videos, NAME, frames=17, lines=[line(t, **moved) for t in range(17)])
    degrees = [decode_mouse(source(tmp_path).read(recording).takes[0].actions["mouse"][:1])[0, 1] for recording in source(tmp_path).index()]
    assert degrees == [decode_mouse(encode_mouse(np.array([0, turn])))[1] for turn in (1.5, 3.0)]


@pytest.mark.parametrize("missing", [".mp4", ".jsonl"])
def test_half_of_a_pair_is_named_when_it_is_read(tmp_path, videos, missing):
    write_pair(tmp_path, videos).with_suffix(missing).unlink()
    with pytest.raises(BadRecordingError, match=rf"{NAME}.*: there is no {missing} file of the same name"):
        read_one(tmp_path)


@pytest.mark.parametrize("suffix", [".mp4", ".jsonl"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\n<?xml version='1.0'?><Error><Code>BlobNotFound</Code></Error>", "is a page, not a recording"),
    ],
)
def test_a_page_or_nothing_in_place_of_a_file_is_named(tmp_path, videos, suffix, content, words):
    write_pair(tmp_path, videos).with_suffix(suffix).write_bytes(content)
    with pytest.raises(BadRecordingError, match=rf"{NAME}{suffix}: {words}"):
        read_one(tmp_path)


def test_a_file_that_vanished_is_named(tmp_path, videos):
    path = write_pair(tmp_path, videos)
    [recording] = source(tmp_path).index()
    path.unlink()
    with pytest.raises(BadRecordingError, match=rf"{NAME}\.mp4: cannot be opened"):
        source(tmp_path).read(recording)


def test_lines_of_something_else_are_named(tmp_path, videos):
    write_pair(tmp_path, videos, lines=["hello", "there"])
    with pytest.raises(BadRecordingError, match=rf"{NAME}\.jsonl: none of its 2 lines"):
        read_one(tmp_path)


def test_blank_lines_and_line_ends_of_windows_are_no_frames(tmp_path, videos):
    path = write_pair(tmp_path, videos, lines=["", *(json.dumps(line(t)) + "\r\n" for t in range(30)), "  "])
    reading = read_one(path.parent)
    assert not reading.dropped
    assert reading.takes[0].labelled.tolist() == [True] * 30


def test_a_broken_line_costs_its_action_only(tmp_path, videos):
    write_pair(tmp_path, videos, lines=[*(line(t) for t in range(9)), '{"mouse": {"dx', *(line(t) for t in range(10, 30))])
    reading = read_one(tmp_path)
    assert reading.dropped == {"lines that cannot be read, frames kept without action": 1}
    assert np.flatnonzero(~reading.takes[0].labelled).tolist() == [9]
    assert [videos.number(picture) for picture in reading.pictures] == list(range(30))


def test_a_video_cut_short_is_used_as_far_as_it_goes(tmp_path, videos):
    path = write_pair(tmp_path, videos, frames=60)
    whole = videos.write(tmp_path / "front.mp4", 60, front=True).read_bytes()
    (tmp_path / "front.mp4").unlink()
    path.write_bytes(whole[:-40])
    reading = read_one(tmp_path)
    kept = 60 - reading.dropped["lines without a frame"]
    assert 30 < kept < 60
    assert len(reading.takes[0].labelled) == kept
    assert [videos.number(picture) for picture in reading.pictures] == list(range(kept))


def test_a_video_without_its_end_is_refused(tmp_path, videos):
    path = write_pair(tmp_path, videos)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadRecordingError, match=rf"{NAME}\.mp4: cannot be read as a video"):
        read_one(tmp_path)


def test_fewer_lines_than_frames_and_the_pictures_end_with_them(tmp_path, videos):
    write_pair(tmp_path, videos, lines=[line(t) for t in range(20)])
    reading = read_one(tmp_path)
    assert reading.dropped == {"frames without a line": 10}
    assert len(list(reading.pictures)) == 20


def test_the_cursor_is_drawn_where_a_gui_is_open(tmp_path, videos):
    rows = [line(t, isGuiOpen=t == 1, mouse=line(0)["mouse"] | {"x": 300.0, "y": 200.0}) for t in range(3)]
    write_pair(tmp_path, videos, frames=3, lines=rows)
    plain = [videos.picture(number) for number in range(3)]
    for number, picture in enumerate(read_one(tmp_path).pictures):
        changed = np.argwhere((np.abs(picture.astype(int) - plain[number]) > 60).any(-1))
        assert bool(len(changed)) == (number == 1)
        if number == 1:
            corner = np.array([200 * 48 // 720, 300 * 48 // 720])
            assert (changed >= corner).all()
            assert (changed < corner + 16).all()


@pytest.mark.parametrize("place", [(0, 0), (1270, 700), (-10, -10), (-1e6, 5), (1e6, 1e6), (640, 360)])
def test_a_cursor_that_leaves_the_picture_is_cut_off(place):
    picture = np.zeros((360, 640, 3), np.uint8)
    drawn = draw_cursor(picture, np.array(place, np.float32))
    assert drawn.shape == picture.shape
    assert not picture.any()
    inside = 0 <= place[0] < 1280 and 0 <= place[1] < 720
    assert drawn.any() == (inside or place == (-10, -10))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"tasks": {"x": "dirt"}}, "tasks"),
        ({"tasks": {"x": ()}}, "tasks"),
        ({"tasks": "ladder"}, "tasks"),
        ({"degrees_per_unit": 0.0}, "degrees_per_unit"),
        ({"fps": 20}, "fps"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_key(config, words):
    with pytest.raises(ValidationError, match=words):
        VptConfig(path="x", **config)


def test_a_path_that_holds_nothing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no mp4 or jsonl"):
        source(tmp_path).index()
    with pytest.raises(UserError, match=r"nowhere: cannot be listed"):
        source(tmp_path / "nowhere").index()
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read"):
        source(tmp_path / "nowhere.json").index()


def test_a_jsonl_file_of_any_size_is_refused_before_it_is_read(tmp_path, videos, monkeypatch):
    write_pair(tmp_path, videos)
    monkeypatch.setattr(vpt, "MOST_TEXT", 3000)
    with pytest.raises(BadRecordingError, match=rf"{NAME}\.jsonl: cannot be read \(has \d+ bytes or more, and 3000 are the most"):
        read_one(tmp_path)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):  # noqa: A002
        pass


@pytest.fixture
def server(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(tmp_path))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_index_and_segments_are_read_over_the_web(tmp_path, videos, server):
    write_pair(tmp_path / "data" / "7.0", videos, OTHER)
    paths = [f"data/7.0/{OTHER}.mp4", f"data/7.0/{NAME}.mp4"]
    (tmp_path / "i.json").write_text(json.dumps({"basedir": server + "/", "relpaths": paths}))
    found = source(f"{server}/i.json")
    whole, gone = found.index()
    assert [videos.number(picture) for picture in found.read(whole).pictures] == list(range(30))
    with pytest.raises(BadRecordingError, match=rf"{NAME}\.jsonl: cannot be read"):
        found.read(gone)
    with pytest.raises(UserError, match=r"other\.json: cannot be read"):
        source(f"{server}/other.json").index()


@pytest.mark.skipif(not SAMPLES, reason="DREAMER_RAY_SAMPLES names no folder of recordings")
def test_the_whole_luanti_recording():
    found = source(Path(SAMPLES) / "luanti_vpt_format", degrees_per_unit=0.2, tasks=TASKS)
    reading = found.read(found.index()[0])
    events = sum((take.events.sum(0, dtype=int) for take in reading.takes), np.zeros(2, int))
    assert events.tolist() == [7, 1]
    assert sum(len(take.labelled) for take in reading.takes) + reading.dropped.total() == 900


@pytest.mark.skipif(not SAMPLES, reason="DREAMER_RAY_SAMPLES names no folder of recordings")
def test_the_three_published_indices_together():
    paths = tuple(str(Path(SAMPLES) / "vpt_index" / f"all_{name}.json") for name in ("7xx_Apr_6", "9xx_Jun_29", "10xx_Jun_29"))
    recordings = VptSource(VptConfig(path=paths)).index()
    assert len(recordings) == 17886 + 8698 + 5661
    assert len({recording.name for recording in recordings}) == len(recordings)


def test_real_action_streams_stay_within_their_cells():
    files = sorted((Path(__file__).parent / "vpt_actions").glob("*.npz"))
    assert len(files) == 4
    for path in files:
        with np.load(path) as stream:
            turns, names = stream["camera_deg"].astype(np.float32), [str(name) for name in stream["button_names"]]
            assert set(names) == set(KEYS)
        cells = encode_mouse(turns)
        again = decode_mouse(cells)
        assert np.array_equal(encode_mouse(again), cells)
        small = np.abs(np.clip(turns, -10, 10))
        widths = np.select([small < 0.27, small < 1.06, small < 2.33, small < 4.37, small < 7.66], [0.27, 0.56, 0.72, 1.16, 1.86], 2.36)
        assert (np.abs(np.clip(turns, -10, 10) - again) <= widths).all()


def test_a_copy_of_the_cursor_is_in_the_package_with_its_licence():
    import dreamer_ray.data

    folder = Path(dreamer_ray.data.__file__).parent
    assert "Copyright (c) 2022 OpenAI" in (folder / "vpt_cursor.LICENSE").read_text()
    assert (folder / "vpt_cursor.png").read_bytes().startswith(b"\x89PNG")
