import numpy as np
import pytest
from pydantic import ValidationError

from dreamer_ray.config_file import parse_config
from dreamer_ray.data.crafter import EpisodePlan, RecordConfig, episode_plan, record_episode, shard_schema
from dreamer_ray.envs.crafter import TASKS, CrafterEnv
from dreamer_ray.errors import UserError


def config(**changes) -> RecordConfig:
    return RecordConfig(**({"episodes": 7, "holdout_episodes": 3, "length": 40} | changes))


@pytest.fixture(scope="module")
def episode():
    return record_episode(config(), EpisodePlan("train-000000", "train", 3, 0.15))


def test_an_episode_keeps_the_contract(episode):
    frames = 41
    assert episode.frames.shape == (frames, 72, 72, 3)
    assert episode.frames.dtype == np.uint8
    assert episode.actions["action"].shape == (frames,)
    assert episode.events.shape == (frames, len(TASKS))
    assert episode.events.dtype == np.uint8
    assert episode.labelled.tolist() == [True] * (frames - 1) + [False]
    assert episode.actions["action"][-1] == 0
    assert episode.continues.dtype == np.float32
    assert (episode.continues == 1).all(), "the step limit is no death"
    assert not episode.events[0].any()
    assert episode.info == {"seed": 3, "noise": 0.15, "skill": 1.0, "attempts": 0.0}
    assert shard_schema(config()).frame_shape == (72, 72)


def test_replaying_the_actions_gives_the_frames_and_events(episode):
    env = CrafterEnv(config().world())
    frame, _ = env.reset(seed=3)
    assert np.array_equal(frame, episode.frames[0])
    for t, action in enumerate(episode.actions["action"][:-1], start=1):
        frame, _, _, _, info = env.step(int(action))
        assert np.array_equal(frame, episode.frames[t])
        assert np.array_equal(info["events"], episode.events[t])


def test_death_ends_the_episode_with_continue_zero(monkeypatch):
    def struck(self, action, step=CrafterEnv.step):
        self._game.player.health = 0
        return step(self, action)

    monkeypatch.setattr(CrafterEnv, "step", struck)
    episode = record_episode(config(), EpisodePlan("train-000000", "train", 3, 0.0))
    assert episode.continues.tolist() == [1.0, 0.0]
    assert episode.labelled.tolist() == [True, False]


def test_the_plan_is_fixed_and_shares_no_world():
    plan = episode_plan(config())
    assert plan == episode_plan(config())
    assert [episode.noise for episode in plan[:6]] == [0.0, 0.05, 0.15, 0.3, 0.6, 0.0]
    assert [episode.skill for episode in episode_plan(config(skill=(1.0, 0.5)))[:3]] == [1.0, 0.5, 1.0]
    assert len({episode.name for episode in plan}) == len({episode.seed for episode in plan}) == 10
    more = episode_plan(config(episodes=9))
    assert [e for e in more if e.split == "heldout"] == [e for e in plan if e.split == "heldout"]
    assert not {e.seed for e in plan} & {e.seed for e in episode_plan(config(seed=1))}


@pytest.mark.parametrize("seed", [0, 1, 2, 999])
def test_recorded_worlds_are_not_those_of_evaluation(seed):
    assert not {episode.seed for episode in episode_plan(config(seed=seed))} & set(range(1_000_000, 1_001_000))


def test_noise_is_a_share():
    with pytest.raises(UserError, match="noise"):
        parse_config(RecordConfig, {"episodes": 1, "holdout_episodes": 1, "noise": [1.5]}, "here")
    with pytest.raises(UserError, match="noise"):
        parse_config(RecordConfig, {"episodes": 1, "holdout_episodes": 1, "noise": []}, "here")


def test_shares_are_taken_in_turn():
    plan = episode_plan(config(attempts=(0.0, 0.2, 0.4)))
    assert [episode.attempts for episode in plan[:4]] == [0.0, 0.2, 0.4, 0.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attempts": (1.4,)}, "less than or equal to 1"),
        ({"ladder": ("collect_wood", "fly")}, "fly is no task of Crafter"),
        ({"ladder": ("collect_wood", "collect_wood")}, "stands there twice"),
        ({"ladder": ()}, "at least 1"),
    ],
)
def test_what_cannot_be_recorded_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        config(**changes)
