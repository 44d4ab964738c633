"""Videos: pictures out of files in any container that FFmpeg knows, through PyAV."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import fsspec
import numpy as np

from dreamer_ray.data.sources import BadRecordingError


@dataclass(frozen=True)
class VideoInfo:
    """What a video's container says, counted without decoding."""

    frames: int
    shape: tuple[int, int]
    """Rows and columns."""
    fps: float


def open_file(path: str) -> Any:
    """A readable file of a path or URL (http, s3, gcs and whatever else fsspec knows)."""
    return fsspec.open(path, "rb").open()


def video_info(path: str) -> VideoInfo:
    """Counts the packets of the first video stream. Raises ``BadRecordingError``."""
    try:
        with open_file(path) as file, av.open(file) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 0)
            frames = sum(packet.size > 0 for packet in container.demux(stream))
            return VideoInfo(frames, (stream.height, stream.width), rate)
    except (OSError, av.FFmpegError, IndexError, ValueError) as error:
        raise BadRecordingError(f"{path}: cannot be read as a video ({error})") from error


def pictures(path: str) -> Iterator[np.ndarray]:
    """All pictures of the first video stream, uint8 ``[y, x, 3]`` RGB. Raises ``BadRecordingError``."""
    try:
        with open_file(path) as file, av.open(file) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24")
    except (OSError, av.FFmpegError, IndexError, ValueError) as error:
        raise BadRecordingError(f"{path}: cannot be decoded ({error})") from error
