"""When the pictures of a video are shown, told by its packets and by its decoder."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from dreamer_ray.data.video_times import is_shown, picture_times, pictures_at

SHOWN_BIT = {"libvpx": 0x10, "libvpx-vp9": 0x02}
"""Of the first byte of a frame that begins a group."""


def film(path: Path, codec: str, count: int = 24, hidden: int | None = None) -> Path:
    """Uneven pictures, a keyframe every 6; the packet ``hidden`` of VP8 or VP9 is marked as one that is not shown."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"g": "6", "preset": "10"} if codec == "libsvtav1" else {"g": "6"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        grey = [av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * i, np.uint8), format="rgb24") for i in range(count)]
        for i, frame in enumerate(grey):
            frame.pts = i + (i > 10)
        packets = [packet for frame in [*grey, None] for packet in stream.encode(frame)]
        for number, packet in enumerate(packets):
            marked = packet
            if number == hidden:
                data = bytes(packet)
                marked = av.Packet(bytes([data[0] & ~SHOWN_BIT[codec]]) + data[1:])
                marked.pts, marked.dts, marked.time_base, marked.stream = packet.pts, packet.dts, packet.time_base, stream
                marked.is_keyframe = packet.is_keyframe
            container.mux(marked)
    return path


def decoded_times(path: str) -> np.ndarray:
    with av.open(path) as container:
        stream = container.streams.video[0]
        return np.array([float((frame.pts or 0) * stream.time_base) for frame in container.decode(stream)])


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libvpx", "webm"), ("libvpx-vp9", "webm"), ("libvpx-vp9", "mp4"), ("libsvtav1", "webm"), ("libsvtav1", "mp4")]
)
def test_packets_tell_when_pictures_are_shown(tmp_path, codec, suffix):
    with ThreadPoolExecutor(max_workers=1) as own:  # SVT-AV1 gives the thread that it is called from real-time priority where it may
        path = str(own.submit(film, tmp_path / f"a.{suffix}", codec).result())
    decoded = decoded_times(path)
    assert len(decoded) == 24
    np.testing.assert_allclose(picture_times(path), decoded - decoded[0], atol=1e-9)
    assert np.diff(decoded)[10] > 1.9 / 30


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_packets_that_nobody_sees_are_no_pictures(tmp_path, codec):
    path = str(film(tmp_path / "a.webm", codec, hidden=6))
    decoded = decoded_times(path)
    assert len(decoded) == 23
    np.testing.assert_allclose(picture_times(path), decoded - decoded[0], atol=1e-9)


def test_a_superframe_and_an_earlier_picture_that_is_shown_again_are_pictures():
    hidden, again = bytes([0x80, 0x49, 0x00]), bytes([0x88, 0x00])
    assert not is_shown("vp9", hidden)
    assert is_shown("vp9", again)
    assert is_shown("vp9", hidden + bytes([0xC0]))


def test_packets_are_not_decoded_to_know_their_times(tmp_path):
    path = film(tmp_path / "a.webm", "libvpx-vp9")
    wanted, data = picture_times(str(path)), bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        payload = next(bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.is_keyframe)
    start = data.index(payload)
    data[start + 3 : start + len(payload) - 1] = bytes(len(payload) - 4)
    path.write_bytes(data)
    np.testing.assert_array_equal(picture_times(str(path)), wanted)


def test_pictures_at_their_times_stand_upright(tmp_path, videos):
    path = str(videos.write(tmp_path / "a.mp4", 30, turns=-1))
    assert [videos.number(picture) for picture in pictures_at(path, picture_times(path)[[3, 20]], 0.02)] == [3, 20]
