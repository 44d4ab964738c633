"""Pictures kept compressed: one packet a frame, cut out of a video at its keyframes without decoding, and spans decoded from them.

A row of a shard holds a packet. Rows come in the decoder's order; from a keyframe's row on, n rows hold the first n frames.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, dropwhile, islice
from typing import IO, Any, Literal

import av
import numpy as np

from dreamer_ray.data.layout import Picture, PictureLayout, picture_maker, quarter_turns
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.video import DAMAGE, MAX_PIXELS, check_frame, video_info, video_stream, whole_packets

IDR = 5
"""H.264: the type of a unit after which nothing refers to what came before."""


@dataclass(frozen=True)
class StreamParameters:
    """What a decoder must be given besides the packets, once a stream."""

    codec: Literal["h264"]
    extradata: bytes


@dataclass(frozen=True)
class CodedPacket:
    """The compressed data of one frame."""

    data: bytes
    frame: int
    """Number of the frame that it shows. Where there are frames coded from later ones, that is not the packet's own place."""
    keyframe: bool
    """Whether decoding may begin here: it is the packet's own place, and no later packet needs or shows anything before."""
    offset: int = -1
    """Where ``data`` begins in its file, as far as the container tells."""


@dataclass(frozen=True)
class PacketStream:
    """A compressed video, packet by packet in the decoder's order."""

    parameters: StreamParameters
    packets: Iterator[CodedPacket]


def source_packets(path: str, *, file: IO[bytes] | None = None) -> PacketStream:
    """The packets of the H.264 video ``path`` (or ``file``) as they lie in it. Raises ``BadRecordingError``, as do the packets.

    Of a file that was cut short the last frames are left out, as in ``video_info``.
    """
    info = video_info(path, file=file)
    if info.codec != "h264":
        raise BadRecordingError(f"{path}: holds {info.codec}; only H.264 is taken over without decoding, so have it encoded anew")
    try:
        with video_stream(path, file) as stream:
            parameters = StreamParameters("h264", bytes(stream.codec_context.extradata or b""))
            packets = [(packet.pts, packet.is_discard) for packet in whole_packets(stream)]
        with video_stream(path, file) as stream:
            upright = _is_upright(stream)
    except DAMAGE as error:
        raise BadRecordingError(f"{path}: cannot be read as a video ({error})") from error
    if not upright:
        raise BadRecordingError(f"{path}: lies on its side, and packets cannot be turned; choose codec.kind = h264, which decodes it")
    if any(stamp is None or hidden for stamp, hidden in packets):
        raise BadRecordingError(f"{path}: packets without a time or that are not shown; have it encoded anew")
    shown = np.argsort(np.argsort(np.array([stamp for stamp, _ in packets], np.int64), kind="stable"), kind="stable")
    return PacketStream(parameters, _packets(path, file, parameters, shown, info.frames))


def _is_upright(stream: Any) -> bool:
    """Whether the first frame that can be decoded is shown as it is."""
    coming = dropwhile(lambda packet: not packet.is_keyframe, whole_packets(stream))
    first = next((frame for packet in chain(coming, [None]) for frame in stream.decode(packet)), None)
    return first is None or not quarter_turns(first)


def _packets(path: str, file: IO[bytes] | None, parameters: StreamParameters, shown: np.ndarray, count: int) -> Iterator[CodedPacket]:
    """``shown`` is each packet's frame; frames from ``count`` on are left out."""
    highest = np.maximum.accumulate(np.concatenate([[-1], shown]))
    place = 0
    try:
        with video_stream(path, file) as stream:
            for place, packet in enumerate(whole_packets(stream)):
                begins = highest[place] == place - 1 and shown[place] == place
                data, frame = bytes(packet), int(shown[place])
                if frame < count:
                    keyframe = bool(begins and packet.is_keyframe and IDR in unit_types(data, parameters.extradata))
                    yield CodedPacket(data, frame, keyframe, -1 if packet.pos is None else packet.pos)
    except DAMAGE as error:
        raise BadRecordingError(f"{path}: packet {place} cannot be read ({error})") from error


def unit_types(data: bytes, extradata: bytes) -> set[int]:
    """Types of the H.264 units in a packet, which are led by their length (mp4) or by a start code (Annex B)."""
    if extradata[:1] != b"\x01":
        return {part[0] & 31 for part in data.split(b"\x00\x00\x01")[1:] if part}
    size, place, found = (extradata[4] & 3) + 1, 0, set()
    while place + size < len(data):
        found.add(data[place + size] & 31)
        place += size + int.from_bytes(data[place : place + size])
    return found


def cut(packets: Iterable[CodedPacket], first: int, stop: int) -> Iterator[CodedPacket]:
    """The packets of as many of the frames ``first`` .. ``stop - 1`` as can be had without decoding; numbers stay those of the video.

    They begin at the first keyframe from ``first`` on, and end with the last frame before which nothing is missing. Not more than the
    packets by which the decoder's order runs ahead are held.
    """
    waiting: list[CodedPacket] = []
    taken = highest = -1
    for packet in packets:
        if taken < 0:
            if not packet.keyframe or packet.frame < first:
                continue
            taken = packet.frame
        waiting.append(packet)
        taken, highest = taken + 1, max(highest, packet.frame)
        if taken > stop:
            return
        if highest == taken - 1:
            yield from waiting
            waiting.clear()


def decode_span(
    parameters: StreamParameters,
    payloads: Iterable[bytes],
    *,
    first: int,
    count: int,
    name: str,
    layout: PictureLayout | None = None,
) -> Iterator[Picture]:
    """Frames ``first`` .. ``first + count - 1``, uint8 ``[y, x, 3]`` RGB, counted from the first of ``payloads``, which is a keyframe's.

    ``payloads`` are taken as needed: with frames coded from later ones, some more than are asked for. Raises ``BadRecordingError``
    naming ``name`` and the frame.
    """
    make, shape = picture_maker(layout), None
    number = 0
    try:
        for frame in islice(_decoded(parameters, payloads), first + count):
            shape = shape or (frame.height, frame.width)
            check_frame(frame, shape)
            if number >= first:
                yield make(frame)
            number += 1
        if number < first + count:
            raise ValueError(f"its packets end there, and {first + count} frames were expected")
    except DAMAGE as error:
        raise BadRecordingError(f"{name}: frame {number} after its keyframe cannot be decoded ({error})") from error


def _decoded(parameters: StreamParameters, payloads: Iterable[bytes]) -> Iterator[av.VideoFrame]:
    decoder = av.VideoCodecContext.create(parameters.codec, "r")
    if parameters.extradata:
        decoder.extradata = parameters.extradata
    # strict: frames are put in order as far as the level allows, not as far as the stream has shown to need, which may come too late
    decoder.options = {"max_pixels": str(MAX_PIXELS), "strict": "strict"}
    decoder.thread_type = "NONE"
    for payload in payloads:
        if payload:
            yield from decoder.decode(av.Packet(payload))
    yield from decoder.decode(None)
