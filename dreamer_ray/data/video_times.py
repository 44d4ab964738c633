"""Pictures of a video by the time at which they are shown."""

from collections.abc import Iterator

import av
import av.error
import numpy as np
from jaxtyping import Float

from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.video import open_file

UNREADABLE = (OSError, av.error.FFmpegError, IndexError, ValueError, OverflowError)


def picture_times(path: str) -> Float[np.ndarray, "t"]:
    """When each picture of the first video stream is shown, in seconds from the first on. Raises ``BadRecordingError``."""
    try:
        with open_file(path) as file, av.open(file, "r") as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            stamps = [packet.dts if packet.pts is None else packet.pts for packet in packets]
            unit = float(stream.time_base or 0)
    except UNREADABLE as error:
        raise BadRecordingError(f"{path}: cannot be read as a video ({error})") from error
    known = [stamp for stamp in stamps if stamp is not None]
    if not known or len(known) < len(stamps) or unit <= 0:
        raise BadRecordingError(f"{path}: {len(stamps)} pictures, of which {len(known)} say when they are shown; convert it with ffmpeg")
    times = np.sort(np.array(known, np.float64)) * unit
    return times - times[0]


def pictures_at(path: str, times: Float[np.ndarray, "t"], tolerance: float) -> Iterator[np.ndarray]:
    """The pictures shown at ``times``, ascending and in seconds, uint8 ``[y, x, 3]`` RGB; decoding starts at the keyframe before the first.

    Raises ``BadRecordingError`` where the nearest picture is ``tolerance`` or more away.
    """
    try:
        with open_file(path) as file, av.open(file, "r") as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            if times[0] > 0 and stream.time_base:
                container.seek(int(times[0] / stream.time_base), stream=stream)
            frames = container.decode(stream)
            for wanted in times:
                frame = next((frame for frame in frames if frame.time is None or frame.time > wanted - tolerance), None)
                if frame is None or frame.time is None or frame.time >= wanted + tolerance:
                    found = "it ends before" if frame is None else f"the nearest is at {frame.time} s"
                    raise BadRecordingError(f"{path}: shows no picture at {wanted:.4f} s; {found}")
                yield frame.to_ndarray(format="rgb24")
    except UNREADABLE as error:
        raise BadRecordingError(f"{path}: cannot be decoded ({error})") from error
