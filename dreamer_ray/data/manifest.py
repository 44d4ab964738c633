"""What a folder of shards or latents says of itself: the models of its ``manifest.json``, which ``shards.py`` writes and reads."""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from dreamer_ray.config import Config
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.rows import Count, ShardSchema

Counts = dict[str, Annotated[int, Field(ge=0)]]


class EpisodeEntry(Config):
    """An episode as the manifest lists it."""

    name: str
    length: Count
    info: dict[str, float | int | str]
    labelled: bool = True
    """False where actions and events are withheld, though the file may hold them."""


class ShardFile(Config):
    """A Parquet file as the manifest lists it."""

    name: Annotated[str, Field(max_length=200)]
    sha256: str
    episodes: tuple[EpisodeEntry, ...]
    dropped: Counts = Field(default_factory=dict)
    """Frames or lines of the recording that were left out, by reason."""
    mended: Counts = Field(default_factory=dict)
    """Those that were kept and changed, by what was done."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``mended`` where nothing was: sets that were made before it was counted keep their fingerprint."""
        return {key: value for key, value in handler(self).items() if key != "mended" or value}

    @property
    def frames(self) -> int:
        """Rows of the file."""
        return sum(episode.length for episode in self.episodes)


class SourceNote(Config):
    """One of the sources of a set; episodes name theirs by its number, ``info["source"]``."""

    kind: str
    place: str
    """Path or URL."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of the clips of every batch that are not task-relevant; None where sources share by their hours."""


class Origin(Config):
    """Where the pictures of a set come from and what became of them."""

    layout: PictureLayout | None = None
    sources: tuple[SourceNote, ...] = ()
    dropped: Counts = Field(default_factory=dict)
    """Frames, lines or recordings that were left out, by reason."""
    notes: tuple[str, ...] = ()
    """What a reader of results ought to know of the set."""


class Manifest(Config):
    """The manifest of a folder."""

    format: int
    shard_schema: ShardSchema
    files: tuple[ShardFile, ...]
    made_by: dict[str, Any]
    parents: dict[str, str]
    origin: Origin = Origin()
