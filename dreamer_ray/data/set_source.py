"""What we have written ourselves, read as a source: an episode of a set of shards or latents is a recording of one take."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from dreamer_ray.data.layout import PictureLayout, picture_maker
from dreamer_ray.data.rows import Rows
from dreamer_ray.data.shards import ShardSet
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording, Take
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace

FRAMES_AT_ONCE = 32


class SetSource:
    """See ``Source``; latents are no pictures, so their readings have none."""

    def __init__(self, shards: ShardSet):
        self.shards = shards
        if not shards.schema.fps > 0:
            raise UserError(f"data set {shards.folder}: fps is {shards.schema.fps}, wanted more than 0")
        self._numbers = {episode.name: i for i, episode in enumerate(shards.episodes)}
        if len(self._numbers) < len(shards.episodes):
            (name, _), *_ = Counter(episode.name for episode in shards.episodes).most_common(1)
            raise UserError(f"data set {shards.folder}: episode {name!r:.80} stands there twice; redo the stage that made it with --from")

    @property
    def action_space(self) -> ActionSpace:
        """That of the schema."""
        return self.shards.schema.action_space

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of the schema."""
        return self.shards.schema.tasks

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.shards.schema.fps

    def index(self) -> Sequence[Recording]:
        """A recording an episode."""
        listed = [(file.name, episode.name) for file in self.shards.files for episode in file.episodes]
        return [Recording(name, name, (str(self.shards.folder / file),)) for file, name in listed]

    def made_from(self, recording: Recording) -> str:
        """The manifest, which has the checksums of all files."""
        return self.shards.fingerprint

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """One take, the whole episode, its pictures as they were kept or in ``layout``."""
        number, rows = self._numbers[recording.name], self.rows(recording.name)
        info = dict(self.shards.episodes[number].info)
        take = Take(0, rows.actions, rows.labelled, rows.events, rows.continues, info)
        pictures = self._pictures(number) if self.shards.schema.codec != "float16" else iter(())
        return Reading((take,), map(picture_maker(layout), pictures), Counter())

    def rows(self, episode: str) -> Rows:
        """The episode of that name, its frames still compressed. Raises ``BadRecordingError``."""
        try:
            return self.shards.rows(self._numbers[episode])
        except UserError as error:
            raise BadRecordingError(str(error)) from error

    def _pictures(self, number: int) -> Iterator[np.ndarray]:
        for first in range(0, self.shards.episodes[number].length, FRAMES_AT_ONCE):
            try:
                frames = self.shards.frames(number, slice(first, first + FRAMES_AT_ONCE))
            except UserError as error:
                raise BadRecordingError(str(error)) from error
            yield from frames
