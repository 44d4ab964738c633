"""What ``inspect`` finds in data sets of every format, in damaged ones, and in such as lie about themselves."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from dreamer_ray.cli.inspect_text import described
from dreamer_ray.data.inspection import Report, report, spread
from dreamer_ray.data.latents import commit_latents, latent_schema, write_latents
from dreamer_ray.data.minerl import CHOICES, KEYS
from dreamer_ray.data.recognition import found_at
from dreamer_ray.data.rows import Episode
from dreamer_ray.data.shards import commit_manifest, write_shard
from dreamer_ray.data.sources import Recording
from dreamer_ray.data.vpt_actions import encode_mouse
from dreamer_ray.errors import UserError

HERE = Path(__file__).parent
LUANTI = next((HERE / "luanti").glob("*.mp4"))
SAMPLES = os.environ.get("DREAMER_RAY_SAMPLES", "")
needs_samples = pytest.mark.skipif(not SAMPLES, reason="DREAMER_RAY_SAMPLES names no folder of recordings")


def inspected(path: object, *, kind=None, recordings: int | None = None, decode: bool = False, **values) -> Report:
    ((_, found),) = found_at(str(path), kind, values)
    return report(found, recordings=recordings, decode=decode)


def test_a_pair_of_video_and_actions():
    found = inspected(HERE / "luanti", tasks={"dig_dirt": "mine_block:*dirt*", "dig_stone": "mine_block:*stone*"}, decode=True)
    assert (found.kind, found.read, found.bad, found.fps) == ("vpt", 1, (), 20.0)
    assert found.shapes == {"360 x 640": 1}
    assert found.codecs == {"h264, 20 frames/s": 1}
    assert (found.frames, found.dropped) == (199, {"frames of server lag above 200 ms": 1})
    assert sum(found.takes) == found.frames
    size = sum(path.stat().st_size for path in (LUANTI, LUANTI.with_suffix(".jsonl")))
    assert found.whole.bytes == size
    assert found.bytes_per_hour == pytest.approx(size / (199 / 20 / 3600))
    assert found.whole.hours == found.hours == pytest.approx(199 / 20 / 3600)
    lines = [json.loads(line) for line in LUANTI.with_suffix(".jsonl").read_text().splitlines()]
    forward = sum("key.keyboard.w" in line["keyboard"]["keys"] for line in lines)
    assert found.actions["keys"].held["forward"] * 199 == pytest.approx(forward, abs=1)
    assert found.labelled == 1
    assert 0 < found.null < found.actions["mouse"].chosen["still"] < 1


def test_a_file_of_a_pair_stands_for_itself(tmp_path):
    for name in ("one", "two"):
        for suffix in (".mp4", ".jsonl"):
            shutil.copy(LUANTI.with_suffix(suffix), tmp_path / f"{name}{suffix}")
    assert inspected(tmp_path).read == 2
    for suffix in (".mp4", ".jsonl"):
        assert inspected(tmp_path / f"two{suffix}").whole.recordings == 1


def test_actions_without_their_video_can_be_looked_at():
    found = inspected(HERE / "vpt_jsonl_cases" / "each_binary_on.jsonl")
    assert (found.frames, found.shapes) == (33, {})
    held = found.actions["keys"].held
    assert all(share > 0 for share in held.values())
    assert held["forward"] == pytest.approx(1 / 33)


@pytest.mark.parametrize(("name", "count"), [("all_7xx_Apr_6", 17_886), ("all_9xx_Jun_29", 8_698), ("all_10xx_Jun_29", 5_661)])
def test_an_index_is_counted_whole_without_its_files(name, count, tmp_path):
    found = inspected(HERE / "vpt_index" / f"{name}.json.gz", recordings=0, base=str(tmp_path))
    assert found.whole.recordings == count
    assert 0 < found.whole.groups < count
    assert (found.read, found.whole.hours, found.null) == (0, None, None)


def test_recordings_of_an_index_that_are_not_there_are_bad(tmp_path):
    found = inspected(HERE / "vpt_index" / "all_10xx_Jun_29.json.gz", recordings=7, base=str(tmp_path))
    assert (found.read, len(found.bad)) == (0, 7)
    assert all("No such file" in bad.reason for bad in found.bad)


def test_a_lerobot_data_set_whose_camera_is_named():
    with pytest.raises(UserError, match=r"choose with camera: observation\.images\.top"):
        inspected(HERE / "lerobot_v3")
    found = inspected(HERE / "lerobot_v3", camera="observation.images.top")
    assert (found.whole.recordings, found.frames, found.shapes) == (3, 39, {"64 x 96": 3})
    assert found.tasks["push the block"].events == found.tasks["push the block"].takes == 2
    actions = np.load(HERE / "lerobot_v3" / "actions.npz")
    recorded = np.concatenate([actions[name] for name in actions.files])
    for axis, (low, mean, high) in zip(
        found.actions["action"].axes.values(), np.stack([f(recorded, 0) for f in STATISTICS], 1), strict=True
    ):
        assert (axis.low, axis.mean, axis.high) == pytest.approx((low, mean, high), rel=1e-4)
        assert sum(axis.histogram) == 39
    assert found.whole.hours_known
    one = inspected(HERE / "lerobot_v3", camera="observation.images.top", recordings=1)
    assert (one.read, one.whole.hours) == (1, pytest.approx(39 / 10 / 3600))


STATISTICS = (np.min, np.mean, np.max)


def film(path: Path, count: int, *, fps: int = 20, shape=(32, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *shape, "yuv420p"
        for i in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((*shape, 3), 10 * i % 256, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


def test_a_minerl_trajectory(tmp_path):
    steps, skipped = 11, 3
    place = tmp_path / "MineRLTreechop-v0" / "v3_absolute_grape_changeling-6_36-2062"
    film(place / "recording.mp4", steps + 1 + skipped)
    arrays = {f"action${name}": np.zeros(steps, np.int64) for name in KEYS} | {f"action${name}": np.full(steps, "none") for name in CHOICES}
    arrays["action$attack"][:4] = 1
    arrays |= {"action$camera": np.zeros((steps, 2), np.float32), "reward": np.eye(steps, dtype=np.float32)[5]}
    np.savez(place / "rendered.npz", **arrays)
    (place / "metadata.json").write_text(json.dumps({"true_video_frame_count": steps + 1 + skipped, "success": True}))
    found = inspected(tmp_path)
    assert (found.kind, found.frames, found.terminal) == ("minerl", 12, 1)
    assert found.actions["keys"].held["attack"] == pytest.approx(4 / 11)
    assert found.null == pytest.approx(7 / 11)
    assert found.actions["craft"].chosen == {"none": 1.0}
    assert found.tasks["reward"].events == 1
    assert found.dropped == {"pictures before the first state": skipped}
    assert found.numbers["reward"].mean == 1


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_a_minari_data_set_by_id_and_by_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    actions = np.array([[-2.0, 0.0], [0.0, 0.0], [2.0, 10.0]], np.float32)
    buffer = EpisodeBuffer(
        id=0,
        observations=[np.full((16, 24, 3), 20 * t, np.uint8) for t in range(4)],
        actions=list(actions),
        rewards=[0.0, 0.0, 1.0],
        terminations=[False, False, True],
        truncations=[False] * 3,
    )
    minari.create_dataset_from_buffers(
        "made/here-v0",
        [buffer],
        observation_space=spaces.Box(0, 255, (16, 24, 3), np.uint8),
        action_space=spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    with h5py.File(tmp_path / "made" / "here-v0" / "data" / "main_data.hdf5") as file:
        assert "episode_0" in file
    with pytest.raises(UserError, match="does not say how many steps a second has; add fps=N"):
        inspected("made/here-v0", kind="minari")
    for found in (inspected("made/here-v0", kind="minari", fps=15.0), inspected(tmp_path / "made" / "here-v0", fps=15.0)):
        assert (found.kind, found.frames, found.shapes, found.terminal) == ("minari", 4, {"16 x 24": 1}, 1)
        axes = list(found.actions["action"].axes.values())
        assert [(axis.low, axis.high) for axis in axes] == [(-2, 2), (0, 10)]
        assert found.null == pytest.approx(1 / 3)


ACTIONS = """
actions:
  keys: {kind: binary, columns: [left, jump]}
  weapon: {kind: categorical, column: weapon, values: [none, sword]}
