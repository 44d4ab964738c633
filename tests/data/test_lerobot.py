"""LeRobot data sets: one that lerobot wrote, one in the older layout, and such as nobody should."""

import json
import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dreamer_ray.data.lerobot import LeRobotConfig, LeRobotSource
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.stretches import at_rate
from dreamer_ray.errors import UserError
from dreamer_ray.types import Continuous

REFERENCE = Path(__file__).parent / "lerobot_v3"
TOP, WRIST = "observation.images.top", "observation.images.wrist"


def source(path: Path, **options) -> LeRobotSource:
    return LeRobotSource(LeRobotConfig.model_validate({"kind": "lerobot", "path": str(path), "camera": TOP} | options))


def takes(found: LeRobotSource) -> list:
    return [found.read(recording).takes[0] for recording in found.index()]


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copytree(REFERENCE, tmp_path / "set")
    return tmp_path / "set"


def change(path: Path, *place, to):
    values = json.loads(path.read_text())
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = to
    path.write_text(json.dumps(values))


def change_column(path: Path, name: str, values):
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)


def older(folder: Path, lengths=(6, 9)) -> Path:
    """The layout v2.1: a file an episode."""
    features = {
        TOP: {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    info = {
        "codebase_version": "v2.1", "robot_type": "so100", "fps": 10, "chunks_size": 1, "features": features,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "meta" / "tasks.jsonl").write_text('{"task_index": 0, "task": "pick"}\n{"task_index": 1, "task": "place"}\n')
    lines, stats = [], []
    for episode, length in enumerate(lengths):
        actions = np.arange(2 * length, dtype=np.float32).reshape(length, 2) * (episode + 1)
        rows = {"action": list(actions), "timestamp": np.arange(length, dtype=np.float32) / 10, "frame_index": np.arange(length)}
        rows |= {"episode_index": np.full(length, episode), "task_index": np.full(length, episode % 2)}
        data = folder / "data" / f"chunk-{episode:03d}" / f"episode_{episode:06d}.parquet"
        data.parent.mkdir(parents=True)
        pq.write_table(pa.table({name: pa.array(values) for name, values in rows.items()}), data)
        video = folder / "videos" / f"chunk-{episode:03d}" / TOP / f"episode_{episode:06d}.mp4"
        video.parent.mkdir(parents=True)
        film(video, [100 * episode + 5 * t for t in range(length)])
        lines.append({"episode_index": episode, "tasks": [["pick", "place"][episode % 2]], "length": length})
        figures = {"min": actions.min(0).tolist(), "max": actions.max(0).tolist()}
        stats.append({"episode_index": episode, "stats": {"action": figures}})
    (folder / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "meta" / "episodes_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stats))
    return folder


def film(path: Path, greys: list[int], fps: int = 10):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for grey in greys:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 48, 3), grey, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("camera", "shape"), [(TOP, (64, 96, 3)), (WRIST, (32, 48, 3))], ids=["video", "pictures among the rows"])
def test_what_lerobot_wrote_is_read(camera, shape):
    found = source(REFERENCE, camera=camera)
    assert (found.fps, found.tasks, found.action_space) == (10, ("push the block", "lift it"), {"action": Continuous(size=3)})
    written = np.load(REFERENCE / "actions.npz")
    for episode, recording in enumerate(found.index()):
        reading = found.read(recording)
        (take,) = reading.takes
        shown = list(reading.pictures)
        assert len(shown) == len(take.labelled) == (12, 7, 20)[episode]
        for t, picture in enumerate(shown):
            assert picture.shape == shape and picture.dtype == np.uint8
            assert abs(picture.mean() - (60 * episode + 3 * t)) <= 2
        actions = take.actions["action"]
        assert actions.dtype == np.float32 and np.abs(actions).max() <= 1 + 1e-6
        np.testing.assert_allclose(found.scaling.unscaled(actions), written[f"a{episode}"], atol=1e-5)
        np.testing.assert_allclose(Scaling.of_note(take.info["scaling.action"]).unscaled(actions), written[f"a{episode}"], atol=1e-5)
        assert take.labelled.all()


def test_success_counts_for_the_episodes_task_and_done_is_not_terminal():
    first, second, third = takes(source(REFERENCE))
    assert [np.argwhere(take.events).tolist() for take in (first, second, third)] == [[[11, 0]], [], [[19, 0]]]
    for take in (first, second, third):
        assert take.continues.all()


def test_done_is_terminal_where_the_config_names_it():
    for take in takes(source(REFERENCE, terminal_columns=("next.done",))):
        assert np.flatnonzero(take.continues == 0).tolist() == [len(take.continues) - 1]


def test_terminated_is_terminal_whatever_done_says(copy):
    path = copy / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("next.terminated", pa.array(np.arange(39) == 18)), path)
    change(copy / "meta" / "info.json", "features", "next.terminated", to={"dtype": "bool", "shape": [1], "names": None})
    assert [np.flatnonzero(take.continues == 0).tolist() for take in takes(source(copy))] == [[], [6], []]


