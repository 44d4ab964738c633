"""Worlds of a Gymnasium environment: what a model trained on recordings of it sees there, does there, and is told there."""

import numpy as np
import pytest

from dreamer_ray.data.environment import EnvironmentRecording, record_environment
from dreamer_ray.data.layout import PictureLayout, picture_maker
from dreamer_ray.data.lerobot import LeRobotConfig, LeRobotSource
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.envs.gymnasium_env import EnvironmentConfig
from dreamer_ray.errors import UserError
from dreamer_ray.evaluation.gymnasium_worlds import GymnasiumWorlds

UPRIGHT = {"kind": "state", "name": "upright", "low": [0.95, None, -1.0], "high": [None, None, 1.0], "hold": 3}
LAYOUT = PictureLayout(shape=(24, 32))
LENGTH = 50


def environment(**changes) -> EnvironmentConfig:
    values = {"id": "Pendulum-v1", "repeat": 2, "size": (64, 64), "tasks": (UPRIGHT, UPRIGHT | {"name": "steady", "hold": 20})}
    return EnvironmentConfig.model_validate(values | changes, strict=False)


@pytest.fixture(scope="module", params=["range", "none"])
def source(request, tmp_path_factory) -> LeRobotConfig:
    """Four recorded episodes; the actions of the data set are scaled, or left alone."""
    folder = tmp_path_factory.mktemp("recorded") / "set"
    plan = EnvironmentRecording(environment=environment(), task="upright", length=LENGTH, episodes=4, noise=(0.0, 0.5))
    record_environment(plan, folder)
    return LeRobotConfig(kind="lerobot", path=str(folder), scale=request.param)


def worlds(source: LeRobotConfig, *, tasks=("upright",), **changes) -> GymnasiumWorlds:
    recordings = RecordingsConfig.model_validate(
        {"sources": ({"source": source},), "layout": LAYOUT, "episode_frames": LENGTH}, strict=False
    )
    return GymnasiumWorlds(environment(**changes), recordings, tasks=tasks, ladder=tasks, length=LENGTH)


def test_the_recorded_actions_as_the_model_knows_them_lead_to_the_recorded_pictures_and_events(source):
    found, fit = LeRobotSource(source), picture_maker(LAYOUT)
    for seed, recording in enumerate(found.index()):
        reading = found.read(recording)
        (take,) = reading.takes
        world = worlds(source).make()
        frames, events = [world.reset(seed=seed)[0]], [0]
        for action in take.actions["action"]:
            frame, _, terminated, truncated, info = world.step(action)
            frames.append(frame)
            events.append(int(info["events"][0]))
        assert (terminated, truncated) == (False, True)
        recorded = np.stack([fit(picture) for picture in reading.pictures]).astype(int)
        assert frames[0].shape == (24, 32, 3)
        assert np.abs(recorded - np.stack(frames[:-1])).mean() < 2
        last = events[-2] + events[-1]
        assert take.events[:, 0].tolist() == [*events[:-2], last]


def test_the_task_to_be_done_is_the_lowest_of_the_ladder_that_is_not_achieved(source):
    both = worlds(source, tasks=("steady", "upright"))
    both = GymnasiumWorlds(both.environment, both.recordings, tasks=both.tasks, ladder=("upright", "steady"), length=LENGTH)
    assert [both.prompt(counts) for counts in ([0, 0], [0, 2], [1, 1], [1, 0])] == [1, 0, 0, 1]


def test_a_world_tells_of_the_events_of_all_tasks_in_the_order_of_the_data(source):
    world = worlds(source, tasks=("steady", "upright")).make()
    _, info = world.reset(seed=0)
    assert info["events"].tolist() == [0, 0]


def test_other_worlds_than_the_recorded_ones_are_refused(source):
    with pytest.raises(UserError, match="has 30 pictures a second, the recordings 15; set repeat and fps"):
        worlds(source, repeat=1).make()
    with pytest.raises(UserError, match="no rule for the task 'balanced'"):
        worlds(source, tasks=("balanced",)).make()
    recordings = RecordingsConfig.model_validate(
        {"sources": ({"source": {"kind": "videos", "path": "here"}},), "layout": LAYOUT}, strict=False
    )
    with pytest.raises(UserError, match="first source is of kind lerobot, not videos"):
        GymnasiumWorlds(environment(), recordings, tasks=("upright",), ladder=("upright",), length=LENGTH).make()


def test_the_path_of_the_recordings_takes_the_place_of_the_sources(source, tmp_path):
    moved = worlds(source.model_copy(update={"path": str(tmp_path / "gone")}))
    recordings = moved.recordings.model_copy(update={"path": source.path})
    GymnasiumWorlds(moved.environment, recordings, tasks=("upright",), ladder=("upright",), length=LENGTH).make()