events: {coin: coins}
"""


@pytest.fixture
def played(tmp_path) -> Path:
    """Two videos, one with a table of actions."""
    film(tmp_path / "films" / "a.mp4", 10)
    film(tmp_path / "films" / "b.mp4", 10)
    (tmp_path / "films" / "actions.yaml").write_text(ACTIONS)
    rows = ["1,0,none,0", "1,0,sword,0", *["0,0,none,1"] * 8]
    (tmp_path / "films" / "a.csv").write_text("\n".join(["left,jump,weapon,coins", *rows]) + "\n")
    return tmp_path / "films"


def test_videos_of_which_some_have_actions(played):
    found = inspected(played)
    assert (found.kind, found.frames, found.labelled) == ("videos", 20, 0.5)
    assert found.actions["keys"].held == {"left": 0.2, "jump": 0.0}
    assert found.actions["weapon"].chosen == {"none": 0.9, "sword": 0.1}
    assert found.null == 0.8
    assert (found.tasks["coin"].events, found.tasks["coin"].takes) == (8, 1)


def test_a_bad_recording_is_named_and_costs_only_itself(played):
    data = (played / "b.mp4").read_bytes()
    (played / "b.mp4").write_bytes(data[: len(data) // 2])
    found = inspected(played)
    assert found.read == 1
    assert [bad.name for bad in found.bad] == ["b.mp4"]
    assert "b.mp4" in found.bad[0].reason


def test_damage_behind_the_first_picture_is_found_by_decoding(tmp_path):
    film(tmp_path / "a.mp4", 60, shape=(128, 128))
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    middle = (start + len(data)) // 2
    rng = np.random.default_rng(0)
    data[middle : middle + 300] = rng.integers(0, 256, 300, np.uint8).tobytes()
    (tmp_path / "a.mp4").write_bytes(data)
    seen = inspected(tmp_path)
    decoded = inspected(tmp_path, decode=True)
    assert (seen.read, decoded.read, len(decoded.bad)) == (1, 0, 1)


def test_shards_are_counted_whole_from_some_episodes(tmp_path, sets):
    sets.make(tmp_path / "train", [10, 20, 30, 40], events={0: [(3, 1)], 2: [(5, 1), (6, 0)]}, died=[1])
    found = inspected(tmp_path / "train")
    assert (found.kind, found.read, found.frames, found.terminal) == ("shards", 4, 100, 1)
    assert found.labelled == 0.96
    assert {name: (task.events, task.takes) for name, task in found.tasks.items()} == {"chop": (1, 1), "dig": (2, 2), "swim": (0, 0)}
    assert found.numbers["noise"].mean == 0.25
    assert found.words == {"skill": {"novice": 4}}
    assert (found.set.split, found.set.codec, found.set.shape) == ("train", "png", (4, 6))
    some = inspected(tmp_path / "train", recordings=2)
    assert (some.read, some.frames, some.whole.recordings) == (2, 40, 4)
    assert (some.whole.hours, some.whole.hours_known) == (100 / 20 / 3600, True)


def test_the_account_of_an_ingest_is_shown_with_its_sets(tmp_path, sets):
    sets.make(tmp_path / "train", [5])
    account = {"bad": [{"source": 0, "recording": "b.mp4", "reason": "is empty"}], "left_out_of_index": {"listed twice": 3}, "hours": 1.0}
    (tmp_path / "report.json").write_text(json.dumps(account))
    facts = inspected(tmp_path / "train").set
    assert (facts.bad, facts.left_out) == ({"b.mp4": "is empty"}, {"listed twice": 3})
    (tmp_path / "report.json").write_text(json.dumps(account | {"bad": [7]}))
    with pytest.raises(UserError, match=r"report.json: bad\.0"):
        inspected(tmp_path / "train")


def make_latents(folder: Path, sets) -> None:
    schema = latent_schema(sets.schema, 2, 3)
    pictures = sets.episode("train-000000", 9)
    codes = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float16)
    episode = Episode(pictures.name, codes, pictures.actions, pictures.labelled, pictures.events, pictures.continues, pictures.info)
    files = [write_latents(folder, "part-000.parquet", [episode], schema)]
    commit_latents(folder, schema, files, made_by={}, parents={"tokenizer": "abc", "record": "def"})


def test_latents_name_their_parents(tmp_path, sets):
    make_latents(tmp_path / "heldout", sets)
    found = inspected(tmp_path / "heldout")
    assert (found.kind, found.frames, found.shapes) == ("latents", 9, {})
    assert found.set.parents == {"tokenizer": "abc", "record": "def"}
    assert 0.2 < found.set.std[0] <= found.set.std[1] < 3


def test_a_run_is_its_sets(tmp_path, sets):
    sets.make(tmp_path / "record" / "train", [5, 6])
    sets.make(tmp_path / "record" / "heldout", [4])
    make_latents(tmp_path / "encode" / "train", sets)
    (tmp_path / "record" / "manifest.json").write_text(json.dumps({"format": 1, "sections": {}, "parents": {}, "seconds": 1}))
    names = {name: report(found).frames for name, found in found_at(str(tmp_path), None, {})}
    assert names == {"record/train": 11, "record/heldout": 4, "encode/train": 9}
    assert [name for name, _ in found_at(str(tmp_path / "record"), None, {})] == ["train", "heldout"]


def test_a_choice_that_is_none_of_its_component_makes_the_episode_bad(tmp_path, sets):
    episode = sets.episode("train-000000", 8)
    episode.actions["mouse"][3] = 77
    commit_manifest(tmp_path, sets.schema, [write_shard(tmp_path, "a.parquet", [episode], sets.schema)], made_by={}, parents={})
    (bad,) = inspected(tmp_path).bad
    assert "action mouse of a labelled frame is 77, wanted 0 .. 4" in bad.reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["shard_schema"].update(fps=0), "fps is 0"),
        (lambda m: m["shard_schema"].update(fps="20"), "fps"),
        (lambda m: m["shard_schema"].update(codec="exe"), "codec"),
        (lambda m: m["files"][0].update(name="../a.parquet"), "leads out of the folder"),
        (lambda m: m["files"][0].update(name="/etc/passwd"), "leads out of the folder"),
        (lambda m: m["files"][0]["episodes"][0].update(length=10**30), "length"),
        (lambda m: m["files"][0]["episodes"][0].update(name=m["files"][0]["episodes"][1]["name"]), "stands there twice"),
        (lambda m: m.update(format=[[]]), "format"),
        (lambda m: m.update(shard_schema="float16"), "shard_schema"),
        (lambda m: m.update(files=[]), "holds no episode"),
    ],
)
def test_a_manifest_that_lies_is_refused_by_name(tmp_path, sets, change, message):
    sets.make(tmp_path, [5, 6])
    values = json.loads((tmp_path / "manifest.json").read_text())
    change(values)
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        inspected(tmp_path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_manifest_holds_is_reported_or_refused(tmp_path_factory, sets, data):
    folder = tmp_path_factory.mktemp("set")
    sets.make(folder, [5, 6])
    values = json.loads((folder / "manifest.json").read_text())
    place = data.draw(
        st.sampled_from([values, values["shard_schema"], values["files"][0], values["files"][0]["episodes"][0], values["made_by"]])
    )
    key = data.draw(st.sampled_from([*place, "statistics", "origin", "layout"]))
    place[key] = data.draw(JUNK | st.dictionaries(st.text(max_size=5), JUNK, max_size=3))
    (folder / "manifest.json").write_text(json.dumps(values))
    try:
        shown = described(inspected(folder), "", decoded=False)
        assert shown.replace("\n", "").isprintable()
    except UserError as error:
        shown = str(error)
    assert str(folder) in shown


@pytest.mark.parametrize("count", [1, 3, 10, 99])
def test_recordings_are_spread_from_the_first_on(count):
    index = [Recording(str(i), str(i), ()) for i in range(10)]
    places = [int(recording.name) for recording in spread(index, count)]
    assert places[0] == 0
    assert len(set(places)) == len(places) == min(count, 10)
    assert max(np.diff(places), default=1) <= -(-10 // count)


def test_the_mouse_is_still_where_it_does_not_turn():
    held = inspected(HERE / "vpt_jsonl_cases" / "all_off.jsonl")
    assert (held.null, held.actions["mouse"].chosen) == (1.0, {"still": 1.0})
    assert encode_mouse(np.zeros(2)) == 60


@needs_samples
def test_the_unlabelled_footage_of_the_samples():
    found = inspected(Path(SAMPLES) / "minecraft_video_360p")
    assert (found.read, found.frames, found.fps, found.labelled) == (4, 2400, pytest.approx(30), 0)
    assert found.shapes == {"360 x 640": 4}
    assert found.codecs == {"h264, 30 frames/s": 4}
    small = inspected(Path(SAMPLES) / "minecraft_video_64p")
    assert (small.read, small.shapes) == (9, {"64 x 64": 9})


@needs_samples
def test_the_recorded_pair_of_the_samples():
    tasks = {"dig_dirt": "mine_block:*dirt*", "dig_stone": "mine_block:*stone*"}
    found = inspected(Path(SAMPLES) / "luanti_vpt_format", tasks=tasks)
    assert found.frames + sum(found.dropped.values()) == 900
    assert (found.tasks["dig_dirt"].events, found.tasks["dig_stone"].events) == (7, 1)


@pytest.fixture
def elsewhere(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files can be fetched."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def put_segments(folder: Path, base: str, count: int) -> Path:
    """An index of ``count`` segments in ``folder``, of which none has files yet."""
    (folder / "data" / "10.0").mkdir(parents=True)
    paths = [f"data/10.0/player-{i:012x}-20220401-120000.mp4" for i in range(count)]
    (folder / "index.json").write_text(json.dumps({"basedir": base, "relpaths": [*paths, paths[0], "readme.txt"]}))
    return folder / "index.json"


def test_of_what_lies_elsewhere_little_is_fetched(elsewhere):
    folder, address = elsewhere
    index = put_segments(folder, address, 9)
    for i in range(9):
        for suffix in (".mp4", ".jsonl"):
            shutil.copy(LUANTI.with_suffix(suffix), folder / "data" / "10.0" / f"player-{i:012x}-20220401-120000{suffix}")
    found = inspected(index)
    assert (found.whole.recordings, found.read, found.frames) == (9, 2, 2 * 199)
    assert found.whole.left_out == {"listed twice": 1, "not the path of a segment": 1}
    assert (found.whole.hours, found.whole.hours_known) == (pytest.approx(9 * 199 / 20 / 3600), False)
    assert found.whole.bytes is None
    assert found.bytes_per_hour == inspected(HERE / "luanti").bytes_per_hour
    assert found.codecs == {"h264, 20 frames/s": 2}


def test_where_nothing_can_be_fetched_no_more_is_tried(elsewhere):
    folder, address = elsewhere
    found = inspected(put_segments(folder, address, 30), recordings=20)
    assert (found.read, len(found.bad)) == (0, 5)
    assert "so no others were tried" in described(found, "", decoded=False)
