"""Videos: pictures out of files in any container that FFmpeg knows, through PyAV, one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

import av
import numpy as np
from av.error import ArgumentError, FFmpegError

from dreamer_ray.data.files import fetch
from dreamer_ray.data.layout import Picture, PictureLayout, picture_maker
from dreamer_ray.data.sources import BadRecordingError

DAMAGE = (OSError, FFmpegError, LookupError, ValueError, ArithmeticError)
"""What reading a damaged file raises."""
MAX_PIXELS = 2**24
"""Of a picture, 4096 x 4096; a header that says more is taken for damaged rather than given the memory."""
FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,h264,hevc"
"""What only names other files or addresses, such as a playlist, is no video."""
OPTIONS = {"max_pixels": str(MAX_PIXELS)}
MAX_REORDER = 16
"""H.264: the most frames by which decoding order may run ahead of the order of showing."""
ONE_PACKET_A_FRAME = {"h264", "hevc", "mjpeg", "png", "ffv1", "rawvideo"}
"""Codecs whose packets may be counted for frames; VP9 and AV1 have hidden ones."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds."""

    frames: int
    """That can be shown; fewer than the header says where the file was cut short."""
    shape: tuple[int, int]
    """Rows and columns."""
    fps: float
    """0 where neither the container nor the frames' times tell."""
    codec: str = ""
    times: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)
    """float64 ``[frames]``: when each frame is shown, in seconds, never falling."""


@contextmanager
def video_stream(path: str, file: IO[bytes] | None = None) -> Iterator[Any]:
    """The first video stream of ``path``, or of ``file`` from its start; decodes on the caller's thread. Raises what ``DAMAGE`` names."""
    source = fetch(path) if file is None else file
    try:
        source.seek(0)
        with open_container(source) as container:
            if not container.streams.video:
                raise ValueError("it has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError("its codec is not known")
            stream.codec_context.options = OPTIONS
            stream.thread_type = "NONE"
            yield stream
    finally:
        if file is None:
            source.close()


def open_container(file: IO[bytes]) -> Any:
    """``file`` alone, demuxed; nothing that it names is opened. Raises what ``DAMAGE`` names."""
    try:
        return av.open(file, mode="r", metadata_errors="ignore", options={"format_whitelist": FORMATS, "protocol_whitelist": "none"})
    except ArgumentError as error:
        raise ValueError(f"it is none of {FORMATS.replace(',', ', ')}") from error


def whole_packets(stream: Any) -> Iterator[av.Packet]:
    """The packets of a stream in its file's order, without the one in which a file that was cut short ends.

    Raises ``ValueError`` where a damaged one has others after it: the frames would move up.
    """
    number, short = 0, False
    for packet in stream.container.demux(stream):
        if not packet.size:
            continue
        if short:
            raise ValueError(f"packet {number} is damaged")
        if not (short := packet.is_corrupt):
            yield packet
            number += 1


def video_info(path: str, *, file: IO[bytes] | None = None) -> VideoInfo:
    """Counts the frames of the first video stream, without decoding where the codec allows. Raises ``BadRecordingError``."""
    try:
        with video_stream(path, file) as stream:
            codec = stream.codec_context.name
            base, rate = float(stream.time_base or 0), float(stream.average_rate or 0)
            parts = whole_packets(stream) if codec in ONE_PACKET_A_FRAME else stream.container.decode(stream)
            stamps = [part.pts for part in parts if not getattr(part, "is_discard", False)]
            count = len(stamps)
            if codec in ONE_PACKET_A_FRAME and count < (stream.frames or 0):
                # the file was cut short: its last frames may lack those that are shown before them
                count = max(0, count - MAX_REORDER)
            if not count:
                raise ValueError("it holds no whole frame")
            fps, times = _clock(stamps, base, rate, count)
            return VideoInfo(count, (stream.height, stream.width), fps, codec, times)
    except DAMAGE as error:
        raise BadRecordingError(f"{path}: cannot be read as a video ({error})") from error


def frames(path: str, *, count: int | None = None, file: IO[bytes] | None = None) -> Iterator[av.VideoFrame]:
    """The frames of the first video stream as decoded, the first ``count`` of them or all.

    Raises ``BadRecordingError`` naming the frame that is damaged or missing, also where the file ends before its header says so.
    """
    number, shape = 0, None
    try:
        with video_stream(path, file) as stream:
            wanted = count if count is not None else stream.frames if stream.codec_context.name in ONE_PACKET_A_FRAME else 0
            for frame in islice(_decoded(stream), count):
                shape = shape or (frame.height, frame.width)
                check_frame(frame, shape)
                yield frame
                number += 1
            if number < wanted:
                raise ValueError(f"the video ends there, and {wanted} frames were expected")
    except DAMAGE as error:
        raise BadRecordingError(f"{path}: frame {number} cannot be decoded ({error})") from error


def pictures(
    path: str, *, layout: PictureLayout | None = None, count: int | None = None, file: IO[bytes] | None = None
) -> Iterator[Picture]:
    """The frames of ``frames`` as pictures, uint8 ``[y, x, 3]`` RGB, in ``layout`` if given. Raises ``BadRecordingError``."""
    make = picture_maker(layout)
    for frame in frames(path, count=count, file=file):
        yield make(frame)


def check_frame(frame: av.VideoFrame, shape: tuple[int, int]) -> None:
    """Raises ``ValueError`` where ``frame`` is another size than ``shape``, or was made up in part since its data is damaged."""
    if (frame.height, frame.width) != shape:
        raise ValueError(f"its size changes from {shape[0]} x {shape[1]} to {frame.height} x {frame.width}")
    if frame.is_corrupt:
        raise ValueError("its data is damaged")


def _decoded(stream: Any) -> Iterator[av.VideoFrame]:
    for packet in whole_packets(stream):
        yield from packet.decode()
    yield from stream.decode(None)


def _clock(stamps: list[int | None], base: float, rate: float, count: int) -> tuple[float, np.ndarray]:
    """Frames a second, and the time at which each of the first ``count`` frames is shown."""
    if not base or None in stamps:
        return rate, np.arange(count) / (rate or 1.0)
    times = np.sort(np.array(stamps, np.float64) * base)[:count]
    span = times[-1] - times[0]
    return rate or (float((count - 1) / span) if span > 0 else 0.0), times - times[0]
