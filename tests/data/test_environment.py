"""Recorded play of a Gymnasium environment: a LeRobot data set that can be cut off, gone on with, and made again."""

import json

import numpy as np
import pytest

from dreamer_ray.data import environment
from dreamer_ray.data.environment import PLAN, EnvironmentRecording, record_environment
from dreamer_ray.data.lerobot import LeRobotConfig, LeRobotSource
from dreamer_ray.errors import UserError

TASK = {"kind": "state", "name": "upright", "low": [0.95, None, -1.0], "high": [None, None, 1.0], "hold": 3}
ENVIRONMENT = {"id": "Pendulum-v1", "repeat": 2, "size": (32, 32), "tasks": (TASK,)}


def plan(**changes) -> EnvironmentRecording:
    values = {"environment": ENVIRONMENT, "task": "upright", "length": 40, "episodes": 4, "noise": (0.0, 0.9)} | changes
    return EnvironmentRecording.model_validate(values, strict=False)


def rows(folder):
    source = LeRobotSource(LeRobotConfig(kind="lerobot", path=str(folder)))
    readings = [source.read(recording) for recording in source.index()]
    return [(reading.takes[0], np.stack(list(reading.pictures))) for reading in readings]


def same(one, other) -> bool:
    pairs = zip(rows(one), rows(other), strict=True)
    return all(
        np.array_equal(a.actions["action"], b.actions["action"]) and np.array_equal(a.events, b.events) and np.array_equal(x, y)
        for (a, x), (b, y) in pairs
    )


def test_a_lerobot_data_set_with_successes_and_failures_is_written(tmp_path):
    made = record_environment(plan(), tmp_path / "set")
    source = LeRobotSource(LeRobotConfig(kind="lerobot", path=str(tmp_path / "set")))
    assert (source.fps, source.tasks, source.action_space["action"].size) == (15, ("upright",), 1)
    found = rows(tmp_path / "set")
    assert [pictures.shape for _, pictures in found] == [(40, 32, 32, 3)] * 4
    assert [bool(take.events.any()) for take, _ in found] == [episode["first_done"] is not None for episode in made["episodes"]]
    assert any(take.events.any() for take, _ in found) and not all(take.events.any() for take, _ in found)
    assert all(take.continues.all() for take, _ in found)
    for (take, _), episode in zip(found, made["episodes"], strict=True):
        if episode["first_done"]:
            assert np.flatnonzero(take.events[:, 0])[0] == min(episode["first_done"], 39)


def test_each_episode_has_its_seed_and_the_next_of_the_noise_levels(tmp_path):
    made = record_environment(plan(episodes=3, length=5, seed=2), tmp_path / "set")
    assert [(episode["seed"], episode["noise"]) for episode in made["episodes"]] == [
        (20_000_000, 0.0),
        (20_000_001, 0.9),
        (20_000_002, 0.0),
    ]
    assert json.loads((tmp_path / "set" / PLAN).read_text()) == made


def test_equal_plans_give_equal_data_and_other_seeds_other_data(tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        record_environment(plan(episodes=2, length=10, seed=seed), tmp_path / name)
    assert same(tmp_path / "one", tmp_path / "again") and not same(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("written", [False, True], ids=["while it plays", "while it writes"])
def test_what_was_killed_goes_on_with_the_episodes_that_are_missing(tmp_path, monkeypatch, written):
    played, record_episode = [], environment.record_episode

    def counted(env, script, seed, noise):
        if len(played) == 2 and not written:
            raise KeyboardInterrupt
        played.append(seed)
        return record_episode(env, script, seed, noise)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environment, "record_episode", counted)
        if written:
            patch.setattr(environment.LeRobotWriter, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            record_environment(plan(length=10), tmp_path / "set")
    assert not (tmp_path / "set").exists()
    monkeypatch.setattr(environment, "record_episode", lambda *values: played.append(values[2]) or record_episode(*values))
    record_environment(plan(length=10), tmp_path / "set")
    assert played == [0, 1, 2, 3]
    record_environment(plan(length=10), tmp_path / "whole")
    assert same(tmp_path / "set", tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "whole"]


def test_what_is_there_already_is_not_played_again(tmp_path, monkeypatch):
    made = record_environment(plan(episodes=1, length=5), tmp_path / "set")
    monkeypatch.setattr(environment, "PictureEnv", None)
    assert record_environment(plan(episodes=1, length=5), tmp_path / "set") == made


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    record_environment(plan(episodes=1, length=5), tmp_path / "set")
    with pytest.raises(UserError, match="is there already, and not recorded with these values"):
        record_environment(plan(episodes=2, length=5), tmp_path / "set")
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="photos: is there already"):
        record_environment(plan(), tmp_path / "photos")


def test_a_recording_that_was_begun_with_other_values_is_not_mixed_with_this_one(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environment, "record_episode", killed)
        with pytest.raises(KeyboardInterrupt):
            record_environment(plan(), tmp_path / "set")
    with pytest.raises(UserError, match="a recording with another length, noise was begun there"):
        record_environment(plan(length=41, noise=(1.0,)), tmp_path / "set")


def test_an_environment_without_a_script_is_played_at_random_only(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "SCRIPTS", {})
    with pytest.raises(UserError, match=r"no script plays it .*--noise 1 plays at random"):
        record_environment(plan(), tmp_path / "set")
    record_environment(plan(episodes=1, length=30, noise=(1.0,)), tmp_path / "set")
    ((take, _),) = rows(tmp_path / "set")
    assert len(np.unique(take.actions["action"])) == 30


def test_a_disk_that_is_full_is_named_and_what_was_played_is_kept(tmp_path, monkeypatch):
    from dreamer_ray.errors import RunError

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(environment.np, "savez_compressed", full)
    with pytest.raises(RunError, match=r"No space left on device.*what was played is kept"):
        record_environment(plan(), tmp_path / "set")
