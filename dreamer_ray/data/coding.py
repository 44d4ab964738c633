"""The frames of an episode as bytes, a row a frame, and back: PNG, JPEG, H.264 or half-precision latents."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from dreamer_ray.data.codecs import H264, Jpeg, decode_jpeg, encode_h264, encode_jpeg
from dreamer_ray.data.frame_rate import pick
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.links import Links
from dreamer_ray.data.packets import CodedPacket, StreamParameters, decode_span
from dreamer_ray.data.sources import BadRecordingError

Kind = Literal["png", "float16", "jpeg", "h264", "link"]
PACKETS = ("h264", "link")
"""Kinds whose rows are packets of H.264; those of "link" lie in the videos of others."""


@dataclass(frozen=True)
class Coded:
    """The frames of one episode, compressed. Of H.264 rows are packets in the decoder's order, otherwise a row is a frame alone."""

    payload: list[bytes]
    begins: np.ndarray
    """bool ``[T]``: whether decoding may begin at a row."""
    extradata: bytes = b""
    """Of H.264: what the decoder needs besides the packets."""
    links: Links | None = None
    """Codec link: where the packets lie."""

    @property
    def bytes(self) -> int:
        """Memory of the payload."""
        return sum(map(len, self.payload))


def code_pictures(pictures: Iterable[np.ndarray], codec: H264 | Jpeg | None, *, shape: tuple[int, int], fps: float) -> Coded:
    """Compresses pictures uint8 ``[y, x, 3]`` of ``shape`` as they come, one in memory at a time; PNG without a ``codec``."""
    if isinstance(codec, H264):
        stream = encode_h264(pictures, codec, shape=shape, fps=fps)
        return coded_packets(stream.packets, stream.parameters)
    payload = [encode_png(picture) if codec is None else encode_jpeg(picture, codec) for picture in pictures]
    return Coded(payload, np.ones(len(payload), bool))


def coded_packets(packets: Iterable[CodedPacket], parameters: StreamParameters) -> Coded:
    """Packets of which the first is a keyframe's."""
    rows = list(packets)
    return Coded([row.data for row in rows], np.array([row.keyframe for row in rows], bool), parameters.extradata)


def code_latents(latents: np.ndarray) -> Coded:
    """Half-precision numbers ``[T, l, c]``."""
    return Coded([frame.astype(np.float16).tobytes() for frame in latents], np.ones(len(latents), bool))


def decode_frames(
    coded: Coded, numbers: Sequence[int], *, codec: Kind, shape: tuple[int, int], layout: PictureLayout | None = None
) -> Iterator[np.ndarray]:
    """The frames of these ascending ``numbers``, one by one: pictures uint8 ``[y, x, 3]``, or latents float16 ``[l, c]``.

    Of H.264 only what lies between the keyframe before a frame and the frame is decoded, and brought to ``layout``. Raises
    ``BadRecordingError`` in place of the first frame that is damaged.
    """
    frames = _from_packets(coded, np.asarray(numbers, np.int64), layout) if codec in PACKETS else _alone(coded, numbers, codec, shape)
    for frame in frames:
        wanted = shape if codec == "float16" else (*shape, 3)
        if frame.shape != wanted:
            raise BadRecordingError(f"it is {' x '.join(map(str, frame.shape))}")
        yield frame


def encode_png(picture: np.ndarray) -> bytes:
    """``picture``, uint8 ``[y, x, 3]`` RGB, as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _alone(coded: Coded, numbers: Sequence[int], codec: Kind, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    for number in numbers:
        payload = coded.payload[number]
        if codec == "jpeg":
            yield decode_jpeg(payload, name="it")
        elif codec == "png":
            yield _decode_png(payload, shape)
        else:
            yield _decode_latent(payload, shape)


def _decode_latent(payload: bytes, shape: tuple[int, int]) -> np.ndarray:
    try:
        return np.frombuffer(payload, np.float16).reshape(shape)
    except ValueError as error:
        raise BadRecordingError(str(error)) from error


def _decode_png(payload: bytes, shape: tuple[int, int]) -> np.ndarray:
    try:
        picture = Image.open(io.BytesIO(payload), formats=["PNG"])
        if (picture.height, picture.width, picture.mode) != (*shape, "RGB"):
            raise ValueError(f"{picture.mode} picture of {picture.height} x {picture.width}")
        return np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRecordingError(str(error)) from error


def _from_packets(coded: Coded, numbers: np.ndarray, layout: PictureLayout | None) -> Iterator[np.ndarray]:
    """Decodes on from one wanted frame to the next, unless there is a keyframe between them to begin again at."""
    keyframes = np.flatnonzero(coded.begins)
    if not len(numbers):
        return
    if not len(keyframes) or keyframes[0]:
        raise BadRecordingError("its first row is no keyframe")
    begin = keyframes[np.searchsorted(keyframes, numbers, side="right") - 1]
    fresh = np.flatnonzero(begin[1:] > numbers[:-1] + 1) + 1
    parameters = StreamParameters("h264", coded.extradata)
    for part, start in zip(np.split(numbers, fresh), begin[[0, *fresh]], strict=True):
        first, count = int(part[0]), int(part[-1] - part[0]) + 1
        span = decode_span(parameters, coded.payload[start:], first=first - int(start), count=count, name="it", layout=layout)
        yield from pick(span, (part - first).tolist(), name="it")
