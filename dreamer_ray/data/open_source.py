"""From what a recipe says of its sources to the sources, and what the recordings of all of them share."""

from collections.abc import Mapping, Sequence

import numpy as np

from dreamer_ray.data.files import scheme
from dreamer_ray.data.lerobot import LeRobotConfig, LeRobotSource
from dreamer_ray.data.minari_sets import MinariConfig, MinariSource
from dreamer_ray.data.minerl import MinerlConfig, MinerlSource
from dreamer_ray.data.recordings import RecordingsConfig, SourceConfig, SourceEntry
from dreamer_ray.data.shards_source import ShardsConfig, ShardsSource
from dreamer_ray.data.sources import Source
from dreamer_ray.data.videos import VideosConfig, VideosSource
from dreamer_ray.data.vpt import VptConfig, VptSource
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace

SAME_SCALE = 1e-3
"""Share of a range by which two may differ that are taken for the same."""


def open_source(config: SourceConfig) -> Source:
    """The adapter of ``config``. Nothing is read yet: of VPT and MineRL actions and tasks are known without any file.

    Raises ``UserError`` where a folder is wanted and a URL was given.
    """
    place = config.root if isinstance(config, MinariConfig) else config.path
    if not isinstance(config, VptConfig) and place and scheme(str(place)):
        raise UserError(
            f"{place}: recordings of kind {config.kind} are read from a folder, only those of kind vpt from a URL or a bucket; copy them "
            "to a folder that all machines have, or mount it there"
        )
    match config:
        case VptConfig():
            return VptSource(config)
        case MinerlConfig():
            return MinerlSource(config)
        case LeRobotConfig():
            return LeRobotSource(config)
        case MinariConfig():
            return MinariSource(config)
        case VideosConfig():
            return VideosSource(config)
        case ShardsConfig():
            return ShardsSource(config)


def open_sources(config: RecordingsConfig) -> tuple[Source, ...]:
    """The sources in their order, the first one at ``config.path`` where that is given."""
    return tuple(open_source(entry.source) for entry in config.entries())


def shared_actions(config: RecordingsConfig, sources: Sequence[Source]) -> ActionSpace:
    """The action space of all sources that keep labels; empty where none has actions.

    Raises ``UserError`` where they have different ones, or scale their numbers in different ways.
    """
    found: ActionSpace = {}
    spaces = [source.action_space if keeps_labels(entry) else {} for entry, source in zip(config.sources, sources, strict=True)]
    for number, space in enumerate(spaces):
        if found and space and space != found:
            raise UserError(
                f"data.recordings.sources.{number}: its actions are {_words(space)}, those of the sources before it {_words(found)}; one "
                "model knows one space of actions: leave a source out, or take its pictures alone with labelled_fraction: 0"
            )
        found = found or space
    _refuse_other_scales({number: source for number, source in enumerate(sources) if spaces[number]})
    return found


def _refuse_other_scales(sources: Mapping[int, Source]) -> None:
    """Raises ``UserError`` where a number of a component is not the same action in all of ``sources``, which are given by their numbers."""
    scaled = {
        number: each for number, each in sources.items() if isinstance(each, LeRobotSource | MinariSource | VideosSource | ShardsSource)
    }
    if len(scaled) < 2:
        return
    first, *_ = scaled
    for name in scaled[first].scalings:
        bounds = {number: source.scalings[name].bounds for number, source in scaled.items() if name in source.scalings}
        same = SAME_SCALE * np.diff(bounds[first], axis=0)
        if other := next((number for number, found in bounds.items() if (np.abs(found - bounds[first]) > same).any()), None):
            widest = np.stack(list(bounds.values()))
            raise UserError(
                f"data.recordings.sources.{other}: its {name} of {_range(*bounds[other])} becomes -1 .. 1, of sources.{first} that of "
                f"{_range(*bounds[first])}, so that one number would be two actions; give all of them the same low and high (kind videos: "
                f"in actions.yaml; kinds minari and shards have theirs), such as {_range(widest[:, 0].min(0), widest[:, 1].max(0))}"
            )


def _range(low: np.ndarray, high: np.ndarray) -> str:
    lower, upper = (", ".join(f"{value:.6g}" for value in side) for side in (low, high))
    return f"low: [{lower}], high: [{upper}]"


def shared_tasks(config: RecordingsConfig, sources: Sequence[Source]) -> tuple[str, ...]:
    """The tasks of all sources that keep labels, each once, in the order of the sources."""
    labelled = (source for entry, source in zip(config.sources, sources, strict=True) if keeps_labels(entry))
    return tuple(dict.fromkeys(task for source in labelled for task in source.tasks))


def keeps_labels(entry: SourceEntry) -> bool:
    """Whether any recording of the source keeps its actions, tasks and rewards."""
    return entry.labelled_fraction > 0 and entry.labelled_hours != 0


def _words(space: ActionSpace) -> str:
    return ", ".join(f"{name} ({component.kind} {component.size})" for name, component in space.items())
