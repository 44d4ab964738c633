"""Takes at another rate and cut into episodes: no frame twice, no event lost."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_ray.data.gops import BEFORE_KEYFRAME, packet_episodes, runs
from dreamer_ray.data.packets import CodedPacket
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.sources import BadRecordingError, Motion, Take
from dreamer_ray.data.stretches import Stretch, as_recorded, at_rate, chosen, evenly, filled
from dreamer_ray.data.vpt_actions import MOUSE_BINS, MOUSE_MOTION, decode_mouse, encode_mouse
from dreamer_ray.types import ActionSpace, Binary, Categorical, Continuous

SPACE: ActionSpace = {
    "keys": Binary(size=2),
    "weapon": Categorical(size=9),
    "arm": Continuous(size=1),
    "mouse": Categorical(size=MOUSE_BINS),
    "way": Continuous(size=2),
}
SCALING = Scaling.between([-10, 0], [30, 4])
HALF_A_CELL = 2.36
"""Degrees, of the widest one."""
MOTIONS = {"mouse": MOUSE_MOTION, "way": Motion(SCALING.unscaled, SCALING.scaled)}


def take(length: int, seed: int = 0, first: int = 5) -> Take:
    rng = np.random.default_rng(seed)
    actions = {
        "keys": rng.integers(0, 2, (length, 2)).astype(np.uint8),
        "weapon": rng.integers(0, 9, length),
        "arm": rng.normal(size=(length, 1)).astype(np.float32),
        "mouse": encode_mouse(rng.uniform(-2, 2, (length, 2))),
        "way": rng.normal(size=(length, 2)).astype(np.float32),
    }
    events = (rng.random((length, 3)) < 0.2).astype(np.uint8)
    continues = np.ones(length, np.float32)
    continues[-1] = seed % 2
    return Take(first, actions, rng.random(length) < 0.8, events, continues, {"from": "here"}, MOTIONS)


def at(fps: float, **options) -> Stretch:
    return at_rate(take(**options), SPACE, source_fps=20.0, fps=fps, name="x")


@settings(deadline=None)
@given(length=st.integers(1, 90), fps=st.sampled_from([5.0, 7.0, 10.0, 13.3, 20.0, 20.1, 30.0, 60.0]), seed=st.integers(0, 50))
def test_at_any_rate_events_and_ends_are_kept_and_numbers_do_not_fall(length, fps, seed):
    known, found = take(length, seed), at(fps, length=length, seed=seed)
    assert (np.diff(found.numbers) >= 0).all()
    assert found.numbers[0] == 5
    assert found.numbers[-1] < 5 + length
    np.testing.assert_array_equal(found.events.sum(0), known.events.sum(0))
    assert found.continues.min() == known.continues.min()
    assert len(found) == len(found.labelled) == len(found.events) == len(found.continues) == len(found.actions["keys"])


def test_at_half_the_rate_every_second_frame_is_shown():
    known, found = take(8), at(10.0, length=8)
    assert found.numbers.tolist() == [5, 7, 9, 11]
    np.testing.assert_array_equal(found.events[1], known.events[1] + known.events[2])
    np.testing.assert_array_equal(found.events[3], known.events[5:].sum(0), "what comes after the last one counts there")
    np.testing.assert_array_equal(found.actions["keys"][1], known.actions["keys"][2:4].max(0), "a key held in between is not lost")
    np.testing.assert_array_equal(found.actions["weapon"], known.actions["weapon"][::2])
    np.testing.assert_array_equal(found.labelled, known.labelled[::2] & known.labelled[1::2])


def test_at_twice_the_rate_a_frame_is_shown_twice_and_its_event_counts_once():
    known, found = take(4), at(40.0, length=4)
    assert found.numbers.tolist() == [5, 5, 6, 6, 7, 7, 8]
    np.testing.assert_array_equal(found.events[2::2], known.events[1:])
    assert not found.events[1::2].any()
    np.testing.assert_array_equal(found.actions["arm"][:2], known.actions["arm"][[0, 0]])


@pytest.mark.parametrize(("several", "wanted"), [("last", [0.6, 1.5]), ("mean", [0.3, 1.2])])
@pytest.mark.parametrize("timed", [False, True])
def test_of_numbers_of_pictures_that_become_one_frame_the_last_or_the_mean_counts(several, wanted, timed):
    plain, values = take(6), np.arange(6, dtype=np.float32)[:, None] * np.float32(0.3)
    known = replace(plain, actions=plain.actions | {"arm": values}, several={"arm": several}, times=np.arange(6) / 30 if timed else None)
    found = at_rate(known, SPACE, source_fps=30.0, fps=10.0, name="x")
    np.testing.assert_allclose(found.actions["arm"][:, 0], wanted, atol=1e-6)
    assert found.actions["arm"].dtype == np.float32


@settings(deadline=None)
@given(length=st.integers(1, 90), fps=st.sampled_from([5.0, 7.0, 10.0, 15.0, 30.0, 60.0]), seed=st.integers(0, 50))
def test_at_any_rate_the_whole_way_is_kept(length, fps, seed):
    known = replace(take(length, seed), labelled=np.ones(length, bool))
    found = at_rate(known, SPACE, source_fps=20.0, fps=fps, name="x")
    ways, turns = (SCALING.unscaled(each.actions["way"]).sum(0) for each in (known, found))
    np.testing.assert_allclose(turns, ways, atol=1e-3)
    before, after = (decode_mouse(each.actions["mouse"]) for each in (known, found))
    np.testing.assert_allclose(after.sum(0), before.sum(0), atol=HALF_A_CELL)


@pytest.mark.parametrize(("fps", "yaw"), [(5.0, 8.0), (10.0, 4.0), (15.0, 8 / 3), (30.0, 4 / 3), (60.0, 2 / 3)])
def test_an_even_turn_is_as_fast_at_any_rate(fps, yaw):
    cell, plain = encode_mouse(np.array([0.0, 2.0])), take(400)
    known = replace(plain, labelled=np.ones(400, bool), actions=plain.actions | {"mouse": np.full(400, cell)})
    found = decode_mouse(at_rate(known, SPACE, source_fps=20.0, fps=fps, name="x").actions["mouse"])
    assert not found[:, 0].any()
    np.testing.assert_allclose(found[:, 1].mean(), yaw * decode_mouse(cell)[1] / 2.0, rtol=0.02)


def test_a_frame_without_a_turn_stays_without_one():
    turns = np.zeros((30, 2))
    turns[[3, 9, 20], 0] = [0.615, -0.615, 1.609]
    plain = take(30)
    known = replace(plain, labelled=np.ones(30, bool), actions=plain.actions | {"mouse": encode_mouse(turns)})
    found = at_rate(known, SPACE, source_fps=20.0, fps=30.0, name="x")
    still = turns[found.numbers - plain.first, 0] == 0
    assert (decode_mouse(found.actions["mouse"])[still] == 0).all()


def test_what_is_not_known_of_a_way_does_not_count():
    plain = take(4)
    known = replace(
        plain, labelled=np.array([True, True, False, True]), actions=plain.actions | {"way": SCALING.scaled(np.full((4, 2), 3.0))}
    )
    found = at_rate(known, SPACE, source_fps=20.0, fps=10.0, name="x")
    assert found.labelled.tolist() == [True, False]
    np.testing.assert_allclose(SCALING.unscaled(found.actions["way"]), [[6, 6], [3, 3]])


def test_a_turn_beyond_the_grid_is_not_taken_on_to_the_next_frame():
    known = replace(take(4), labelled=np.ones(4, bool))
    known.actions["mouse"][:] = encode_mouse(np.array([[0.0, 10.0], [0.0, 10.0], [0.0, 0.0], [0.0, 0.0]]))
    found = at_rate(known, SPACE, source_fps=20.0, fps=10.0, name="x")
    np.testing.assert_allclose(decode_mouse(found.actions["mouse"])[:, 1], [10, 0])


def phone(length: int, seed: int) -> Take:
    """A clock of 30 fps that is up to 4 ms behind, where one gap in ten is doubled."""
    rng = np.random.default_rng(seed)
    gaps = np.where(rng.random(length - 1) < 0.1, 2, 1) / 30
    return replace(take(length, seed), times=np.append(0, np.cumsum(gaps)) + rng.uniform(0, 0.004, length))


@settings(deadline=None)
@given(length=st.integers(2, 90), fps=st.sampled_from([5.0, 10.0, 30.0, 60.0]), seed=st.integers(0, 50))
def test_of_uneven_pictures_the_one_on_show_is_taken(length, fps, seed):
    known = replace(phone(length, seed), labelled=np.ones(length, bool))
    found = at_rate(known, SPACE, source_fps=20.0, fps=fps, name="x")
    times = known.times - known.times[0]
    assert abs(len(found) / fps - times[-1]) < 1.3 / fps
    if not np.array_equal(found.numbers, known.first + np.arange(length)):
        assert (np.abs(times[found.numbers - known.first] - np.arange(len(found)) / fps) < 2 / 30 + 0.013).all()
    ways, turns = (SCALING.unscaled(each.actions["way"]).sum(0) for each in (known, found))
    np.testing.assert_allclose(turns, ways, atol=1e-3)
    np.testing.assert_array_equal(found.events.sum(0), known.events.sum(0))


def test_an_unsteady_clock_neither_repeats_nor_leaves_out_a_picture():
    times = np.arange(300) / 30 + np.random.default_rng(0).uniform(-0.004, 0.004, 300)
    known = replace(take(300), times=times)
    for fps, wanted in ((30.0, np.arange(300)), (15.0, np.arange(0, 300, 2)), (10.0, np.arange(0, 300, 3))):
        assert at_rate(known, SPACE, source_fps=20.0, fps=fps, name="x").numbers.tolist() == (known.first + wanted).tolist()


def test_one_lost_picture_is_filled_with_the_one_before():
    times = np.delete(np.arange(40) / 20, 17)
    found = at_rate(replace(take(39), times=times), SPACE, source_fps=20.0, fps=20.0, name="x")
    assert found.numbers.tolist() == [5 + n for n in (*range(17), 16, *range(17, 39))]


def test_pictures_of_one_moment_lose_no_event():
    known = replace(take(5), times=np.array([0.0, 0.0, 0.0, 0.1, 0.2]), labelled=np.ones(5, bool))
    found = at_rate(known, SPACE, source_fps=20.0, fps=20.0, name="x")
    assert found.numbers[0] == known.first + 2
    np.testing.assert_array_equal(found.events.sum(0), known.events.sum(0))
    ways, turns = (SCALING.unscaled(each.actions["way"]).sum(0) for each in (known, found))
    np.testing.assert_allclose(turns, ways, atol=1e-3)


def test_pictures_that_stay_as_they_are_are_cut_where_some_are_missing():
    times = np.delete(np.arange(40) / 20, [17, 30])
    found = as_recorded([replace(take(38), times=times)], fps=20.0, name="x")
    assert [stretch.numbers.tolist() for stretch in found] == [list(range(5, 22)), list(range(22, 34)), list(range(34, 43))]
    with pytest.raises(BadRecordingError, match=r"x: 20 frames a second, the others have 25; choose codec\.kind = h264"):
        as_recorded([replace(take(38), times=times)], fps=25.0, name="x")


def test_a_short_take_with_a_lost_picture_is_of_the_recordings_rate():
    long, short = replace(take(20), times=np.arange(20) / 20), replace(take(2, first=25), times=np.array([1.0, 1.1]))
    assert [len(stretch) for stretch in as_recorded([long, short], fps=20.0, name="x")] == [20, 1, 1]


def test_an_almost_equal_rate_is_kept():
    assert at(19.98, length=50).numbers.tolist() == list(range(5, 55))


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4), most=st.integers(2, 25), start=st.integers(0, 80), size=st.integers(0, 80)
)
def test_parts_and_episodes_hold_each_frame_once(lengths, most, start, size):
    firsts = np.cumsum([0, *lengths]) * 2
    stretches = [at(20.0, length=n, seed=i, first=int(firsts[i])) for i, n in enumerate(lengths)]
    everything = np.concatenate([stretch.numbers for stretch in stretches])
    part = chosen(stretches, slice(start, start + size))
    assert [n for stretch in part for n in stretch.numbers] == everything[start : start + size].tolist()
    for stretch in stretches:
        pieces = evenly(stretch, most)
        sizes = [len(piece) for piece in pieces]
        assert max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1
        assert len(pieces) == -(-len(stretch) // most)
        np.testing.assert_array_equal(np.concatenate([piece.numbers for piece in pieces]), stretch.numbers)
        np.testing.assert_array_equal(np.concatenate([piece.actions["arm"] for piece in pieces]), stretch.actions["arm"])


def test_what_a_source_does_not_know_is_zero_and_unlabelled():
    plain = Stretch(np.arange(3), {}, np.ones(3, bool), np.zeros((3, 0), np.uint8), np.ones(3, np.float32), {})
    schema = ShardSchema(codec="png", frame_shape=(4, 6), action_space=SPACE, tasks=("dig",), fps=20.0)
    found = filled(plain, {}, (), schema)
    assert {name: (values.shape, values.any()) for name, values in found.actions.items()} == {
        "keys": ((3, 2), False),
        "weapon": ((3,), False),
        "arm": ((3, 1), False),
        "mouse": ((3,), False),
        "way": ((3, 2), False),
    }
    assert not found.labelled.any()
    assert found.events.tolist() == [[0]] * 3


def packets_of(keyframes: list[int], count: int) -> list[CodedPacket]:
    return [CodedPacket(bytes([i % 251]), i, i in keyframes) for i in range(count)]


@settings(deadline=None)
@given(
    keyframes=st.lists(st.integers(0, 99), max_size=20, unique=True),
    bounds=st.lists(st.integers(0, 100), min_size=2, max_size=8, unique=True).map(sorted),
    most=st.integers(2, 40),
)
def test_packets_of_episodes_begin_at_keyframes_inside_their_take(keyframes, bounds, most):
    takes = [(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=False) if b - a > 1]
    stretches = [at(20.0, length=b - a, first=a) for a, b in takes]
    dropped = Counter()
    found = list(packet_episodes(packets_of(keyframes, 100), stretches, most, dropped))
    seen = []
    for stretch, packets in found:
        numbers = stretch.numbers.tolist()
        assert [packet.frame for packet in packets] == numbers
        assert packets[0].keyframe
        assert any(a <= numbers[0] and numbers[-1] < b for a, b in takes)
        assert len(numbers) <= most or sum(packet.keyframe for packet in packets) == 1
        seen += numbers
    assert seen == sorted(set(seen))
    wanted = sum(b - a for a, b in takes)
    assert dropped[BEFORE_KEYFRAME] == wanted - len(seen)
    lost = sum(min(next((k for k in sorted(keyframes) if k >= a), b), b) - a for a, b in takes)
    single = sum(len(run) == 1 for run in runs(packets_of(keyframes, 100))) + len(takes) * 2
    assert lost <= wanted - len(seen) <= lost + single, "only what stands before a keyframe, or alone, is lost"


def test_a_video_that_begins_within_a_run_waits_for_its_keyframe():
    packets = packets_of([3, 6], 9)
    assert [[packet.frame for packet in run] for run in runs(packets)] == [[3, 4, 5], [6, 7, 8]]
    assert [stretch.numbers.tolist() for stretch, _ in packet_episodes(packets, [at(20.0, length=9, first=0)], 4, Counter())] == [
        [3, 4, 5],
        [6, 7, 8],
    ]


def test_a_rate_that_is_none():
    with pytest.raises(ValueError, match="fps -1"):
        at(-1.0, length=3)


def test_events_of_a_source_go_to_the_columns_of_its_tasks():
    schema = ShardSchema(codec="png", frame_shape=(4, 6), action_space=SPACE, tasks=("dig", "swim", "chop"), fps=20.0)
    stretch = at(20.0, length=9)
    found = filled(stretch, SPACE, ("chop", "sing", "dig"), schema)
    np.testing.assert_array_equal(found.events, np.stack([stretch.events[:, 2], 0 * stretch.events[:, 0], stretch.events[:, 0]], 1))
    np.testing.assert_array_equal(found.labelled, stretch.labelled)
