"""MineRL-v0: a folder a trajectory, with ``recording.mp4``, ``rendered.npz`` and ``metadata.json``.

The layout is that of minerl 0.4 (``minerl/data/data_pipeline.py`` and ``pipeline/publish.py``). There is one state more than rewards; the
video is aligned by its end, so its first ``true_video_frame_count - states`` pictures are left out, and the last state repeats the picture
before it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.data.download import ZENODO, fetch, unpack, zenodo_files
from dreamer_ray.data.foreign import Foreign, checked, inside, plain_name, read_bytes, read_npz
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording, Take
from dreamer_ray.data.video import pictures
from dreamer_ray.data.vpt_actions import MOUSE_BINS, MOUSE_MOTION, encode_mouse
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace, Binary, Categorical

ZENODO_RECORD = 12659939
MINERL_FPS = 20.0
KEYS = ("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint")
_TOOLS = ("wooden_axe", "wooden_pickaxe", "stone_axe", "stone_pickaxe", "iron_axe", "iron_pickaxe")
CHOICES = {
    "craft": ("none", "torch", "stick", "planks", "crafting_table"),
    "equip": ("none", "air", *_TOOLS),
    "nearbyCraft": ("none", *_TOOLS, "furnace"),
    "nearbySmelt": ("none", "iron_ingot", "coal"),
    "place": ("none", "dirt", "stone", "cobblestone", "crafting_table", "furnace", "torch"),
}
"""What can be chosen, in the order of the environments of minerl 0.4; an environment without a choice has "none" of it."""
MINERL_ACTIONS: ActionSpace = {
    "keys": Binary(size=len(KEYS)),
    "mouse": Categorical(size=MOUSE_BINS),
    **{name: Categorical(size=len(values)) for name, values in CHOICES.items()},
}
LADDER = ("log", "planks", "stick", "crafting_table", "wooden_pickaxe", "cobblestone", "stone_pickaxe", "furnace", "iron_ore", "coal")
LADDER += ("torch", "iron_ingot", "iron_pickaxe", "diamond")
WHOLE_RECORD = f".zenodo-{ZENODO_RECORD}"
"""Lists the environments of the record beside them, once all were fetched."""
FILES = ("rendered.npz", "recording.mp4", "metadata.json")
MOST_STATES = 10**7


class MinerlConfig(Config):
    """MineRL-v0 in a folder."""

    kind: Literal["minerl"]
    path: str
    """A folder that holds trajectories at any depth, such as that of all environments or of one."""
    environments: tuple[str, ...] = ()
    """Such as ``MineRLObtainDiamond-v0``; all that are there, or that Zenodo has, where empty."""
    download: bool = False
    """Fetch what is missing from Zenodo record 12659939 (8.6 GB in all)."""
    records: str = ZENODO
    """Where the record is asked for; another address for a mirror."""
    items: tuple[str, ...] = LADDER
    """Items whose increase in the inventory is an event of the task of that name."""
    reward: bool = True
    """Whether there is a task "reward" too, whose events are rewards above 0."""
    leave_out: tuple[str, ...] = ()
    """Names of trajectories that are not used, such as ``v3_absolute_grape_changeling-6_36-2062``."""


class _Metadata(Foreign):
    true_video_frame_count: int = Field(ge=2, le=MOST_STATES)
    success: bool | None = None


class MinerlSource:
    """See ``Source``."""

    def __init__(self, config: MinerlConfig):
        self.config, self.folder = config, Path(config.path)

    @property
    def action_space(self) -> ActionSpace:
        """The same for all environments."""
        return MINERL_ACTIONS

    @property
    def tasks(self) -> tuple[str, ...]:
        """The items, and "reward"."""
        return (*self.config.items, *["reward"] * self.config.reward)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return MINERL_FPS

    def index(self) -> Sequence[Recording]:
        """A recording a trajectory; all of one player are on the same side of the split."""
        if self.config.download:
            download_minerl(self.folder, self.config.environments, self.config.records)
        found = sorted(path.parent.relative_to(self.folder) for path in self.folder.rglob(FILES[0]))
        chosen = [path for path in found if self._wanted(path)]
        if not chosen:
            remedy = "download: true fetches them from Zenodo" if not found else f"there are {len(found)} that environments leaves out"
            raise UserError(f"MineRL data set {self.folder}: no trajectory of {self.config.environments or 'any environment'}; {remedy}")
        names = [plain_name("-".join(path.parts[-2:]) or self.folder.name) for path in chosen]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise UserError(f"MineRL data set {self.folder}: trajectory {twice[0]} stands there twice")
        files = [tuple(str(self.folder / path / name) for name in FILES) for path in chosen]
        return [Recording(name, player(path.name), these) for name, path, these in zip(names, chosen, files, strict=True)]

    def _wanted(self, path: Path) -> bool:
        named = not self.config.environments or not set(path.parts).isdisjoint(self.config.environments)
        return named and path.name not in self.config.leave_out

    def made_from(self, recording: Recording) -> str:
        """Nothing else."""
        return ""

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """One take, the whole trajectory."""
        arrays_file, video, notes = [inside(self.folder, str(Path(file).relative_to(self.folder))) for file in recording.files]
        metadata, arrays = checked(_Metadata, read_bytes(notes), str(notes)), read_npz(arrays_file)
        if any(name.startswith("action$vector") for name in arrays):
            raise BadRecordingError(f"{arrays_file}: its actions are obfuscated vectors; use the environments without VectorObf")
        rewards = _column(arrays, "reward", None, arrays_file)
        states, count = len(rewards) + 1, metadata.true_video_frame_count
        if states > count or states < 2:
            raise BadRecordingError(f"{arrays_file}: {states} states, its video has {count} pictures")
        dropped: Counter[str] = Counter()
        if count > states:
            dropped["pictures before the first state"] = count - states
        labelled = np.arange(states) < states - 1
        actions = self._actions(arrays, arrays_file, labelled, dropped)
        events = self._events(arrays, arrays_file, rewards)
        continues = np.ones(states, np.float32)
        continues[-1] = 0.0 if metadata.success else 1.0
        info: dict[str, float | int | str] = {"trajectory": recording.name, "reward": float(rewards.sum())}
        take = Take(count - states, actions, labelled, events, continues, info, {"mouse": MOUSE_MOTION})
        return Reading((take,), shown(str(video), count, layout), dropped)

    def _actions(self, arrays: dict[str, np.ndarray], path: Path, labelled: np.ndarray, dropped: Counter[str]) -> dict[str, np.ndarray]:
        states = len(labelled)
        keys = np.zeros((states, len(KEYS)), np.uint8)
        for i, name in enumerate(KEYS):
            keys[:-1, i] = _column(arrays, f"action${name}", states - 1, path) > 0
        mouse = np.full(states, encode_mouse(np.zeros(2)))
        mouse[:-1] = encode_mouse(_column(arrays, "action$camera", states - 1, path, width=2))
        actions = {"keys": keys, "mouse": mouse}
        for name, values in CHOICES.items():
            chosen = np.zeros(states, np.int64)
            if f"action${name}" in arrays:
                chosen[:-1], known = _choice(arrays[f"action${name}"], values, states - 1, f"{path}: action${name}")
                labelled[:-1] &= known
                dropped[f"actions whose {name} is unknown"] += int((~known).sum())
            actions[name] = chosen
        return actions

    def _events(self, arrays: dict[str, np.ndarray], path: Path, rewards: np.ndarray) -> np.ndarray:
        states = len(rewards) + 1
        events = np.zeros((states, len(self.tasks)), np.uint8)
        for i, item in enumerate(self.config.items):
            if (name := f"observation$inventory${item}") in arrays:
                held = _column(arrays, name, states, path)
                events[1:, i] = np.diff(held) > 0
        if self.config.reward:
            events[1:, -1] = rewards > 0
        return events


def player(trajectory: str) -> str:
    """Who played: ``v3_ALIAS-6_36-2062`` is a part of what ALIAS played."""
    return trajectory.removeprefix("v3_").removeprefix("v4_").split("-")[0]


def shown(video: str, count: int, layout: PictureLayout | None = None) -> Iterator[np.ndarray]:
    """The first ``count`` pictures, of which the last repeats the one before. Raises ``BadRecordingError`` where there are fewer."""
    before, number = None, 0
    for number, picture in enumerate(pictures(video, layout=layout), start=1):
        yield picture if number < count or before is None else before
        if number == count:
            return
        before = picture
    raise BadRecordingError(f"{video}: has {number} pictures, its metadata.json says {count}")


def _column(arrays: dict[str, np.ndarray], name: str, length: int | None, path: Path, width: int = 1) -> Float[np.ndarray, "..."]:
    """An array of finite numbers, ``[length]`` or ``[length, width]``."""
    if name not in arrays:
        raise BadRecordingError(f"{path}: has no array {name}")
    values = arrays[name]
    if values.ndim == 2 and values.shape[1] == width == 1:
        values = values[:, 0]
    wanted = 1 if width == 1 else 2
    if values.dtype.kind not in "biuf" or values.ndim != wanted or len(values) > MOST_STATES or len(values) != (length or len(values)):
        raise BadRecordingError(f"{path}: array {name} is {values.dtype} of shape {values.shape}, wanted {length or 'T'} rows of {width}")
    if width > 1 and values.shape[1] != width:
        raise BadRecordingError(f"{path}: array {name} has {values.shape[1]} columns, wanted {width}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise BadRecordingError(f"{path}: array {name} is not finite in row {int(np.argwhere(~np.isfinite(values))[0][0])}")
    return values


def _choice(cells: np.ndarray, values: Sequence[str], length: int, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in ``values``, and which are known; the cells are names, or numbers already."""
    if cells.shape != (length,) or cells.dtype.kind not in "USiuf":
        raise BadRecordingError(f"{place} is {cells.dtype} of shape {cells.shape}, wanted {length} names or numbers")
    if cells.dtype.kind in "iuf":
        with np.errstate(invalid="ignore"):
            known = (cells >= 0) & (cells < len(values)) & (cells == np.floor(cells))
        return np.where(known, cells, 0).astype(np.int64), known
    names = cells.astype(str)
    numbers = np.zeros(length, np.int64)
    known = np.isin(names, values)
    for number, name in enumerate(values):
        numbers[names == name] = number
    return numbers, known


def download_minerl(folder: Path, environments: Sequence[str], records: str) -> None:
    """Fetches and unpacks what is missing of ``environments``, all of the record where empty; where nothing is, nobody is asked."""
    listed = folder / WHOLE_RECORD
    wanted = environments or (listed.read_text().split() if listed.exists() else ())
    if wanted and all((folder / name).exists() for name in wanted):
        return
    files = {file.key.removesuffix(".zip"): file for file in zenodo_files(ZENODO_RECORD, records) if file.key.endswith(".zip")}
    if unknown := set(environments) - set(files):
        raise UserError(f"environments: {min(unknown)} is not on Zenodo; there are {', '.join(sorted(files))}")
    for name in environments or sorted(files):
        if not (folder / name).exists():
            archive = fetch(files[name], folder)
            unpack(archive, folder / name)
            archive.unlink()
    if not environments:
        listed.write_text("\n".join(sorted(files)))
