"""Packets that stay in their video: where each one lies in it, and how it is read there again."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from jaxtyping import Int

from dreamer_ray.data.files import scheme
from dreamer_ray.data.packets import CodedPacket
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.errors import UserError


@dataclass(frozen=True)
class Links:
    """Places of ``T`` packets in a local file."""

    video: str
    offsets: Int[np.ndarray, "t"]
    sizes: Int[np.ndarray, "t"]
    """In bytes."""
    checksums: Int[np.ndarray, "t"]
    """CRC-32 of each packet."""


def link(video: str, packets: Sequence[CodedPacket]) -> Links:
    """Where ``packets`` lie. Raises ``BadRecordingError`` where the container does not hold them in one piece, or lies elsewhere."""
    remedy = "choose codec.kind = source, which copies them"
    if scheme(video):
        raise BadRecordingError(f"{video}: is not on this machine, where training reads it; {remedy}")
    with Path(video).open("rb") as file:
        for packet in packets:
            file.seek(max(packet.offset, 0))
            if packet.offset < 0 or file.read(len(packet.data)) != packet.data:
                raise BadRecordingError(f"{video}: frame {packet.frame} cannot be read in place, as in mp4 and mov files; {remedy}")
    numbers = np.array([(packet.offset, len(packet.data), crc32(packet.data)) for packet in packets], np.int64)
    return Links(video, *numbers.T)


def read_links(links: Links) -> list[bytes]:
    """The packets. Raises ``UserError`` where they are no longer what they were."""
    found = []
    try:
        if not Path(links.video).is_file():
            raise FileNotFoundError("there is no such file")
        with Path(links.video).open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            for offset, size, checksum in zip(links.offsets.tolist(), links.sizes.tolist(), links.checksums.tolist(), strict=True):
                if not 0 <= offset <= offset + size <= end:
                    raise ValueError(f"it has {end} bytes, and a frame should end at {offset + size}")
                file.seek(offset)
                found.append(file.read(size))
                if crc32(found[-1]) != checksum:
                    raise ValueError(f"its bytes from {offset} on are others")
    except (OSError, ValueError) as error:
        remedy = "bring the video back, or redo the run --from record"
        raise UserError(f"video {links.video}: is not what it was when its shard was written ({error}); {remedy}") from error
    return found
