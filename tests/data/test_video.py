"""Videos: exact frames in order, at another rate and in another size."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamer_ray.data.frame_rate import MAX_PAUSE, pick, seen_frames
from dreamer_ray.data.layout import Box, PictureLayout, inner_box, picture_maker
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.video import pictures, video_info

LUANTI = next((Path(__file__).parent / "luanti").glob("*.mp4"))
FOOTAGE = os.environ.get("DREAMER_RAY_SAMPLES")
"""A folder of real recordings, which are not part of this tree."""


@pytest.mark.parametrize(("bf", "g"), [("0", "12"), ("2", "12"), ("4", "7"), ("2", "250")])
def test_every_frame_comes_once_and_in_order(tmp_path, videos, bf, g):
    path = str(videos.write(tmp_path / "a.mp4", 50, bf=bf, g=g))
    assert [videos.number(picture) for picture in pictures(path)] == list(range(50))
    info = video_info(path)
    assert (info.frames, info.shape, info.fps, info.codec) == (50, (48, 64), 20.0, "h264")
    np.testing.assert_allclose(info.times, np.arange(50) / 20, atol=1e-3)


@pytest.mark.parametrize("codec", ["libvpx-vp9", "mpeg4", "libx265"])
def test_frames_of_other_codecs_are_counted_too(tmp_path, videos, codec):
    path = str(videos.write(tmp_path / "a.mkv", 30, codec=codec))
    assert video_info(path).frames == 30
    assert len(list(pictures(path))) == 30


def test_the_luanti_recording_holds_its_200_frames():
    assert (video_info(str(LUANTI)).frames, sum(1 for _ in pictures(str(LUANTI)))) == (200, 200)


@pytest.mark.slow
@pytest.mark.skipif(not FOOTAGE, reason="DREAMER_RAY_SAMPLES names no folder of recordings")
def test_real_recordings_decode_to_their_frames():
    found = sorted(Path(str(FOOTAGE)).rglob("*.mp4"))
    assert len(found) >= 5
    for path in found:
        info = video_info(str(path))
        assert sum(1 for _ in pictures(str(path), layout=PictureLayout(shape=(36, 64)))) == info.frames, path.name


def test_pictures_are_made_one_at_a_time(tmp_path, videos):
    coming = pictures(str(videos.write(tmp_path / "a.mp4", 200)))
    assert videos.number(next(coming)) == 0
    coming.close()


def test_a_count_takes_the_first_ones_and_misses_none(tmp_path, videos):
    path = str(videos.write(tmp_path / "a.mp4", 20))
    assert len(list(pictures(path, count=7))) == 7
    with pytest.raises(BadRecordingError, match=r"a\.mp4: frame 20 cannot be decoded .*21 frames were expected"):
        list(pictures(path, count=21))


@pytest.mark.parametrize(
    ("shape", "layout", "box"),
    [
        ((360, 640), PictureLayout(shape=(384, 640)), Box(12, 0, 360, 640)),
        ((360, 640), PictureLayout(shape=(128, 128)), Box(28, 0, 72, 128)),
        ((360, 640), PictureLayout(shape=(128, 128), fit="stretch"), Box(0, 0, 128, 128)),
        ((640, 360), PictureLayout(shape=(64, 64)), Box(0, 14, 64, 36)),
        ((1, 8000), PictureLayout(shape=(8, 8)), Box(3, 0, 1, 8)),
    ],
)
def test_a_picture_is_laid_in_the_middle_as_large_as_it_fits(shape, layout, box):
    assert inner_box(shape, layout) == box


@pytest.mark.parametrize("turns", [1, -1, 2])
@pytest.mark.parametrize("layout", [None, PictureLayout(shape=(24, 32)), PictureLayout(shape=(40, 64))])
def test_a_phone_video_stands_upright(tmp_path, videos, turns, layout):
    shown = list(pictures(str(videos.write(tmp_path / "a.mp4", 3, turns=turns)), layout=layout))
    straight = list(pictures(str(videos.write(tmp_path / "b.mp4", 3)), layout=layout))
    assert [picture.shape for picture in shown] == [picture.shape for picture in straight]
    assert np.abs(np.int64(shown) - straight).mean() < 8
    if layout is None:
        assert list(map(videos.number, shown)) == [0, 1, 2]


def test_padding_changes_no_pixel():
    picture = np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8)
    padded = picture_maker(PictureLayout(shape=(384, 640)))(picture)
    assert np.array_equal(padded[12:372], picture)
    assert not padded[:12].any()
    assert not padded[372:].any()


def test_area_is_the_mean_of_what_a_pixel_covers_and_bilinear_is_softer():
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    means = picture.reshape(8, 8, 12, 8, 3).mean((1, 3))
    made = {name: picture_maker(PictureLayout(shape=(8, 12), filter=name))(picture) for name in ("area", "bilinear")}
    assert np.abs(made["area"] - means).max() < 6
    assert np.abs(made["bilinear"] - means).max() > 10
    assert made["bilinear"].std() < 0.9 * means.std()


def test_a_layout_is_the_same_before_and_after_conversion_to_rgb(tmp_path, videos):
    path = str(videos.write(tmp_path / "a.mp4", 8))
    layout = PictureLayout(shape=(36, 32))
    direct, later = list(pictures(path, layout=layout)), picture_maker(layout)
    for one, other in zip(direct, map(later, pictures(path)), strict=True):
        assert one.shape == (36, 32, 3)
        assert np.abs(one.astype(int) - other).mean() < 3


@pytest.mark.parametrize(("rate", "fps"), [(20, 20.0), (30, 20.0), (10, 20.0), (24, 20.0), (60, 12.5)])
def test_a_video_at_another_rate_shows_what_was_seen_at_each_moment(tmp_path, videos, rate, fps):
    path = str(videos.write(tmp_path / "a.mp4", 60, rate=rate))
    numbers = seen_frames(video_info(path).times, fps, name=path)
    assert len(numbers) == int(59 / rate * fps + 1e-6) + 1
    assert numbers.tolist() == [int(k * rate / fps + 0.02) for k in range(len(numbers))]
    assert [videos.number(picture) for picture in pick(pictures(path), numbers, name=path)] == numbers.tolist()


@given(st.lists(st.floats(0.001, 2), max_size=40), st.floats(1, 60))
def test_seen_frames_never_come_from_the_future(steps, fps):
    times = np.concatenate([[0.0], np.cumsum(steps)])
    numbers = seen_frames(times, fps, name="x")
    moments = np.arange(len(numbers)) / fps
    assert (np.diff(numbers) >= 0).all()
    assert (times[numbers] <= moments + 2e-3).all()
    after = np.concatenate([times, [np.inf]])[numbers + 1]
    assert (after > moments).all()


@pytest.mark.parametrize("step", [MAX_PAUSE + 1, 1e300, -0.5, float("nan")])
def test_a_damaged_clock_is_named_and_asks_for_no_copies(step):
    with pytest.raises(BadRecordingError, match=r"a\.mp4: frame 2 comes .* s after the one before"):
        seen_frames(np.array([0.0, 0.05, 0.05 + step]), 20.0, name="a.mp4")


def test_a_video_shorter_than_its_clock_is_named():
    with pytest.raises(BadRecordingError, match=r"a\.mp4: ends before frame 3"):
        list(pick(iter([np.zeros(1)] * 3), [0, 0, 2, 5], name="a.mp4"))