def test_reward_may_count_instead_of_success():
    _, second, _ = takes(source(REFERENCE, event_columns=("next.reward",)))
    assert np.argwhere(second.events).tolist() == [[6, 1]]


def test_an_event_arrives_with_the_next_picture_and_counts_once(copy):
    rewards = np.zeros(39, np.float32)
    rewards[[3, 4, 5]] = 1
    change_column(copy / "data/chunk-000/file-000.parquet", "next.reward", pa.array(rewards))
    first, *_ = takes(source(copy, event_columns=("next.reward",)))
    assert np.argwhere(first.events).tolist() == [[4, 0]]


def test_demonstrations_are_done_at_their_end():
    counts = [np.argwhere(take.events).tolist() for take in takes(source(REFERENCE, event_at_end=True))]
    assert counts == [[[11, 0]], [[6, 1]], [[19, 0]]]


def test_tasks_can_be_chosen():
    found = source(REFERENCE, tasks=("lift it",))
    assert found.tasks == ("lift it",)
    assert [int(take.events.sum()) for take in takes(found)] == [0, 0, 0]
    with pytest.raises(UserError, match="no task 'dance'"):
        _ = source(REFERENCE, tasks=("dance",)).tasks


def test_quantiles_are_narrower_than_the_range_and_none_leaves_the_actions():
    written = np.load(REFERENCE / "actions.npz")["a0"]
    assert np.abs(takes(source(REFERENCE, scale="quantiles"))[2].actions["action"]).max() > 1
    np.testing.assert_allclose(takes(source(REFERENCE, scale="none"))[0].actions["action"], written, rtol=1e-6)


def test_bounds_of_the_config_take_the_place_of_the_data_sets():
    size = source(REFERENCE).action_space["action"].size
    found = source(REFERENCE, low=(-8.0,) * size, high=(8.0,) * size)
    np.testing.assert_array_equal(found.scaling.bounds, [[-8.0] * size, [8.0] * size])
    for take, whole in zip(takes(found), takes(source(REFERENCE, scale="none")), strict=True):
        np.testing.assert_allclose(take.actions["action"] * 8, whole.actions["action"], rtol=1e-5)
    with pytest.raises(UserError, match=r"low and high: 9 numbers each, but action has"):
        _ = source(REFERENCE, low=(0.0,) * 9, high=(1.0,) * 9).scaling


@pytest.mark.parametrize(("low", "high"), [((0.0,), None), ((0.0,), (1.0, 2.0)), ((1.0,), (1.0,))])
def test_bounds_that_do_not_go_together_are_refused(low, high):
    with pytest.raises(ValidationError, match="go together"):
        source(REFERENCE, low=low, high=high)


@pytest.mark.parametrize("several", ["last", "mean", "sum"])
def test_at_a_third_of_the_rate_actions_are_what_the_config_says(several):
    found = source(REFERENCE, several=several)
    take = takes(found)[0]
    slower = at_rate(take, found.action_space, source_fps=found.fps, fps=found.fps / 3, name="x").actions["action"]
    whole, first = found.scaling.unscaled(take.actions["action"]), found.scaling.unscaled(slower)[0]
    np.testing.assert_allclose(first, {"last": whole[2], "mean": whole[:3].mean(0), "sum": whole[:3].sum(0)}[several], rtol=1e-4, atol=1e-5)


