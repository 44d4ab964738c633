"""What a VPT recording says was achieved: rises of the game's statistics, and of the inventory where crafting is not among them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from pydantic import BaseModel, Field, ValidationError

from dreamer_ray.data.foreign import optional

Rule = Annotated[str, Field(pattern=r"^[a-z_]+:[^:\s]+$")]
"""``KIND:ITEM``, with ``*`` for any letters: a statistic such as ``mine_block:*_log``, or ``inventory:dirt``."""
Rules = Mapping[str, Sequence[str]]

DIAMOND_LADDER: dict[str, tuple[Rule, ...]] = {
    "mine_log": ("mine_block:*_log",),
    "mine_cobblestone": ("mine_block:stone", "mine_block:cobblestone"),
    "mine_iron_ore": ("mine_block:iron_ore",),
    "mine_coal": ("mine_block:coal_ore",),
    "mine_diamond": ("mine_block:diamond_ore",),
    "craft_planks": ("craft_item:*_planks",),
    "craft_stick": ("craft_item:stick",),
    "craft_crafting_table": ("craft_item:crafting_table",),
    "craft_furnace": ("craft_item:furnace",),
    "craft_iron_ingot": ("craft_item:iron_ingot",),
    "craft_wooden_pickaxe": ("craft_item:wooden_pickaxe",),
    "craft_stone_pickaxe": ("craft_item:stone_pickaxe",),
    "craft_iron_pickaxe": ("craft_item:iron_pickaxe",),
    "open_crafting_table": ("custom:interact_with_crafting_table",),
    "open_furnace": ("custom:interact_with_furnace",),
    "place_crafting_table": ("use_item:crafting_table",),
    "place_furnace": ("use_item:furnace",),
    "use_wooden_pickaxe": ("use_item:wooden_pickaxe",),
    "use_stone_pickaxe": ("use_item:stone_pickaxe",),
    "use_iron_pickaxe": ("use_item:iron_pickaxe",),
}
"""The 20 tasks on the way to a diamond (Dreamer 4, table 4), by the names that Minecraft 1.16 gives to its statistics."""

CRAFT, INVENTORY = "craft_item", "inventory"
Number = Annotated[int, Field(ge=0, lt=2**53)]


class _Stack(BaseModel):
    type: str
    quantity: Number


class _Progress(BaseModel):
    """What is read of a line."""

    stats: Annotated[dict[str, Number] | None, optional(None)] = None
    inventory: Annotated[list[_Stack] | None, optional(None)] = None
    in_gui: Annotated[bool, optional(default=False)] = Field(default=False, alias="isGuiOpen")


def read_events(lines: Iterable[bytes], rules: Rules, dropped: Counter[str] | None = None) -> UInt8[np.ndarray, "t m"]:
    """How often each task's event arrives with each frame, from the ``lines`` of a segment's jsonl file; blank lines are left out.

    ``dropped`` counts the lines whose statistics or inventory are not what they should be; of the two the other is read all the same.

    Statistics only grow, from the beginning of the world: an event is a rise since the last line that could be read, and the first
    line has none. Where no line of the segment knows a statistic ``craft_item``, what a rule of that kind names is counted in the
    inventory instead, while a GUI is open.
    """
    stats, gains, gui_gains = _Rises(), _Inventory(), []
    rises: list[dict[str, int]] = []
    crafts = False
    for line in lines:
        if not line.strip():
            continue
        progress, odd = _parse(line)
        if dropped is not None:
            dropped.update(f"lines whose {name} cannot be read, frames kept without its events" for name in odd)
        known = {_short(name): count for name, count in (progress.stats or {}).items()}
        crafts = crafts or any(name.startswith(f"{CRAFT}:") for name in known)
        rises.append(stats.update(known if progress.stats is not None else None))
        gained, by_hand = gains.update(progress)
        rises[-1] |= {f"{INVENTORY}:{item}": count for item, count in gained.items()}
        gui_gains.append({f"{CRAFT}:{item}": count for item, count in gained.items() if by_hand})
    if not crafts:
        rises = [rise | gui for rise, gui in zip(rises, gui_gains, strict=True)]
    return _count(rises, rules)


def _count(rises: list[dict[str, int]], rules: Rules) -> np.ndarray:
    tasks: dict[str, list[int]] = {}
    counts = np.zeros((len(rises), len(rules)), np.int64)
    for t, rise in enumerate(rises):
        for name, count in rise.items():
            if name not in tasks:
                tasks[name] = [m for m, patterns in enumerate(rules.values()) if any(fnmatchcase(name, rule) for rule in patterns)]
            for m in tasks[name]:
                counts[t, m] += count
    return np.minimum(counts, 255).astype(np.uint8)


def _short(name: str) -> str:
    return name.removeprefix("minecraft.").replace(":minecraft.", ":", 1)


def _parse(line: bytes) -> tuple[_Progress, set[str]]:
    """What a line says, and which of its statistics and inventory cannot be read."""
    odd: set[str] = set()
    try:
        return _Progress.model_validate_json(line, context=odd), odd & {"stats", "inventory"}
    except ValidationError:
        return _Progress(), set()


class _Rises:
    """Rises of counts from line to line; a count that falls, as in a new world, starts anew."""

    def __init__(self) -> None:
        self.last: dict[str, int] | None = None

    def update(self, counts: dict[str, int] | None) -> dict[str, int]:
        if counts is None:
            return {}
        last, self.last = self.last, counts
        if last is None:
            return {}
        return {name: count - last.get(name, 0) for name, count in counts.items() if count > last.get(name, 0)}


class _Inventory:
    """Rises of what is held. While a GUI is open, what lies on the cursor or in the crafting grid is not listed, so that only more than
    was ever held since it opened has come from elsewhere."""

    def __init__(self) -> None:
        self.most: Counter[str] | None = None
        self.in_gui = False

    def update(self, progress: _Progress) -> tuple[dict[str, int], bool]:
        """Rises by item, and whether a GUI is open or just closed."""
        gui, self.in_gui = self.in_gui or progress.in_gui, progress.in_gui
        if progress.inventory is None:
            return {}, gui
        held: Counter[str] = Counter()
        for stack in progress.inventory:
            held[stack.type] += stack.quantity
        most, self.most = self.most, held
        if most is None:
            return {}, gui
        if gui:
            self.most = held | most
        return dict(held - most), gui
