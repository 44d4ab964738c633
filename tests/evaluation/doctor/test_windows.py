"""What the check-ups measure, on windows and models whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamer_ray.data.rows import Episode, ShardSchema
from dreamer_ray.data.shards import commit_manifest, open_shards, write_shard
from dreamer_ray.evaluation.checkups.long_dreams import LongDreams, measure_long
from dreamer_ray.evaluation.checkups.pictures import measure_pictures
from dreamer_ray.evaluation.checkups.returns import Discount, expectations
from dreamer_ray.evaluation.checkups.revisits import Memory, find_returns
from dreamer_ray.evaluation.checkups.steering import measure_steering
from dreamer_ray.evaluation.checkups.windows import Recordings, dreamed_on, latent_errors, part
from dreamer_ray.types import Categorical, Clip

SPACE = {"move": Categorical(size=4)}


def episode(name: str, shades: list[int], ended: bool = False, event: int | None = None) -> Episode:
    count = len(shades)
    continues = np.ones(count, np.float32)
    continues[-1] = 0.0 if ended else 1.0
    events = np.zeros((count, 1), np.uint8)
    if event is not None:
        events[event] = 1
    return Episode(
        name=name,
        frames=np.array(shades, np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3),
        actions={"move": np.zeros(count, np.int64)},
        labelled=np.arange(count) < count - 1,
        events=events,
        continues=continues,
        info={},
    )


def shards(folder, episodes):
    schema = ShardSchema(codec="png", frame_shape=(8, 8), action_space=SPACE, tasks=("gold",), fps=5.0)
    commit_manifest(folder, schema, [write_shard(folder, "a.parquet", episodes, schema)], made_by={}, parents={})
    return open_shards(folder)


def test_whole_episodes_are_covered_to_their_ends(tmp_path):
    found = Recordings(shards(tmp_path, [episode("a", [0] * 11, ended=True), episode("b", [9] * 8), episode("c", [5] * 3)]), ("gold",), 0)
    refs = found.whole(100, 4)
    assert sorted((ref.episode, ref.start) for ref in refs) == [(0, 3), (0, 7), (1, 0), (1, 4)]
    assert float(found.pictures(refs).notes.continues.min()) == 0.0
    assert found.longest == 11
    assert len(found.whole(1, 4)) == 2


def test_whole_episodes_have_the_prompt_that_a_player_would_have_there(tmp_path):
    schema = ShardSchema(codec="png", frame_shape=(8, 8), action_space=SPACE, tasks=("stone", "wood", "table"), fps=5.0)
    events = np.zeros((12, 3), np.uint8)
    events[[4, 9], [1, 2]] = 1
    made = write_shard(tmp_path, "a.parquet", [replace(episode("a", [0] * 12), events=events)], schema)
    commit_manifest(tmp_path, schema, [made], made_by={}, parents={})
    refs = Recordings(open_shards(tmp_path), ("wood", "table"), 0).whole(100, 2)
    assert [(ref.start, schema.tasks[ref.task]) for ref in sorted(refs, key=lambda ref: ref.start)] == [
        (0, "wood"),
        (2, "wood"),
        (4, "wood"),
        (6, "table"),
        (8, "table"),
        (10, "table"),
    ]


def test_windows_about_events_are_drawn_only_where_there_are_any(tmp_path):
    empty = Recordings(shards(tmp_path / "a", [episode("a", [0] * 20)]), ("gold",), 0)
    assert not any(ref.relevant for ref in empty.drawn(6, 4, relevant=0.5))
    found = Recordings(shards(tmp_path / "b", [episode("a", [0] * 20, event=9)]), ("gold",), 0)
    refs = found.drawn(6, 4, relevant=0.5)
    assert sum(ref.relevant for ref in refs) == 3
    assert float(found.pictures(refs).notes.rewards[[ref.relevant for ref in refs]].sum()) == 3


def test_windows_of_due_tasks_end_before_their_event(tmp_path):
    found = Recordings(shards(tmp_path, [episode("a", [0] * 20, event=9)]), ("gold",), 0)
    refs = found.drawn(6, 4, relevant=1.0, lookahead=2, due=True)
    assert all(ref.relevant and 6 <= ref.start + 3 <= 8 for ref in refs)
    assert not any(ref.relevant for ref in found.drawn(6, 1, relevant=1.0)), "one frame cannot hold an event and the frame before it"
    assert found.following.tolist() == [0]


def test_a_return_is_a_frame_seen_again_after_it_was_gone(tmp_path):
    memory = Memory(8)
    assert (memory.dreamed, memory.kept) == (1, 1)
    shades = [0, 60, 0, 60, 0, 60, 0, 255]
    back = find_returns(shards(tmp_path / "a", [episode("a", shades)]), memory, most=9, generator=np.random.default_rng(0))
    assert (back.again, [ref.start for ref in back.new]) == ([], [0])
    shades = [10, 60, 110, 160, 210, 250, 200, 60]
    back = find_returns(shards(tmp_path / "b", [episode("a", shades)]), memory, most=9, generator=np.random.default_rng(0))
    assert [(ref.start, ref.length) for ref in back.again] == [(0, 8)]
    still = find_returns(shards(tmp_path / "c", [episode("a", [60] * 30)]), memory, most=9, generator=np.random.default_rng(0))
    assert still.again == still.new == []


def test_frames_that_stand_still_at_a_return_are_one_return(tmp_path):
    shades = [10, 60, 110, 160, 210, 250, 200, *(60,) * 6]
    found = find_returns(shards(tmp_path, [episode("a", shades)]), Memory(8), most=9, generator=np.random.default_rng(0))
    assert [ref.start for ref in found.again] == [0]


def test_a_return_that_never_left_sight_is_none(tmp_path):
    shades = [10, 60, 110, 160, 210, 250, 60, 60]
    found = find_returns(shards(tmp_path, [episode("a", shades)]), Memory(8), most=9, generator=np.random.default_rng(0))
    assert found.again == []


def test_a_perfect_tokenizer_keeps_all_detail_and_a_constant_one_none(tiny, monkeypatch):
    tokenizer, frames = tiny.tokenizer(), torch.randint(0, 256, (6, 2, 8, 8, 3), generator=tiny.generator(), dtype=torch.uint8)
    clip = Clip(frames, tiny.clip(6, 2).notes)
    monkeypatch.setattr(tokenizer, "decode", lambda latents: frames / 255)
    found = measure_pictures(tokenizer, clip, tile=3)
    assert found.detail == pytest.approx(1.0) and found.spread == pytest.approx(1.0)
    assert found.tile_errors.shape == found.tile_block_errors.shape == (3, 3)
    assert float(found.tile_errors.max()) == 0.0 < float(found.tile_block_errors.min())
    monkeypatch.setattr(tokenizer, "decode", lambda latents: torch.full((6, 2, 8, 8, 3), 0.5))
    found = measure_pictures(tokenizer, clip, tile=3)
    assert found.detail == found.spread == 0.0


def test_of_the_change_of_each_tile_is_told_what_is_there_again(tiny, monkeypatch):
    tokenizer, frames = tiny.tokenizer(), torch.zeros(6, 1, 8, 8, 3, dtype=torch.uint8)
    frames[::2, :, :4] = 200
    frames[0, :, 4:, 4:] = 200
    clip = Clip(frames, tiny.clip(6, 1).notes)
    rebuilt = frames / 255
    rebuilt[..., :4, 4:, :] = 0.25 * rebuilt[..., :4, 4:, :] + 0.5
    monkeypatch.setattr(tokenizer, "decode", lambda latents: rebuilt)
    found = measure_pictures(tokenizer, clip, tile=4)
    assert torch.allclose(found.tile_changes, torch.tensor([[1.0, 1.0], [0.0, 0.2]]))
    assert torch.allclose(found.tile_kept, torch.tensor([[1.0, 0.25], [0.0, 1.0]]))


def test_a_number_that_never_changes_is_dead(tiny):
    tokenizer = tiny.tokenizer()
    with torch.no_grad():
        tokenizer.bottleneck.weight[0] = 0
    clip = Clip(torch.randint(0, 256, (6, 2, 8, 8, 3), generator=tiny.generator(), dtype=torch.uint8), tiny.clip(6, 2).notes)
    assert measure_pictures(tokenizer, clip, tile=8).dead == pytest.approx(1 / tiny.channels)


def test_dreams_under_other_actions_are_those_of_another_window(tiny):
    dynamics, clip = tiny.dynamics(space=SPACE), tiny.clip(5, 7, space=SPACE)
    clip.notes.labelled[1, 5] = False
    found = measure_steering(dynamics, clip, context=4, steps=2, generator=tiny.generator())
    assert found.own.shape == found.other.shape == (4, 3), "of the window with an unknown action nothing can be told"
    known = clip.rows(torch.tensor([0, 2, 3, 4]))
    seeds = torch.randint(2**62, (4,), generator=tiny.generator()).tolist()
    own = dreamed_on(dynamics, known, context=4, steps=2, seeds=seeds)
    assert torch.allclose(found.own, latent_errors(dynamics, own, known.latents[:, 4:]))
    with torch.no_grad():
        dynamics.actions.components[0].weight[:] = dynamics.actions.components[0].weight[0]
    found = measure_steering(dynamics, clip, context=4, steps=2, generator=tiny.generator())
    assert torch.equal(found.own, found.other)


def test_steering_is_not_measured_without_known_actions(tiny):
    clip = tiny.clip(3, 7, space=SPACE)
    clip.notes.labelled[1:] = False
    assert measure_steering(tiny.dynamics(space=SPACE), clip, context=4, steps=2, generator=tiny.generator()) is None


def long_dreams(dream: torch.Tensor, truth: torch.Tensor, episodes: list[int]) -> LongDreams:
    return LongDreams(truth, dream, truth[:, :1], torch.tensor(episodes), 4)


def test_the_nearest_frame_is_looked_for_in_other_episodes():
    truth = torch.zeros(2, 20, 1, 1)
    truth[1] = 3.0
    found = measure_long(long_dreams(truth + 1, truth, [0, 1]), {})
    assert found.real_distance == (3.0,) * 10
    assert found.dream_distance == (3.0,) * 10, "of 1 to 3 and of 4 to 0"


def test_one_episode_has_no_distance():
    truth = torch.zeros(2, 20, 1, 1)
    assert measure_long(long_dreams(truth, truth, [3, 3]), {}).dream_distance == ()


def test_change_is_that_from_frame_to_frame():
    truth = torch.arange(20.0).reshape(1, 20, 1, 1).repeat(2, 1, 1, 1)
    found = measure_long(long_dreams(2 * truth, truth, [0, 1]), {})
    assert found.real_change[1:] == (1.0,) * 9
    assert found.dream_change[1:] == (4.0,) * 9
    assert (found.frames, found.ends[0], found.ends[-1]) == (20, 2, 20)


def test_returns_count_as_many_rewards_of_each_state_and_none_behind_an_end():
    rewards, continues = torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    values = torch.zeros(1, 5)
    found = expectations(values, rewards, torch.ones(1, 4), Discount(0.5, 1.0), 2)
    assert found.returns.tolist() == [2.0, 4.0, 8.0]
    found = expectations(values, rewards, continues, Discount(0.5, 1.0), 2)
    assert found.returns.tolist() == [2.0, 2.0], "the state behind the end is left out"


def test_a_part_of_a_clip_keeps_what_is_known_of_its_frames(tiny):
    clip = tiny.clip(2, 6, space=SPACE)
    found = part(clip, slice(2, 5))
    assert torch.equal(found.latents, clip.latents[:, 2:5])
    assert torch.equal(found.notes.actions["move"], clip.notes.actions["move"][:, 2:5])
    assert torch.equal(found.notes.rewards, clip.notes.rewards[:, 2:5])
    assert torch.equal(found.notes.task, clip.notes.task)
