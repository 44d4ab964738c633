"""What the sources of a recipe cannot be brought to, refused before anything is read."""

from collections.abc import Sequence

from dreamer_ray.data.frame_rate import SAME_RATE
from dreamer_ray.data.open_source import keeps_labels
from dreamer_ray.data.recordings import RecordingsConfig, SourceConfig
from dreamer_ray.data.shards_source import ShardsConfig, ShardsSource
from dreamer_ray.data.sources import Source
from dreamer_ray.data.videos import VideosConfig
from dreamer_ray.data.vpt import VptConfig
from dreamer_ray.errors import UserError


def refuse_other_rates(config: RecordingsConfig, sources: Sequence[Source], fps: float) -> None:
    """Raises ``UserError`` where actions of a set of ours had to be brought to another rate: whether they add up is not known of it."""
    for number, (entry, source) in enumerate(zip(config.sources, sources, strict=True)):
        if isinstance(source, ShardsSource) and keeps_labels(entry) and source.action_space and abs(source.fps / fps - 1) >= SAME_RATE:
            raise UserError(
                f"sources[{number}]: {source.folder} holds actions at {source.fps:g} frames a second, and {fps:g} are wanted; ingest its "
                "recordings at that rate, set fps, or take its pictures alone with labelled_fraction: 0"
            )


def refuse_other_pictures(config: RecordingsConfig, sources: Sequence[Source], fps: float) -> None:
    """Raises ``UserError`` where packets that are to be kept do not hold the pictures that are wanted, of ``fps`` frames a second."""
    for number, (entry, source) in enumerate(zip(config.sources, sources, strict=True)):
        place, remedy = f"sources[{number}]: codec.kind = {config.codec.kind}", "choose codec.kind = h264"
        if why := _no_packets(entry.source):
            raise UserError(f"{place} does not do for kind {entry.source.kind}: {why}; {remedy}")
        if abs(source.fps / fps - 1) >= SAME_RATE:
            raise UserError(f"{place} keeps the rate, but it has {source.fps:g} frames a second and sources[0] has {fps:g}; {remedy}")


def _no_packets(source: SourceConfig) -> str:
    """Why the packets of its videos cannot be used as they are; empty where they can."""
    match source:
        case VideosConfig():
            return ""
        case VptConfig():
            why = "the cursor has to be drawn into frames on which a menu is open (cursor: false leaves it out)"
            return why if source.cursor else ""
        case ShardsConfig():
            return "its frames are taken over as they are wherever layout, codec and rate are the same"
        case _:
            return "its pictures are not those of a video each, one by one"
