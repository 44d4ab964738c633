"""Damaged videos: cut short, bits flipped, bytes of something else. They cost the recording, with its name, and nothing else."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamer_ray.data.packets import decode_span, source_packets
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.video import pictures, video_info

MADE = ["a.mp4", "a.mkv", "a.ts", "front.mp4"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, videos) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: videos.write(folder / name, 40, front=name.startswith("front")).read_bytes() for name in MADE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@contextmanager
def damage_of(path: str) -> Iterator[None]:
    """Lets pass the error that names ``path``; any other is none of ours."""
    message = f"{path}: "
    try:
        yield
    except BadRecordingError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")


def read_all(path: str) -> int:
    """Reads in every way there is; the number of whole pictures."""
    read, began = 0, time.monotonic()
    with damage_of(path):
        info = video_info(path)
        for picture in pictures(path, count=info.frames):
            assert picture.shape == (*info.shape, 3)
            read += 1
        assert read == info.frames
    with damage_of(path):
        stream = source_packets(path)
        packets = list(stream.packets)
        taken = (packet.data for packet in packets)
        for picture in decode_span(stream.parameters, taken, first=3, count=len(packets) - 3, name=path):
            assert picture.ndim == 3
    assert time.monotonic() - began < 60
    return read


def flip(raw: bytes, seed: int) -> bytes:
    draw, damaged = random.Random(seed), bytearray(raw)
    for _ in range(draw.randint(1, 8)):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


@pytest.mark.parametrize("name", MADE)
def test_flipped_bits_end_in_a_named_error_or_in_pictures(folder, whole, name):
    path = folder / name
    spoiled = 0
    for seed in range(60):
        path.write_bytes(flip(whole[name], seed))
        spoiled += read_all(str(path)) < 40
    assert spoiled > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_many_flipped_bits_end_in_a_named_error_or_in_pictures(folder, whole, name):
    path = folder / name
    for seed in range(100, 1600):
        path.write_bytes(flip(whole[name], seed))
        read_all(str(path))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(MADE), st.integers(0, 10**6), st.binary(max_size=40), st.booleans())
def test_bytes_put_in_or_taken_away_end_in_a_named_error_or_in_pictures(folder, whole, name, place, other, inserted):
    raw, path = whole[name], folder / f"other-{name}"
    place %= len(raw)
    path.write_bytes(raw[:place] + other + raw[place if inserted else place + 2 * len(other) :])
    read_all(str(path))


@pytest.mark.parametrize("keep", [0, 1, 20, 300])
@pytest.mark.parametrize("name", MADE)
def test_a_file_without_a_whole_frame_is_refused_by_name(folder, whole, name, keep):
    path = folder / f"head-{name}"
    path.write_bytes(whole[name][:keep])
    with pytest.raises(BadRecordingError, match=f"{path.name}: cannot be read as a video"):
        video_info(str(path))
    with pytest.raises(BadRecordingError, match=f"{path.name}: "):
        list(pictures(str(path)))


@pytest.mark.parametrize("kept", [17, 22, 30, 39])
@pytest.mark.parametrize("more", [0, 5])
def test_of_a_video_cut_short_what_is_whole_is_shown_under_its_own_number(folder, videos, whole, kept, more):
    path = folder / "short.mp4"
    path.write_bytes(whole["front.mp4"])
    packets = [packet.data for packet in source_packets(str(path)).packets]
    end = whole["front.mp4"].index(packets[0]) + sum(map(len, packets[:kept]))
    path.write_bytes(whole["front.mp4"][: end + more])
    count = video_info(str(path)).frames
    assert count == kept - 16
    assert [videos.number(picture) for picture in pictures(str(path), count=count)] == list(range(count))
    assert sorted(packet.frame for packet in source_packets(str(path)).packets) == list(range(count))
    with pytest.raises(BadRecordingError, match=r"short\.mp4: frame \d+ cannot be decoded"):
        list(pictures(str(path)))


def test_a_video_whose_index_is_missing_is_refused(folder, whole):
    path = folder / "noindex.mp4"
    path.write_bytes(whole["a.mp4"][:-200])
    with pytest.raises(BadRecordingError, match=r"noindex\.mp4: cannot be read as a video"):
        video_info(str(path))


def test_damage_within_a_frame_names_the_frame(folder, videos, whole):
    path = folder / "within.mp4"
    path.write_bytes(whole["a.mp4"])
    packets = list(source_packets(str(path)).packets)
    damaged = next(packet for packet in packets if packet.frame == 24)
    place = whole["a.mp4"].index(damaged.data) + len(damaged.data) // 2
    path.write_bytes(whole["a.mp4"][:place] + bytes(8) + whole["a.mp4"][place + 8 :])
    with pytest.raises(BadRecordingError, match=r"within\.mp4: frame 2\d cannot be decoded"):
        list(pictures(str(path)))


def test_a_span_that_ends_early_or_is_damaged_names_its_frame(folder, videos, whole):
    path = folder / "a.mp4"
    path.write_bytes(whole["a.mp4"])
    stream = source_packets(str(path))
    rows = [packet.data for packet in stream.packets]
    with pytest.raises(BadRecordingError, match=r"shard 3: frame 12 after its keyframe cannot be decoded .* 14 frames were expected"):
        list(decode_span(stream.parameters, rows[:12], first=10, count=4, name="shard 3"))
    with pytest.raises(BadRecordingError, match="shard 3: frame 0 after"):
        list(decode_span(stream.parameters, [b"junk"], first=0, count=1, name="shard 3"))
    with pytest.raises(BadRecordingError, match="shard 3: frame 0 after"):
        list(decode_span(stream.parameters, [rows[0][:-3], *rows[1:]], first=0, count=1, name="shard 3"))


def test_a_missing_file_is_named(tmp_path):
    for read in (video_info, lambda path: list(pictures(path)), source_packets):
        with pytest.raises(BadRecordingError, match=r"nowhere\.mp4"):
            read(str(tmp_path / "nowhere.mp4"))


def test_a_sound_recording_is_no_video(tmp_path):
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(2000))
    with pytest.raises(BadRecordingError, match=r"a\.wav: .*it is none of mov, matroska, "):
        video_info(str(tmp_path / "a.wav"))
