"""Pictures compressed anew, one packet a frame: H.264 without frames coded from later ones, or JPEG."""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import VideoReformatter
from PIL import Image
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.data.layout import Picture
from dreamer_ray.data.packets import CodedPacket, PacketStream, StreamParameters
from dreamer_ray.data.sources import BadRecordingError


class H264(Config):
    """H.264, far smaller than JPEG; a clip is decoded from the keyframe before it on."""

    kind: Literal["h264"] = "h264"
    keyframe_every: int = Field(default=32, gt=0, le=10_000)
    """Frames; a clip decodes at most one fewer than it needs."""
    crf: int = Field(default=23, ge=0, le=51)
    """Constant rate factor: 18 is hard to tell from the source, and 6 more halve the size."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "veryfast"


class Jpeg(Config):
    """JPEG: every frame alone."""

    kind: Literal["jpeg"] = "jpeg"
    quality: int = Field(default=90, ge=1, le=95)


def encode_h264(pictures: Iterable[Picture], config: H264, *, shape: tuple[int, int], fps: float) -> PacketStream:
    """The packets of ``pictures``, all uint8 ``[y, x, 3]`` RGB of ``shape``: packet i shows frame i."""
    even = shape[0] % 2 == 0 and shape[1] % 2 == 0
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.height, encoder.width = shape
    encoder.pix_fmt = "yuv420p" if even else "yuv444p"  # colour at half the resolution needs even sides
    encoder.framerate = Fraction(fps).limit_denominator(1001)
    encoder.time_base = 1 / encoder.framerate
    every = config.keyframe_every
    encoder.options = {
        "preset": config.preset,
        "crf": str(config.crf),
        # mbtree looks beyond the edges of small pictures: equal ones would not always be equal bytes
        "x264-params": f"keyint={every}:min-keyint={every}:scenecut=0:bframes=0:open-gop=0:mbtree=0:threads=1",
    }
    encoder.flags |= Flags.global_header
    encoder.open()
    return PacketStream(StreamParameters("h264", bytes(encoder.extradata or b"")), _encoded(encoder, pictures, shape))


def _encoded(encoder: av.VideoCodecContext, pictures: Iterable[Picture], shape: tuple[int, int]) -> Iterator[CodedPacket]:
    count, scaler = 0, VideoReformatter()
    for number, picture in enumerate(pictures):
        if picture.shape != (*shape, 3) or picture.dtype != np.uint8:
            raise ValueError(f"picture {number}: {picture.dtype} {picture.shape}; wanted uint8 {(*shape, 3)}")
        # by a scaler of our own: the one that the encoder begins on several threads gives other bytes now and then
        frame = scaler.reformat(av.VideoFrame.from_ndarray(picture, format="rgb24"), format=encoder.pix_fmt, threads=1)
        frame.pts = number
        for packet in encoder.encode(frame):
            yield CodedPacket(bytes(packet), count, packet.is_keyframe)
            count += 1
    for packet in encoder.encode(None):
        yield CodedPacket(bytes(packet), count, packet.is_keyframe)
        count += 1


def encode_jpeg(picture: Picture, config: Jpeg) -> bytes:
    """``picture``, uint8 ``[y, x, 3]`` RGB, as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=config.quality)
    return buffer.getvalue()


def decode_jpeg(payload: bytes, *, name: str) -> Picture:
    """The picture of a JPEG file. Raises ``BadRecordingError`` naming ``name``."""
    try:
        picture = Image.open(io.BytesIO(payload), formats=["JPEG"])
        if picture.mode != "RGB":
            raise ValueError(f"its colours are {picture.mode}")
        return np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRecordingError(f"{name}: is no JPEG of a picture ({error})") from error
