"""Where recordings come from: an adapter a format says what there is, and reads one recording at a time.

Source.index() --> Recording --Source.read--> Reading: takes (what is known, frame by frame) and pictures (one by one)

A recording is the smallest thing that is fetched, redone and reported: what is wrong in it costs it alone. Adapters stand in ``vpt.py``,
``minerl.py``, ``lerobot.py``, ``minari_sets.py``, ``videos.py`` and ``shards_source.py``; what is read becomes shards in ``ingest``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal, Protocol

import numpy as np

from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.types import ActionSpace

Split = Literal["train", "heldout"]
Several = Literal["last", "mean", "sum"]
"""What counts of numbers where several pictures become one frame. "sum" is right for a way gone, which is also divided where a picture
becomes several frames."""


@dataclass(frozen=True)
class Recording:
    """One entry of a source's index."""

    name: str
    """Unique in the source; of letters, digits, ``.``, ``_`` and ``-``."""
    group: str
    """What must lie on one side of the split between training and held-out data."""
    files: tuple[str, ...]
    """Paths or URLs of what belongs to it."""
    split: Split | None = None
    """The side on which it lies already; None where that is still to be said."""


@dataclass(frozen=True)
class Motion:
    """How to read actions that are a way gone, such as the turn of a mouse, and not a place or a choice: those of frames that become one
    add up, and those of a frame that becomes several are divided among them."""

    decode: Callable[[np.ndarray], np.ndarray]
    """Actions ``[T, ...]`` as numbers ``[T, n]`` that can be added."""
    encode: Callable[[np.ndarray], np.ndarray]
    """The inverse."""

    @classmethod
    def of(cls, scaling: Scaling) -> "Motion":
        """Of continuous actions that were scaled."""
        return cls(scaling.unscaled, scaling.scaled)


@dataclass(frozen=True)
class Take:
    """Consecutive frames of a recording, with no pause between them, and what is known of each of the ``T``."""

    first: int
    """Number of its first picture in the recording."""
    actions: dict[str, np.ndarray]
    """``[T, ...]`` by component: ``a_t``, taken while ``o_t`` is seen; its effect shows in ``o_{t+1}``."""
    labelled: np.ndarray
    """bool ``[T]``: whether ``a_t`` is known."""
    events: np.ndarray
    """uint8 ``[T, m]``: the tasks' events arriving with ``o_t``."""
    continues: np.ndarray
    """float32 ``[T]``: 0 only where ``o_t`` is terminal."""
    info: dict[str, float | int | str] = field(default_factory=dict)
    """Provenance."""
    motions: Mapping[str, Motion] = field(default_factory=dict)
    """Components of ``actions`` that are motions."""
    times: np.ndarray | None = None
    """float64 ``[T]``: when each frame is shown, in seconds, never falling; None where they come evenly, at ``Source.fps``."""
    several: Mapping[str, Several] = field(default_factory=dict)
    """What counts of other components where several frames become one; of choices the first, which is shown."""


@dataclass(frozen=True)
class Reading:
    """What a recording holds."""

    takes: tuple[Take, ...]
    """In order, without overlap."""
    pictures: Iterator[np.ndarray]
    """All pictures of the recording in order, uint8 ``[y, x, 3]`` RGB; reading them may raise ``BadRecordingError``."""
    dropped: Counter[str]
    """Frames or lines that were left out, by reason."""
    mended: Counter[str] = field(default_factory=Counter)
    """Frames or lines that were kept and changed, or kept though others leave them out, by what was done."""
    video: IO[bytes] | None = None
    """A copy of the recording's video, where that lies elsewhere; its pictures are read from it, or its packets instead of them."""


class BadRecordingError(Exception):
    """A recording that cannot be used; the message names the file and the reason. It costs the recording, not the run."""


class Source(Protocol):
    """One data set in one format."""

    @property
    def action_space(self) -> ActionSpace:
        """Empty where the source has no actions."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of what ``Take.events`` counts."""
        ...

    @property
    def fps(self) -> float:
        """Frames a second, of a recording whose takes say when each is shown the usual ones."""
        ...

    def index(self) -> Sequence[Recording]:
        """All recordings, in the order of the data set, without opening their videos.

        Raises ``UserError`` where there is nothing to read.
        """
        ...

    def made_from(self, recording: Recording) -> str:
        """What a reading of ``recording`` depends on besides its own files and the values of the source's section: the same text, the same
        reading. Raises ``UserError`` where that cannot be told."""
        ...

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """What ``recording`` holds, its pictures as large as recorded or in ``layout``. Raises ``BadRecordingError``."""
        ...
