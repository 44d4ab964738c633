"""The closed loop with continuous actions: what is done in a Gymnasium environment, by whom, and that it repeats."""

import numpy as np
import pytest
import torch

from dreamer_ray.data.environment import EnvironmentRecording, record_environment
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.lerobot import LeRobotConfig, LeRobotSource
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.envs.gymnasium_env import EnvironmentConfig
from dreamer_ray.evaluation.episodes import RandomPlayer, play
from dreamer_ray.evaluation.gymnasium_worlds import GymnasiumWorlds
from dreamer_ray.imagination.session import ActingSession
from dreamer_ray.types import Continuous

UPRIGHT = {"kind": "state", "name": "upright", "low": [0.95, None, -1.0], "high": [None, None, 1.0], "hold": 3}
SPACE = {"action": Continuous(size=1)}
LENGTH, EPISODES = 40, 4


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> LeRobotConfig:
    folder = tmp_path_factory.mktemp("recorded") / "set"
    environment = EnvironmentConfig.model_validate({"id": "Pendulum-v1", "repeat": 2, "size": (32, 32), "tasks": (UPRIGHT,)}, strict=False)
    record_environment(
        EnvironmentRecording(environment=environment, task="upright", length=LENGTH, episodes=EPISODES, noise=(0.0, 0.9)), folder
    )
    return LeRobotConfig(kind="lerobot", path=str(folder))


@pytest.fixture
def worlds(recorded) -> GymnasiumWorlds:
    environment = EnvironmentConfig.model_validate({"id": "Pendulum-v1", "repeat": 2, "size": (32, 32), "tasks": (UPRIGHT,)}, strict=False)
    values = {"sources": ({"source": recorded},), "layout": PictureLayout(shape=(8, 8)), "episode_frames": LENGTH}
    recordings = RecordingsConfig.model_validate(values, strict=False)
    return GymnasiumWorlds(environment, recordings, tasks=("upright",), ladder=("upright",), length=LENGTH)


class Repeats:
    """Does what was recorded; episode i in world i."""

    def __init__(self, actions: np.ndarray):
        self.actions, self.step = torch.from_numpy(actions), -1

    def act(self, frames, task, *, first):
        self.step += 1
        return {"action": self.actions[:, self.step]}


def test_who_repeats_the_recorded_actions_achieves_what_was_achieved(recorded, worlds):
    source = LeRobotSource(recorded)
    takes = [source.read(recording).takes[0] for recording in source.index()]
    results = play(Repeats(np.stack([take.actions["action"] for take in takes])), range(EPISODES), worlds)
    assert [result.counts[0] for result in results] == [int(take.events[:, 0].sum()) for take in takes]
    assert 0 < sum(result.counts[0] > 0 for result in results) < EPISODES
    for result, take in zip(results, takes, strict=True):
        arrived = np.flatnonzero(take.events[:, 0])
        assert result.first_step == [arrived[0] if len(arrived) else -1]
        assert (result.steps, result.died) == (LENGTH, False)


def test_random_play_covers_the_range_of_the_actions(worlds):
    player = RandomPlayer(SPACE, torch.Generator().manual_seed(0))
    drawn = torch.cat([player.act(torch.zeros(64, 8, 8, 3), torch.zeros(64), first=torch.zeros(64))["action"] for _ in range(20)])
    assert drawn.shape == (1280, 1) and drawn.min() < -0.98 and drawn.max() > 0.98 and drawn.abs().max() <= 1
    assert abs(drawn.mean()) < 0.06
    assert [result.steps for result in play(player, range(2), worlds)] == [LENGTH] * 2


def test_an_agent_plays_and_its_seeds_decide_what_it_does(tiny, worlds):
    agent, tokenizer, done = tiny.agent(space=SPACE), tiny.tokenizer(), []

    class Heard(ActingSession):
        def act(self, frames, task, *, first):
            done.append(super().act(frames, task, first=first)["action"])
            return {"action": done[-1]}

    for seeds in ([7, 8], [7, 8], [9, 8]):
        play(Heard(tokenizer, agent, seeds=seeds), [7, 8], worlds)
    one, again, other = torch.stack(done).unflatten(0, (3, LENGTH))
    assert one.shape == (LENGTH, 2, 1)
    assert torch.equal(one, again)
    assert not torch.equal(one[:, 0], other[:, 0]) and torch.allclose(one[:, 1], other[:, 1], atol=1e-4)
