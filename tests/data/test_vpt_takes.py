"""Where a VPT segment is cut, and what is left out and counted."""

import json

import numpy as np
import pytest

from dreamer_ray.data.vpt_actions import read_segment
from dreamer_ray.data.vpt_takes import CutRules, cut_takes

RULES = CutRules(server_ms=200.0, idle_seconds=1.0, step_ms=500.0)


def line(t: int, *, keys=("w",), dx=0.0, pressed=(), new=(), buttons=(), **more) -> bytes:
    mouse = {"dx": dx, "dy": 0.0, "buttons": list(buttons), "newButtons": list(new)}
    keyboard = {"keys": [f"key.keyboard.{key}" for key in keys], "newKeys": list(pressed)}
    return json.dumps({"mouse": mouse, "keyboard": keyboard, "tick": t, "milli": 10**12 + 50 * t} | more).encode()


def cut(lines, frames=None, rules=RULES, events=None):
    segment = read_segment(lines, name="x")
    happened = np.ones((len(lines), 1), np.uint8) if events is None else events
    return cut_takes(segment, happened, rules, frames=len(lines) if frames is None else frames, info={"segment": "x"})


def spans(*given, **options) -> list[tuple[int, int]]:
    return [(take.first, len(take.labelled)) for take in cut(*given, **options)[0]]


def test_play_without_a_break_is_one_take():
    takes, dropped = cut([line(t) for t in range(30)])
    assert [(take.first, len(take.labelled)) for take in takes] == [(0, 30)]
    assert not dropped
    assert takes[0].actions["keys"].shape == (30, 23)
    assert (takes[0].continues == 1).all()
    assert takes[0].info == {"segment": "x", "tick": 0}


@pytest.mark.parametrize("ticks", [[0, 1, 2, 9, 10], [0, 1, 2, 1, 2], [7, 8, 9, 0, 1]])
def test_a_take_ends_where_the_tick_jumps(ticks):
    assert spans([line(t, milli=10**12) for t in ticks]) == [(0, 3), (3, 2)]


@pytest.mark.parametrize(("ms", "ends"), [(50, False), (499, False), (501, True), (-1, True)])
def test_a_take_ends_where_the_clock_jumps(ms, ends):
    milli = [0, 50, 50 + ms, 100 + ms]
    assert spans([line(t, milli=m) for t, m in enumerate(milli)]) == ([(0, 2), (2, 2)] if ends else [(0, 4)])


def test_a_line_that_cannot_be_read_is_no_jump():
    takes, dropped = cut([line(0), line(1), b"{", b"{", line(4), line(5)])
    assert [(take.first, take.labelled.tolist()) for take in takes] == [(0, [True, True, False, False, True, True])]
    assert dropped == {"lines that cannot be read, frames kept without action": 2}


def test_recordings_without_a_clock_are_whole():
    assert spans([line(0, tick=-1, milli=-1)] * 5) == [(0, 5)]


def test_frames_of_server_lag_are_left_out_and_counted():
    takes, dropped = cut([line(t, serverTickDurationMs=250.0 if t in (3, 4) else 199.0) for t in range(8)])
    assert [(take.first, len(take.labelled)) for take in takes] == [(0, 3), (5, 3)]
    assert dropped == {"frames of server lag above 200 ms": 2}


def test_a_span_without_any_input_is_left_out_and_counted():
    takes, dropped = cut([line(t, keys=() if 5 <= t < 25 else ("w",)) for t in range(30)])
    assert [(take.first, len(take.labelled)) for take in takes] == [(0, 5), (25, 5)]
    assert dropped == {"frames without any input for 1 s": 20}


def test_null_actions_in_play_are_kept():
    assert spans([line(t, keys=() if 5 <= t < 24 else ("w",)) for t in range(30)]) == [(0, 30)]


@pytest.mark.parametrize(
    "touch", [{"dx": 1.0}, {"buttons": [1]}, {"pressed": ["key.keyboard.t"]}, {"mouse": {"dx": 0, "dy": 0, "dwheel": 1, "buttons": []}}]
)
def test_any_input_is_play(touch):
    assert spans([line(t, keys=(), **(touch if t % 10 == 0 else {})) for t in range(40)]) == [(0, 40)]


@pytest.mark.parametrize(("frames", "reason"), [(7, "lines without a frame"), (13, "frames without a line")])
def test_the_shorter_of_video_and_lines_counts(frames, reason):
    takes, dropped = cut([line(t) for t in range(10)], frames=frames)
    assert len(takes[0].labelled) == min(10, frames)
    assert dropped == {reason: 3}


def test_an_attack_from_before_the_segment_is_counted():
    lines = [line(t, buttons=[0], new=[0] if t in (0, 4) else []) for t in range(6)]
    takes, dropped = cut(lines)
    assert takes[0].actions["keys"][:, 19].tolist() == [0, 0, 0, 0, 1, 1]
    assert dropped == {"lines with an attack held from before the segment, attack left out": 4}


def test_the_first_frame_of_a_take_has_no_event():
    takes, _ = cut([line(t + 5 * (t > 3)) for t in range(8)])
    assert [take.events[:, 0].tolist() for take in takes] == [[0, 1, 1, 1], [0, 1, 1, 1]]


def test_nothing_is_left_of_a_segment_in_which_nobody_played():
    takes, dropped = cut([line(t, keys=()) for t in range(40)])
    assert takes == ()
    assert dropped.total() == 40
