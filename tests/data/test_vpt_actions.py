"""VPT's actions against the rows published with the format's fixtures, and against lines damaged at random."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamer_ray.data.vpt_actions import KEYS, MOUSE_BINS, decode_mouse, encode_mouse, read_segment
from dreamer_ray.errors import UserError

CASES = Path(__file__).parent / "vpt_jsonl_cases"
CENTRES = (0.615, 1.609, 3.215, 5.809, 10.0)
EDGES = (0.27, 1.05, 2.32, 4.36, 7.65)


def line(**changes) -> bytes:
    mouse = {"x": 640.0, "y": 360.0, "dx": 0.0, "dy": 0.0, "buttons": [], "newButtons": []} | changes.pop("mouse", {})
    return json.dumps({"mouse": mouse, "keyboard": {"keys": changes.pop("keys", [])}, "isGuiOpen": False, "hotbar": 0} | changes).encode()


def held(segment) -> list[set[str]]:
    return [{KEYS[i] for i in np.flatnonzero(row)} for row in segment.keys]


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        ("all_off", slice(0, 1)),
        ("each_binary_on", slice(0, 33)),
        ("attack_stuck", slice(0, 4)),
        ("attack_stuck_offset_unstuck_before", slice(2, 4)),
    ],
)
def test_published_rows(case, rows):
    expected = np.array(json.loads((CASES / f"{case}.expected.json").read_text()))
    segment = read_segment((CASES / f"{case}.jsonl").read_bytes().splitlines(), name=case)
    assert segment.labelled.all()
    ours = np.concatenate([segment.keys, segment.camera[:, ::-1]], axis=1)[rows]
    assert len(ours) == len(expected)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_mouse_grid_has_the_published_centres_and_edges():
    centres = decode_mouse(np.arange(MOUSE_BINS))
    expected = [-c for c in reversed(CENTRES)] + [0.0, *CENTRES]
    np.testing.assert_allclose(centres[5::11, 0], expected, atol=6e-4)
    np.testing.assert_allclose(centres[55:66, 1], expected, atol=6e-4)
    for number, edge in enumerate(EDGES):
        below, above = encode_mouse(np.array([[edge - 0.01, 0.0], [edge + 0.01, 0.0]])) // 11 - 5
        assert (below, above) == (number, number + 1)
    assert np.array_equal(encode_mouse(centres), np.arange(MOUSE_BINS))


@given(st.lists(st.floats(-500, 500), min_size=2, max_size=2))
def test_mouse_round_trip_stays_in_its_cell(turn):
    cell = encode_mouse(np.array(turn))
    assert encode_mouse(decode_mouse(cell)) == cell
    wrong = np.abs(decode_mouse(cell) - np.clip(turn, -10, 10))
    assert (wrong <= 2.36).all()  # half of the widest cell, 5.809 .. 10, on its wide side


def test_one_unit_of_the_mouse_is_no_turn_and_two_are():
    segment = read_segment([line(mouse={"dx": 1.0, "dy": 2.0})], name="x")
    np.testing.assert_allclose(segment.camera[0], [0.30, 0.15], atol=1e-6)
    assert segment.actions()["mouse"][0] == 11 * 6 + 5


def test_first_slot_is_no_press_and_the_wheel_is():
    segment = read_segment([line(hotbar=4), line(hotbar=4), line(hotbar=7), line(hotbar=7)], name="x")
    assert held(segment) == [set(), set(), {"hotbar.8"}, set()]


def test_gui_mouse_is_rescaled_by_version_and_only_in_a_gui():
    lines = [line(mouse={"dx": 10.0}), line(mouse={"dx": 10.0}, isGuiOpen=True)]
    assert read_segment(lines, name="x", version="6.9").camera[:, 1].tolist() == pytest.approx([1.5, 3.0])
    assert read_segment(lines, name="x", version="5.8").camera[:, 1].tolist() == pytest.approx([1.5, 0.75])
    assert read_segment(lines, name="x", version="6.10").camera[:, 1].tolist() == pytest.approx([1.5, 1.5])


def test_a_broken_line_keeps_its_frame_and_a_blank_one_has_none():
    lines = [line(keys=["key.keyboard.w"]), b"", b'{"mouse": {"dx"', line(keys=["key.keyboard.s", "scancode.0"])]
    segment = read_segment(lines, name="x")
    assert segment.labelled.tolist() == [True, False, True]
    assert held(segment) == [{"forward"}, set(), {"back"}]


@pytest.mark.parametrize("damage", [{"tick": None}, {"milli": "soon"}, {"hotbar": [3]}, {"isGuiOpen": 7}, {"serverTickDurationMs": -5.0}])
def test_a_damaged_field_that_may_be_missing_costs_itself_only(damage):
    keys = ["key.keyboard.w"]
    segment = read_segment([line(keys=keys), line(keys=keys, mouse={"x": None, "newButtons": None, "dx": 9.0}, **damage)], name="x")
    assert segment.labelled.all() and held(segment) == [{"forward"}] * 2
    assert segment.camera[1, 1] == pytest.approx(1.35)
    assert (segment.tick[1], segment.milli[1], segment.server_ms[1], segment.gui[1]) == (-1, -1, 0, False)


def test_a_file_of_something_else_is_refused():
    with pytest.raises(UserError, match=r"a\.jsonl: none of its 2 lines"):
        read_segment([b"<?xml version='1.0'?>", b"<Error>BlobNotFound</Error>"], name="a.jsonl")


def test_no_damage_to_a_line_is_worse_than_an_unlabelled_frame():
    rng, good = np.random.default_rng(0), line(keys=["key.keyboard.w"], hotbar=3, tick=17)
    damaged = []
    for _ in range(10_000):
        bad = bytearray(good)
        for _ in range(rng.integers(1, 5)):
            place = int(rng.integers(len(bad)))
            bad[place : place + int(rng.integers(4))] = rng.bytes(int(rng.integers(4)))
        damaged.append(bytes(bad).replace(b"\n", b" "))
    segment = read_segment([good, *damaged, good], name="x")
    assert segment.labelled[[0, -1]].all()
    assert 0.01 < segment.labelled.mean() < 0.5
    assert np.isfinite(segment.camera).all()
    assert np.isfinite(segment.cursor).all()
    assert set(np.unique(segment.keys)) <= {0, 1}
    mouse = segment.actions()["mouse"]
    assert ((mouse >= 0) & (mouse < MOUSE_BINS)).all()


@pytest.mark.parametrize("value", ["NaN", "1e999", "-1e300", '"7"x', "null", "[]", "9" * 400, "true"])
def test_hostile_numbers(value):
    for key in ("dx", "x", "tick", "hotbar"):
        bad = b'{"mouse": {"dx": 0, "dy": 0, "buttons": [], "%s": %s}, "keyboard": {"keys": []}, "%s": %s}'
        segment = read_segment([line(), bad % (key.encode(), value.encode(), key.encode(), value.encode())], name="x")
        assert len(segment.keys) == 2
        assert np.isfinite(segment.camera).all()
