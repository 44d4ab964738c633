"""Clips: the frames that a reference names, with the annotations of those frames and of no others."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamer_ray.data.clips import ClipRef, read_clip

LENGTHS = [9, 14, 6]
EVENTS = {0: [(0, 1), (4, 0)], 1: [(3, 2), (3, 2), (13, 0)], 2: [(5, 1)]}


def ref(episode: int, start: int, length: int, **changes) -> ClipRef:
    return ClipRef(**({"episode": episode, "start": start, "length": length, "task": 0, "relevant": False, "label": True} | changes))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), length=st.integers(1, 6), rows=st.integers(1, 5))
def test_a_clip_holds_what_its_episodes_hold(tmp_path_factory, sets, data, length, rows):
    source = sets.make(tmp_path_factory.mktemp("set"), LENGTHS, events=EVENTS, died=[1])
    refs = []
    for _ in range(rows):
        episode = data.draw(st.integers(0, len(LENGTHS) - 1))
        start = data.draw(st.integers(0, LENGTHS[episode] - length))
        task, relevant, label = data.draw(st.integers(0, 2)), data.draw(st.booleans()), data.draw(st.booleans())
        refs.append(ref(episode, start, length, task=task, relevant=relevant, label=label))
    clip = read_clip(source, refs)
    for row, asked in enumerate(refs):
        episode, span = source.read_episode(asked.episode), slice(asked.start, asked.start + length)
        notes, known = clip.notes, episode.labelled[span] & asked.label
        np.testing.assert_array_equal(clip.frames[row].numpy(), episode.frames[span])
        np.testing.assert_array_equal(notes.labelled[row].numpy(), known)
        np.testing.assert_array_equal(notes.continues[row].numpy(), episode.continues[span])
        np.testing.assert_array_equal(notes.rewards[row].numpy(), episode.events[span, asked.task] > 0)
        for name, values in episode.actions.items():
            mask = known.reshape(-1, *[1] * (values.ndim - 1))
            np.testing.assert_array_equal(notes.actions[name][row].numpy(), np.where(mask, values[span], 0), err_msg=name)
    assert clip.notes.task.tolist() == [asked.task for asked in refs]
    assert clip.notes.relevant.tolist() == [asked.relevant for asked in refs]


def test_the_last_action_of_an_episode_is_not_labelled(tmp_path, sets):
    source = sets.make(tmp_path, LENGTHS)
    inside, end = read_clip(source, [ref(0, 4, 4), ref(0, 5, 4)]).notes.labelled.tolist()
    assert inside == [True] * 4
    assert end == [True] * 3 + [False]


def test_only_the_frame_of_death_does_not_continue(tmp_path, sets):
    source = sets.make(tmp_path, LENGTHS, died=[1])
    continues = read_clip(source, [ref(0, 6, 3), ref(1, 11, 3), ref(1, 10, 3)]).notes.continues
    assert continues.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1]]


def test_two_events_in_one_frame_are_one_reward(tmp_path, sets):
    source = sets.make(tmp_path, LENGTHS, events=EVENTS)
    assert read_clip(source, [ref(1, 2, 3, task=2)]).notes.rewards.tolist() == [[0.0, 1.0, 0.0]]


def test_types_of_a_batch(tmp_path, sets):
    clip = read_clip(sets.make(tmp_path, LENGTHS), [ref(0, 0, 3), ref(2, 1, 3)])
    assert clip.frames.dtype == torch.uint8
    assert clip.frames.shape == (2, 3, *sets.schema.frame_shape, 3)
    notes = clip.notes
    assert (notes.labelled.dtype, notes.rewards.dtype, notes.continues.dtype) == (torch.bool, torch.float32, torch.float32)
    assert (notes.task.dtype, notes.relevant.dtype) == (torch.int64, torch.bool)
    assert {name: (value.dtype, tuple(value.shape)) for name, value in notes.actions.items()} == {
        "keys": (torch.int64, (2, 3, 3)),
        "mouse": (torch.int64, (2, 3)),
        "arm": (torch.float32, (2, 3, 2)),
    }


def test_a_clip_is_a_copy(tmp_path, sets):
    """Training may write into a batch; the cache of episodes must not notice."""
    source = sets.make(tmp_path, LENGTHS)
    first = read_clip(source, [ref(0, 0, 3)])
    before = first.notes.actions["mouse"].clone()
    first.notes.actions["mouse"].fill_(4)
    first.notes.labelled.fill_(False)
    again = read_clip(source, [ref(0, 0, 3)]).notes
    assert torch.equal(again.actions["mouse"], before)
    assert again.labelled.all()
