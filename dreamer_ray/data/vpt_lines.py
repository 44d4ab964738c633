"""One jsonl file of a VPT recording without its video: its actions and events can be looked at all the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamer_ray.data.foreign import plain_name, read_bytes
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording
from dreamer_ray.data.vpt import VptConfig
from dreamer_ray.data.vpt_actions import VPT_ACTIONS, read_segment
from dreamer_ray.data.vpt_events import read_events
from dreamer_ray.data.vpt_takes import TICKS_A_SECOND, CutRules, cut_takes
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace


@dataclass(frozen=True)
class VptLines:
    """See ``Source``; its one recording has no pictures."""

    config: VptConfig
    path: Path

    @property
    def action_space(self) -> ActionSpace:
        """23 keys, and the mouse's grid."""
        return VPT_ACTIONS

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.config.rules())

    @property
    def fps(self) -> float:
        """The game's clock."""
        return TICKS_A_SECOND

    def index(self) -> Sequence[Recording]:
        """The file."""
        name = plain_name(self.path.stem)
        return [Recording(name, name, (str(self.path),))]

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """Its takes, as if there were a frame for every line."""
        lines = read_bytes(self.path).split(b"\n")
        try:
            segment = read_segment(lines, name=str(self.path), degrees_per_unit=self.config.degrees_per_unit)
        except UserError as error:
            raise BadRecordingError(str(error)) from error
        config = self.config
        rules = CutRules(config.max_server_ms, config.max_idle_seconds, config.max_step_ms)
        takes, dropped = cut_takes(segment, read_events(lines, config.rules()), rules, frames=len(segment.keys), info={})
        return Reading(takes, iter(()), dropped)
