"""One jsonl file of a VPT recording without its video: its actions and events can be looked at all the same."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamer_ray.data.foreign import plain_name
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording
from dreamer_ray.data.vpt import MOST_TEXT, VptSource, opened
from dreamer_ray.data.vpt_actions import read_segment
from dreamer_ray.data.vpt_events import read_events
from dreamer_ray.data.vpt_takes import cut_takes, mended
from dreamer_ray.errors import UserError


@dataclass(frozen=True)
class VptLines(VptSource):
    """See ``VptSource``; its one recording has no pictures."""

    path: Path

    def index(self) -> Sequence[Recording]:
        """The file."""
        name = plain_name(self.path.stem)
        return [Recording(name, name, (str(self.path),))]

    def left_out(self) -> Counter[str]:
        """Nothing: there is no index."""
        return Counter()

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """Its takes, as if there were a frame for every line."""
        with opened(str(self.path), MOST_TEXT) as file:
            lines = file.read().split(b"\n")
        try:
            version, unit = self.config.recorder or "", self.config.degrees_per_unit
            segment = read_segment(lines, name=str(self.path), version=version, degrees_per_unit=unit)
        except UserError as error:
            raise BadRecordingError(str(error)) from error
        lost = Counter[str]()
        events = read_events(lines, self.config.rules(), lost)
        takes, dropped = cut_takes(segment, events, self.config.cuts(), frames=len(segment.keys), info={})
        return Reading(takes, iter(()), dropped + lost, mended(segment, self.config.cuts(), frames=len(segment.keys)))