def test_the_older_layout_is_read(tmp_path):
    found = source(older(tmp_path / "old"))
    assert found.tasks == ("pick", "place")
    for episode, recording in enumerate(found.index()):
        reading = found.read(recording)
        length = (6, 9)[episode]
        np.testing.assert_allclose(
            found.scaling.unscaled(reading.takes[0].actions["action"]), np.arange(2 * length).reshape(length, 2) * (episode + 1), atol=1e-4
        )
        shown = [picture.mean() for picture in reading.pictures]
        np.testing.assert_allclose(shown, [100 * episode + 5 * t for t in range(length)], atol=2)
        assert reading.takes[0].info["task"] == ["pick", "place"][episode]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera": None}, f"several cameras; choose with camera: {TOP} | {WRIST}"),
        ({"camera": "front"}, f"has no camera front; it has {TOP}, {WRIST}"),
        ({"action": "acton"}, "no row of numbers called acton"),
        ({"action": TOP}, "no row of numbers"),
    ],
)
def test_a_choice_that_is_not_there_is_refused_with_what_is(options, message):
    with pytest.raises(UserError) as caught:
        source(REFERENCE, **options).index()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("codebase_version",), "v1.6", "v3.0 and v2.1 are read"),
        (("fps",), 0, "fps"),
        (("fps",), 10**400, "fps"),
        (("fps",), "10", "fps"),
        (("chunks_size",), 10**12, "chunks_size"),
        (("features", "action", "shape"), [10**9], "features.action.shape"),
        (("features",), [], "features"),
        (("data_path",), "/etc/passwd", "leads out"),
        (("data_path",), "../{chunk_index}.parquet", "leads out"),
        (("data_path",), "data/{chunk_index.__class__}", "not of the form"),
        (("data_path",), "data/{chunk_index:>999999999}", "not of the form"),
        (("data_path",), "data/{secret:03d}", "unknown field secret"),
        (("video_path",), "videos/{video_key}/../../../{file_index:03d}.mp4", "leads out"),
        (("video_path",), None, "video_path is not given"),
    ],
)
def test_an_info_file_that_nobody_should_write_is_refused_by_name(copy, place, value, message):
    change(copy / "meta/info.json", *place, to=value)
    with pytest.raises(UserError, match=r"LeRobot data set .*set: ") as caught:
        source(copy).index()
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"fps": NaN}', '{"fps": 1e999}', "\x00"])
def test_an_info_file_that_is_none(copy, text):
    (copy / "meta/info.json").write_text(text)
    with pytest.raises(UserError, match=r"info\.json"):
        source(copy).index()


def test_a_folder_that_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match=r"info\.json: cannot be opened \(No such file"):
        source(tmp_path).index()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (f"videos/{TOP}/from_timestamp", -1.0, "start"),
        (f"videos/{TOP}/from_timestamp", float("nan"), "start"),
        ("data/file_index", 2**60, "data_file"),
        ("length", -3, "length"),
        ("episode_index", 0, "episode 0 stands there twice"),
    ],
)
def test_an_episode_that_nobody_should_write_is_refused_by_name(copy, column, value, message):
    change_column(copy / "meta/episodes/chunk-000/file-000.parquet", column, pa.array([value] * 3))
    with pytest.raises(UserError, match="meta") as caught:
        source(copy).index()
    assert message in str(caught.value)


def test_a_broken_line_of_the_older_layout_is_named(tmp_path):
    found = older(tmp_path / "old")
    with (found / "meta/episodes.jsonl").open("a") as file:
        file.write('\n{"episode_index": "three"}\n')
    with pytest.raises(UserError, match=r"episodes\.jsonl, line 4: episode_index"):
        source(found).index()


