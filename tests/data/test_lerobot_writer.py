"""LeRobot data sets that are written here: read back, and in the form that lerobot reads (tried with lerobot 0.4.4)."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from dreamer_ray.data.lerobot import LeRobotConfig, LeRobotSource
from dreamer_ray.data.lerobot_writer import CAMERA, LeRobotFormat, LeRobotWriter, RobotEpisode
from dreamer_ray.errors import UserError

LENGTHS = (9, 30, 5, 14)


def form(**options) -> LeRobotFormat:
    return LeRobotFormat.model_validate({"fps": 15, "frame_shape": (48, 64), "action_names": ("shoulder", "elbow")} | options)


def episode(number: int, length: int) -> RobotEpisode:
    rng = np.random.default_rng(number)
    frames = np.empty((length, 48, 64, 3), np.uint8)
    frames[:] = (50 * number + 4 * np.arange(length))[:, None, None, None] % 256
    actions = rng.normal(size=(length, 2)).astype(np.float32) * 3
    success = np.arange(length) == (length - 1 if number % 2 else length // 2)
    return RobotEpisode(frames, actions, rng.random(length).astype(np.float32), success, number % 2 == 0, ["reach", "push"][number % 2])


@pytest.fixture
def episodes() -> list[RobotEpisode]:
    return [episode(number, length) for number, length in enumerate(LENGTHS)]


def write(folder, episodes, **options):
    with LeRobotWriter(folder, form(**options)) as writer:
        for each in episodes:
            writer.add(each)
    return LeRobotSource(LeRobotConfig(kind="lerobot", path=str(folder)))


@pytest.mark.parametrize("file_bytes", [3000, 2**20], ids=["files roll over", "one file"])
def test_what_is_written_is_read(tmp_path, episodes, file_bytes):
    found = write(tmp_path / "set", episodes, file_bytes=file_bytes)
    assert (found.fps, found.tasks, found.camera) == (15, ("reach", "push"), CAMERA)
    files = {file for recording in found.index() for file in recording.files}
    assert (len(files) > 2) == (file_bytes < 2**20)
    for wanted, recording in zip(episodes, found.index(), strict=True):
        reading = found.read(recording)
        (take,) = reading.takes
        shown = np.stack(list(reading.pictures)).astype(int)
        assert np.abs(shown - wanted.frames).max() <= 3
        np.testing.assert_allclose(found.scaling.unscaled(take.actions["action"]), wanted.actions, atol=1e-5)
        arrives = min(int(np.flatnonzero(wanted.success)[0]) + 1, len(shown) - 1)
        assert np.argwhere(take.events).tolist() == [[arrives, found.tasks.index(wanted.task)]]
        assert take.continues[-1] == (0 if wanted.terminated else 1)
        assert take.continues[:-1].all()


def test_the_meta_folder_counts_and_describes_what_there_is(tmp_path, episodes):
    write(tmp_path / "set", episodes)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (4, sum(LENGTHS), 2)
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    actions = np.concatenate([each.actions for each in episodes]).astype(np.float64)
    for name, value in {"min": actions.min(0), "max": actions.max(0), "mean": actions.mean(0), "std": actions.std(0)}.items():
        np.testing.assert_allclose(stats["action"][name], value, rtol=1e-5)
    assert stats["action"]["count"] == [sum(LENGTHS)]
    assert set(stats) == set(info["features"])
    assert np.shape(stats[CAMERA]["mean"]) == (3, 1, 1)
    rows = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    assert rows["index"].to_pylist() == list(range(sum(LENGTHS)))
    entries = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [entry["dataset_to_index"] - entry["dataset_from_index"] for entry in entries] == list(LENGTHS)


def test_tasks_are_the_index_of_a_pandas_frame(tmp_path, episodes):
    write(tmp_path / "set", episodes)
    frame = pq.read_table(tmp_path / "set/meta/tasks.parquet").to_pandas()
    assert frame.index.tolist() == ["reach", "push"] and frame["task_index"].tolist() == [0, 1]


def test_a_recording_that_fails_leaves_nothing(tmp_path, episodes):
    with pytest.raises(ZeroDivisionError), LeRobotWriter(tmp_path / "set", form()) as writer:
        writer.add(episodes[0])
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_was_killed_is_begun_anew(tmp_path, episodes):
    (tmp_path / ".set.partial" / "data").mkdir(parents=True)
    (tmp_path / ".set.partial" / "data" / "left").write_text("over")
    write(tmp_path / "set", episodes)
    assert not list(tmp_path.rglob("left"))


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"frame_shape": (47, 64)}, {}, "47 x 64; H.264 wants even sides"),
        ({"action_names": ("one",)}, {}, r"actions of shape \(9, 2\), wanted \(9, 1\)"),
        ({}, {"frames": np.zeros((0, 48, 64, 3), np.uint8)}, "frames of shape"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, change, message):
    first = RobotEpisode(**vars(episode(0, 9)) | change)
    with pytest.raises(UserError, match=message):
        write(tmp_path / "set", [first], **options)


def test_no_data_set_is_overwritten_and_none_is_empty(tmp_path, episodes):
    with pytest.raises(UserError, match="no episode was added"):
        write(tmp_path / "set", [])
    write(tmp_path / "set", episodes[:1])
    with pytest.raises(UserError, match="is there already"):
        write(tmp_path / "set", episodes)
