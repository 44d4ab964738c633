"""Damaged jsonl files of VPT recordings: they cost the frames of their lines, or the recording with its name."""

import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.vpt import VptConfig, VptSource

FRAMES = 20
OTHERS = (None, -1, 10**400, 1e308, "w", [], {}, [[]], True, [10**30], {"a": {"b": []}}, "\ud800", -0.0, float("nan"))
FIELDS = ["mouse", "keyboard", "isGuiOpen", "hotbar", "tick", "milli", "serverTickDurationMs", "stats", "inventory"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dx", "keys", "type", "buttons", "x"]), inner, max_size=3),
    max_leaves=6,
)


def line(t: int) -> dict:
    return {
        "mouse": {"x": 640.0, "y": 360.0, "dx": 1.0, "dy": 0.0, "dwheel": 0.0, "buttons": [0], "newButtons": []},
        "keyboard": {"keys": ["key.keyboard.w"], "newKeys": [], "chars": ""},
        "isGuiOpen": t > 10,
        "hotbar": t % 9,
        "tick": t,
        "milli": 10**12 + 50 * t,
        "serverTickDurationMs": 20.0,
        "inventory": [{"type": "stone", "quantity": t}],
        "stats": {"minecraft.mine_block:minecraft.stone": t},
    }


@pytest.fixture(scope="module")
def video(tmp_path_factory, videos):
    return videos.write(tmp_path_factory.mktemp("vpt") / "some-alias-02e496ce4abb-20220421-092639.mp4", FRAMES)


def check(video, rows: list[bytes]) -> None:
    """Reads the recording with these lines; an error that does not name the file is none of ours."""
    video.with_suffix(".jsonl").write_bytes(b"\n".join(rows))
    found = VptSource(VptConfig(path=str(video.parent)))
    reading, message = None, video.stem
    try:
        reading = found.read(found.index()[0])
    except BadRecordingError as error:
        message = str(error)
    assert video.stem in message
    if reading is None:
        return
    last = 0
    for take in reading.takes:
        size = len(take.labelled)
        assert last <= take.first < take.first + size <= FRAMES
        last = take.first + size
        assert take.actions["keys"].shape == (size, 23)
        assert set(np.unique(take.actions["keys"])) <= {0, 1}
        assert ((take.actions["mouse"] >= 0) & (take.actions["mouse"] < 121)).all()
        assert take.events.shape == (size, 20)
    assert all(count > 0 for count in reading.dropped.values())


def damaged(draw: random.Random, good: dict) -> bytes:
    """``good`` with some of its bytes changed, or with one of its values put in place of another."""
    value = json.loads(json.dumps(good))
    if draw.random() < 0.5:
        holder = draw.choice([value, value["mouse"], value["keyboard"], value["stats"], value["inventory"][0]])
        holder[draw.choice(list(holder))] = draw.choice(OTHERS)
        return json.dumps(value).encode()
    bad = bytearray(json.dumps(value).encode())
    for _ in range(draw.randint(1, 5)):
        place = draw.randrange(len(bad))
        bad[place : place + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
    return bytes(bad).replace(b"\n", b" ")


@settings(max_examples=550, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_ten_thousand_damaged_lines_cost_no_more_than_their_recording(video, seed):
    draw = random.Random(seed)
    check(video, [json.dumps(line(0)).encode()] + [damaged(draw, line(t)) for t in range(1, FRAMES)])


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_hundred_thousand_damaged_lines_cost_no_more_than_their_recording(video, seed):
    draw = random.Random(seed)
    check(video, [damaged(draw, line(t)) if draw.random() < 0.8 else json.dumps(line(t)).encode() for t in range(FRAMES)])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(field=st.sampled_from(FIELDS), value=VALUES, at=st.integers(0, FRAMES - 1))
def test_any_value_in_any_field(video, field, value, at):
    rows = [line(t) for t in range(FRAMES)]
    rows[at][field] = value
    check(video, [json.dumps(row).encode() for row in rows])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(max_size=60), max_size=40))
def test_any_bytes_in_place_of_lines(video, rows):
    check(video, rows)
