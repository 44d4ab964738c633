"""What of a recipe says how recordings become shards: sources, pictures, splits, labels, limits."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dreamer_ray.config import Config
from dreamer_ray.data.codecs import H264, Jpeg
from dreamer_ray.data.files import scheme
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.lerobot import LeRobotConfig
from dreamer_ray.data.minari_sets import MinariConfig, minari_root
from dreamer_ray.data.minerl import MinerlConfig
from dreamer_ray.data.shards_source import ShardsConfig
from dreamer_ray.data.videos import VideosConfig
from dreamer_ray.data.vpt import VptConfig

SourceConfig = Annotated[VptConfig | MinerlConfig | LeRobotConfig | MinariConfig | VideosConfig | ShardsConfig, Field(discriminator="kind")]


WITHOUT_EFFECT = ("max_bad_fraction", "ladder", "sources.*.source.download", "sources.*.source.records")
"""Keys on which no set depends: how many recordings may be bad, what is asked of an agent, from where files are fetched."""


class SourceCodec(Config):
    """The source's own H.264, cut at its keyframes and not decoded: no loss, no work. It is brought to the layout when it is read, and
    keeps its rate."""

    kind: Literal["source"] = "source"


class LinkCodec(Config):
    """The source's own H.264 where it lies: shards say where each packet is, and training reads it out of the video. Nothing is copied;
    the videos must stay, under the same paths on every machine that trains."""

    kind: Literal["link"] = "link"


class Png(Config):
    """Every frame alone, without loss."""

    kind: Literal["png"] = "png"


Codec = Annotated[H264 | Jpeg | Png | SourceCodec | LinkCodec, Field(discriminator="kind")]


class SourceEntry(Config):
    """A source and what is taken of it."""

    source: SourceConfig
    share: float | None = Field(default=None, gt=0, le=1)
    """Of the clips of every batch that come from here, without the task-relevant ones (``relevant_fraction``), which are drawn from the
    events of all sources; sources without one share the rest by their hours."""
    recordings: int | None = Field(default=None, gt=0)
    """The first so many recordings, in the order of the data set, are all that is taken; a segment of VPT is five minutes at most."""
    labelled_fraction: float = Field(default=1.0, ge=0, le=1)
    """The first so much of what is trained on, episode by episode in the order of the data set, keeps its actions, tasks and rewards
    (paper's experiment on unlabelled video); the rest loses them."""
    labelled_hours: float | None = Field(default=None, ge=0)
    """The same as a budget of hours; the smaller of the two holds."""


class RecordingsConfig(Config):
    """Recordings of others, brought into shards by the stage ``record``."""

    sources: tuple[SourceEntry, ...] = Field(min_length=1)
    path: str | None = None
    """Takes the place of the first source's path (of kind minari: root), so that a recipe can be tried on a folder by
    ``data.recordings.path=...``."""
    layout: PictureLayout
    fps: float | None = Field(default=None, gt=0, le=1000)
    """Frames a second of the shards; that of the first source where it is not given. Every source is brought to it."""
    codec: Codec = H264()
    episode_frames: int = Field(default=1200, gt=1)
    """Longer takes are cut into episodes of so many frames: what is read to decode a clip lies in one of them."""
    heldout: float = Field(default=0.05, gt=0, lt=1)
    """Share of the groups of recordings (of the frames at the end, where there is a single recording) that is held out."""
    heldout_gap: int = Field(default=0, ge=0)
    """Frames left out before the held-out end of a single recording: one window of training."""
    seed: int = 0
    """Of the split."""
    max_bad_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of bad recordings beyond which the stage stops: the source is rotten, or read in the wrong way."""
    ladder: tuple[str, ...] = ()
    """Tasks in the order in which an agent is to achieve them, which make clips task-relevant; all tasks of the sources where empty."""

    @property
    def keeps_packets(self) -> bool:
        """Whether the sources' own packets are used, without decoding."""
        return isinstance(self.codec, SourceCodec | LinkCodec)

    @model_validator(mode="after")
    def _source_codec_keeps_pictures(self) -> "RecordingsConfig":
        if self.keeps_packets and self.fps is not None:
            raise ValueError(f"codec.kind = {self.codec.kind} keeps the rate of the source: leave fps out, or choose another codec")
        return self

    @model_validator(mode="after")
    def _shares_fit(self) -> "RecordingsConfig":
        given = [entry.share for entry in self.sources if entry.share is not None]
        total = sum(given)
        if total > 1 + 1e-9 or (len(given) == len(self.sources) and abs(total - 1) > 1e-9):
            raise ValueError(f"sources: their shares sum to {total:g}; wanted 1, or less where some sources have no share and get the rest")
        if len(given) < len(self.sources) and given and abs(total - 1) < 1e-9:
            raise ValueError("sources: their shares sum to 1, and nothing is left for those without a share")
        return self

    def entries(self) -> tuple[SourceEntry, ...]:
        """``sources``, with ``path`` in its place and local paths made absolute, also of ``~``, as other processes need them."""
        first = self.sources[0].source
        key = "root" if first.kind == "minari" else "path"
        replaced = first if self.path is None else first.model_copy(update={key: self.path})
        sources = [replaced, *(entry.source for entry in self.sources[1:])]
        return tuple(
            entry.model_copy(update={"source": source.model_copy(update=_absolute_paths(source))})
            for entry, source in zip(self.sources, sources, strict=True)
        )

    def absolute(self) -> "RecordingsConfig":
        """The same with ``entries`` as its sources, for processes whose working directory is another."""
        return self.model_copy(update={"sources": self.entries(), "path": None})


def _absolute_paths(source: SourceConfig) -> dict[str, Any]:
    def absolute(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(absolute, value))
        return value if value is None or scheme(value) else str(Path(value).expanduser().absolute())

    if isinstance(source, MinariConfig) and source.root is None:
        return {"root": str(minari_root(source).absolute())}
    return {key: absolute(getattr(source, key)) for key in ("path", "base", "root") if hasattr(source, key)}
