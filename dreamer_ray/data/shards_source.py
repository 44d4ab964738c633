"""A set of ours as the source of another run: what was ingested or played once is not fetched, decoded or played again.

RUN/record --> a recording a file, on the side of the split where it was --> its episodes, as they are kept or decoded
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Literal

from dreamer_ray.config import Config, fingerprint
from dreamer_ray.data.coding import Coded
from dreamer_ray.data.foreign import plain_name
from dreamer_ray.data.frame_rate import SAME_RATE
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.set_source import SetSource
from dreamer_ray.data.shards import ShardFile, ShardSet, checksum, read_manifest
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording, Split
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace

SIDES: tuple[Split, ...] = ("train", "heldout")


class ShardsConfig(Config):
    """A set of shards of another run: recordings that it ingested, or episodes that it played in Crafter."""

    kind: Literal["shards"]
    path: str
    """``RUN/record`` (or ``RUN``), whose two sides stay what they are, or one of them, such as ``RUN/record/train``, which is divided
    anew."""


@dataclass(frozen=True)
class _File:
    """A file that holds an episode, of the set of one side, or of a set without sides."""

    source: SetSource
    side: Split | None
    entry: ShardFile

    @property
    def recording(self) -> Recording:
        """As which it is read; in the group that its episodes say they are of."""
        stem, info = self.entry.name.removesuffix(".parquet"), self.entry.episodes[0].info
        name = plain_name(stem if self.side is None else f"{self.side}-{stem}")
        group = info.get("group") or info.get("recording") or name
        return Recording(name, str(group), (str(self.source.shards.folder / self.entry.name),), self.side)

    @property
    def firsts(self) -> list[int]:
        """Numbers of the first pictures of its episodes, counted through the file."""
        return list(accumulate((episode.length for episode in self.entry.episodes[:-1]), initial=0))


class ShardsSource:
    """See ``Source``. All that is wrong with a manifest is a ``UserError``."""

    def __init__(self, config: ShardsConfig):
        self.config, folder = config, Path(config.path)
        self.folder = folder / "record" if (folder / "record").is_dir() else folder

    @cached_property
    def _sets(self) -> dict[Split | None, ShardSet]:
        divided = any((self.folder / side / "manifest.json").exists() for side in SIDES)
        sides: tuple[Split | None, ...] = SIDES if divided else (None,)
        folders: dict[Split | None, Path] = {side: self.folder if side is None else self.folder / side for side in sides}
        found: dict[Split | None, ShardSet] = {
            side: ShardSet(folder, read_manifest(folder), cache_bytes=0) for side, folder in folders.items()
        }
        schemas = [each.schema for each in found.values()]
        if schemas[0].codec == "float16":
            raise UserError(f"data set {self.folder}: holds latents, and pictures are wanted; name the folder record of its run")
        if schemas[0] != schemas[-1]:
            raise UserError(f"data set {self.folder}: its two sides have different schemas; redo the stage that made it with --from")
        return found

    @cached_property
    def _files(self) -> dict[str, _File]:
        sources: dict[Split | None, SetSource] = {side: SetSource(each) for side, each in self._sets.items()}
        files = [_File(source, side, entry) for side, source in sources.items() for entry in source.shards.files if entry.episodes]
        return {file.recording.name: file for file in files}

    @property
    def _schema(self) -> ShardSchema:
        return next(iter(self._sets.values())).schema

    @property
    def action_space(self) -> ActionSpace:
        """That of the schema."""
        return self._schema.action_space

    @property
    def scalings(self) -> dict[str, Scaling]:
        """By component, as an episode with actions tells: in one set all have the same."""
        notes = [episode.info for shards in self._sets.values() for episode in shards.episodes]
        told = {name: next((note[key] for note in notes if (key := f"scaling.{name}") in note), None) for name in self.action_space}
        return {name: Scaling.of_note(str(note)) for name, note in told.items() if note is not None}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of the schema."""
        return self._schema.tasks

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self._schema.fps

    def index(self) -> Sequence[Recording]:
        """A recording a file, in the order of the set."""
        return [file.recording for file in self._files.values()]

    def made_from(self, recording: Recording) -> str:
        """What the manifest says of the file, of all files, and of the layout in which pictures are shown."""
        file = self._files[recording.name]
        schema, layout = self._schema.model_dump(mode="json"), file.source.shards.manifest.origin.layout
        return fingerprint([file.entry.model_dump(mode="json"), schema, layout and layout.model_dump(mode="json")])

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """A take an episode; the file is that of the manifest to the byte."""
        file, takes, pictures = self._files[recording.name], [], []
        try:
            found = checksum(Path(recording.files[0]))
        except OSError as error:
            raise BadRecordingError(f"{recording.files[0]}: cannot be read ({error.strerror})") from error
        if found != file.entry.sha256:
            raise BadRecordingError(f"{recording.files[0]}: is damaged, or was written anew since: its manifest has another SHA-256")
        for first, episode in zip(file.firsts, file.entry.episodes, strict=True):
            reading = file.source.read(replace(recording, name=episode.name), layout)
            (take,) = reading.takes
            takes.append(replace(take, first=first, info=take.info | {"from": episode.name}))
            pictures.append(reading.pictures)
        return Reading(tuple(takes), chain.from_iterable(pictures), Counter())

    def fits(self, recording: Recording, schema: ShardSchema, layout: PictureLayout, *, longest: int) -> bool:
        """Whether the frames of ``recording`` can be taken over as they are kept into shards of ``schema``."""
        file, own = self._files[recording.name], self._schema
        same = own.codec == schema.codec and own.frame_shape == schema.frame_shape and abs(own.fps / schema.fps - 1) < SAME_RATE
        shown = file.source.shards.manifest.origin.layout in (None, layout)
        return same and shown and all(episode.length <= longest for episode in file.entry.episodes)

    def kept(self, recording: Recording, first: int) -> Coded:
        """The frames of the episode that begins with picture ``first`` of ``recording``, as they are kept. Raises ``BadRecordingError``."""
        file = self._files[recording.name]
        return file.source.rows(file.entry.episodes[file.firsts.index(first)].name).coded
