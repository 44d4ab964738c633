"""The index of the VPT contractor recordings: which segments there are, and which of them were played in one go.

The format is that of OpenAI's snapshot files: ``{"basedir": URL, "relpaths": ["data/10.0/ALIAS-SESSION-DAY-TIME.mp4", ...]}``.
"""

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dreamer_ray.data.files import fetch
from dreamer_ray.errors import UserError

SEGMENT = re.compile(
    r"(?:data/)?(?P<version>\d+\.\d+)/(?P<alias>[^/\\\x00-\x1f]+)-(?P<session>[0-9a-f]{12})-(?P<day>\d{8})-(?P<time>\d{6})(?:\.mp4)?",
    re.ASCII,
)
"""A path of an index, in either of its two styles."""
MOST_BYTES = 2**26
"""Of an index, unpacked; the largest published one has 1.4 MB."""


@dataclass(frozen=True)
class Segment:
    """Up to five minutes of play: a video, and its actions in a jsonl file of the same name."""

    path: str
    """Below the base folder, without suffix."""
    version: str
    """Of the recorder, such as "10.0"."""
    alias: str
    session: str
    day: str
    time: str

    @property
    def recording(self) -> str:
        """What must not be split between training and held-out data: all that one session played on one day, whatever the alias."""
        return f"{self.session}-{self.day}"


@dataclass(frozen=True)
class Index:
    """The segments of an index file, in its order, and how many of its paths were left out, by reason."""

    base: str
    segments: tuple[Segment, ...]
    dropped: dict[str, int]


class _File(BaseModel):
    model_config = ConfigDict(strict=True)
    basedir: str
    relpaths: list[object] = Field(min_length=1)


def read_index(path: Path | str) -> Index:
    """The index in the JSON file at the path or URL ``path``, which may be compressed (.gz).

    A path that is not one of a segment, or that stands there twice, is left out and counted. Raises ``UserError`` naming the file and
    the key where it is no index or holds no segment.
    """
    try:
        with fetch(str(path), most=MOST_BYTES) as file, gzip.open(file) if str(path).endswith(".gz") else file as stream:
            text = stream.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise UserError(f"index {path}: has more than {MOST_BYTES} bytes, unpacked; divide it, or is it another file?")
        content = _File.model_validate_json(text)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"index {path}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f'index {path}: {place}: {first["msg"]}; wanted {{"basedir": "...", "relpaths": ["data/10.0/....mp4", ...]}}'
        ) from error
    segments: dict[str, Segment] = {}
    dropped: dict[str, int] = {}
    for entry in content.relpaths:
        segment = _segment(entry)
        reason = "not the path of a segment" if segment is None else "listed twice" if segment.path in segments else None
        if segment is None or reason:
            dropped[str(reason)] = dropped.get(str(reason), 0) + 1
        else:
            segments[segment.path] = segment
    if not segments:
        raise UserError(
            f"index {path}: none of its {len(content.relpaths)} relpaths is a segment's; it begins with {content.relpaths[0]!r:.100}"
        )
    return Index(content.basedir, tuple(segments.values()), dropped)


def _segment(entry: object) -> Segment | None:
    found = SEGMENT.fullmatch(entry) if isinstance(entry, str) and len(entry) < 500 else None
    return None if found is None else Segment(found[0].removesuffix(".mp4"), **found.groupdict())
