"""Pictures of a local video by time: when each is shown, and those shown at given times, decoded from the keyframe before."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from jaxtyping import Float

from dreamer_ray.data.layout import quarter_turns, turned
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.video import open_container

DAMAGE = (OSError, FFmpegError, LookupError, ValueError, ArithmeticError)
"""What reading a damaged file raises."""
LIMITS = {"max_pixels": str(2**24)}
"""A header that says more is taken for damaged rather than given the memory."""
PACKETS_TELL = {"h264", "hevc", "mjpeg", "png", "ffv1", "rawvideo", "vp8", "vp9", "av1"}
"""Codecs of which a packet shows one picture, or says itself that it shows none; of others pictures are decoded to be counted."""


@contextmanager
def _video_stream(path: str) -> Iterator[Any]:
    with Path(path).open("rb") as file, open_container(file) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("its codec is not known")
        stream.codec_context.options = LIMITS
        stream.thread_type = "NONE"
        yield stream


def picture_times(path: str) -> Float[np.ndarray, "t"]:
    """When each picture of the first video stream is shown, in seconds from the first on, without decoding where the codec allows.

    Raises ``BadRecordingError``.
    """
    try:
        with _video_stream(path) as stream:
            codec = stream.codec_context.codec.canonical_name
            packets = (packet for packet in stream.container.demux(stream) if packet.size and is_shown(codec, memoryview(packet)))
            parts = packets if codec in PACKETS_TELL else stream.container.decode(stream)
            stamps = [part.dts if part.pts is None else part.pts for part in parts if not getattr(part, "is_discard", False)]
            unit = float(stream.time_base or 0)
    except DAMAGE as error:
        raise BadRecordingError(f"{path}: cannot be read as a video ({error})") from error
    known = [stamp for stamp in stamps if stamp is not None]
    if not known or len(known) < len(stamps) or unit <= 0:
        raise BadRecordingError(f"{path}: {len(stamps)} pictures, of which {len(known)} say when they are shown; convert it with ffmpeg")
    times = np.sort(np.array(known, np.float64)) * unit
    return times - times[0]


def is_shown(codec: str, packet: bytes | memoryview) -> bool:
    """Whether ``packet`` shows a picture; VP8 and VP9 have such as others are coded from and nobody sees (RFC 6386, 9.1; VP9, 6.2 and B).

    Of AV1 a packet holds all up to the picture that it shows.
    """
    if codec == "vp8":
        return bool(packet[0] & 0x10)
    if codec == "vp9":
        several, shown_again, shown = packet[-1] & 0xE0 == 0xC0, packet[0] & 0x08, packet[0] & 0x02
        return bool(several or shown_again or shown)
    return True


def pictures_at(path: str, times: Float[np.ndarray, "t"], tolerance: float) -> Iterator[np.ndarray]:
    """The pictures shown at ``times``, ascending and in seconds, upright and uint8 ``[y, x, 3]`` RGB; decoding starts at the
    keyframe before the first.

    Raises ``BadRecordingError`` where the nearest picture is ``tolerance`` or more away.
    """
    try:
        with _video_stream(path) as stream:
            if times[0] > 0 and stream.time_base:
                stream.container.seek(int(times[0] / stream.time_base), stream=stream)
            frames = stream.container.decode(stream)
            for wanted in times:
                frame = next((frame for frame in frames if frame.time is None or frame.time > wanted - tolerance), None)
                if frame is None or frame.time is None or frame.time >= wanted + tolerance:
                    found = "it ends before" if frame is None else f"the nearest is at {frame.time} s"
                    raise BadRecordingError(f"{path}: shows no picture at {wanted:.4f} s; {found}")
                yield turned(frame.to_ndarray(format="rgb24"), quarter_turns(frame))
    except DAMAGE as error:
        raise BadRecordingError(f"{path}: cannot be decoded ({error})") from error