def test_actions_without_statistics_name_the_remedy(copy):
    (copy / "meta/stats.json").write_text("{}")
    with pytest.raises(UserError, match="scale: none leaves the actions"):
        takes(source(copy))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("action", pa.array([[1.0, 2.0]] * 39), "does not hold 3 numbers in each"),
        ("action", pa.array([[1.0] * 2, [1.0] * 4] + [[1.0] * 3] * 37), "does not hold 3 numbers in each"),
        ("action", pa.array([[1.0, float("nan"), 1.0]] * 39), "is not finite in row 0"),
        ("action", pa.array([None] * 39, pa.list_(pa.float32())), "column action"),
        ("action", pa.array(["up"] * 39), "column action is string, wanted numbers"),
        ("task_index", pa.array([7] * 39), "task_index 7 is not in"),
        ("frame_index", pa.array([5] * 39), "frame_index does not count from 0"),
        ("episode_index", pa.array([1] * 39), "0 rows of episode-000000"),
    ],
)
def test_rows_that_nobody_should_write_cost_their_episode(copy, column, values, message):
    change_column(copy / "data/chunk-000/file-000.parquet", column, values)
    found = source(copy)
    with pytest.raises(BadRecordingError) as caught:
        found.read(found.index()[0])
    assert "file-000.parquet" in str(caught.value) or "episode" in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_leads_out_of_the_folder_costs_its_episodes(copy, tmp_path):
    data = copy / "data/chunk-000/file-000.parquet"
    data.rename(tmp_path / "elsewhere.parquet")
    data.symlink_to(tmp_path / "elsewhere.parquet")
    found = source(copy)
    with pytest.raises(BadRecordingError, match="is a link that leads out of"):
        found.read(found.index()[0])


def test_a_video_that_is_too_short_costs_the_episodes_that_it_lacks(copy):
    film(copy / "videos" / TOP / "chunk-000/file-000.mp4", list(range(0, 60, 5)))
    found = source(copy)
    first, second, _ = found.index()
    assert len(list(found.read(first).pictures)) == 12
    with pytest.raises(BadRecordingError, match=r"shows no picture at 1\.2000 s; it ends before"):
        list(found.read(second).pictures)


def test_a_video_of_another_rate_is_refused_and_not_shown_out_of_step(copy):
    film(copy / "videos" / TOP / "chunk-000/file-000.mp4", list(range(39)), fps=4)
    found = source(copy)
    with pytest.raises(BadRecordingError, match="the nearest is at"):
        list(found.read(found.index()[0]).pictures)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3), max_leaves=6
)
PLACES = st.sampled_from(
    [("codebase_version",), ("fps",), ("chunks_size",), ("data_path",), ("video_path",), ("features",), ("features", "action")]
    + [("features", "action", "shape"), ("features", "action", "dtype"), ("features", TOP), ("features", TOP, "dtype")]
)


def try_info(folder: Path, place: tuple, value: object):
    """Whatever stands in the info file: it is read, or refused by an error of ours."""
    info = json.loads((REFERENCE / "meta/info.json").read_text())
    inner = info
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / "meta/info.json").write_text(json.dumps(info))
    found = source(folder)
    try:
        readings = [found.read(recording) for recording in found.index()]
        assert sum(len(list(reading.pictures)) for reading in readings) == 39
    except (UserError, BadRecordingError) as error:
        refusal = str(error)
    else:
        return
    assert refusal


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return shutil.copytree(REFERENCE, tmp_path_factory.mktemp("lerobot") / "set")


@settings(max_examples=60, deadline=None)
@given(PLACES, JSON)
def test_no_info_file_crashes_the_reader(scratch, place, value):
    try_info(scratch, place, value)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(PLACES, JSON)
def test_no_info_file_crashes_the_reader_at_length(scratch, place, value):
    try_info(scratch, place, value)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_line_of_the_older_layout_crashes_the_reader(old, line):
    (old / "meta/episodes.jsonl").write_bytes(b'{"episode_index": 0, "tasks": ["pick"], "length": 6}\n' + line)
    found = source(old)
    try:
        assert found.index()[0].name == "episode-000000"
    except UserError as error:
        refusal = str(error)
    else:
        return
    assert "episodes.jsonl" in refusal


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    return older(tmp_path_factory.mktemp("older") / "old")


def test_a_source_travels_to_another_process():
    found = source(REFERENCE)
    recording = found.index()[2]
    travelled = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(travelled.read(recording).takes[0].actions["action"], found.read(recording).takes[0].actions["action"])
