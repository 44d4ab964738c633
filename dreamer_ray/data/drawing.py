"""Pictures for people: a sheet of many with a line below each, and one with the action drawn below it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreamer_ray.data.action_names import EntryNames
from dreamer_ray.data.layout import Picture
from dreamer_ray.data.vpt_actions import BINS, decode_mouse
from dreamer_ray.types import ActionComponent, ActionSpace, Binary, Categorical

CELL_WIDTH, LINE, MARGIN = 240, 16, 4
CLIP_WIDTH = (320, 960)
"""A smaller picture is enlarged by a whole factor, a larger one shrunk."""
GROUND, DIM, BRIGHT, LIT, EVENT = (24, 24, 28), (120, 120, 128), (235, 235, 235), (255, 176, 32), (96, 224, 128)
MOST_DRAWN = 64
"""Keys or axes of a component beyond these are not drawn."""
ARROW = 40
"""Radius of the mouse's field."""


@cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """That of Pillow."""
    return ImageFont.load_default(11)


@dataclass(frozen=True)
class Moment:
    """What is known of one picture."""

    title: str
    actions: Mapping[str, np.ndarray] | None
    """By component; None where it is not known."""
    events: Sequence[str] = ()
    """Names of what was achieved just now."""


@dataclass(frozen=True)
class Panel:
    """How the actions of a space are drawn: the same height for every picture of a clip."""

    space: ActionSpace
    names: Mapping[str, EntryNames]

    def draw(self, picture: Picture, moment: Moment) -> Picture:
        """``picture`` with its title, events and action below it; both sides are even, as a video wants them."""
        shown = _sized(picture, *CLIP_WIDTH)
        wide, high = shown.width + shown.width % 2, shown.height
        total = high + 2 * LINE + sum(self._rows(name, wide) for name in self.space) + MARGIN
        canvas = Image.new("RGB", (wide, total + total % 2), GROUND)
        canvas.paste(shown, (0, 0))
        pen = ImageDraw.Draw(canvas)
        pen.text((MARGIN, high + 2), _fitting(moment.title, wide), BRIGHT, font())
        below = "" if moment.actions is not None or not self.space else "action not known"
        pen.text((MARGIN, high + LINE + 2), _fitting("  ".join(moment.events) or below, wide), EVENT if moment.events else DIM, font())
        top = high + 2 * LINE
        for name, component in self.space.items():
            value = None if moment.actions is None else moment.actions[name]
            self._component(pen, (MARGIN, top), wide, name, component, value)
            top += self._rows(name, wide)
        return np.asarray(canvas)

    def _rows(self, name: str, wide: int) -> int:
        """Height of a component."""
        component, names = self.space[name], self.names[name]
        if names.turns:
            return 2 * ARROW + 2 * MARGIN
        if isinstance(component, Categorical):
            return LINE
        if isinstance(component, Binary):
            return _boxes(_labels(component, names), wide)[1]
        return LINE * min(component.size, MOST_DRAWN)

    def _component(
        self, pen: ImageDraw.ImageDraw, corner: tuple[int, int], wide: int, name: str, component: ActionComponent, value: np.ndarray | None
    ) -> None:
        names = self.names[name]
        if names.turns:
            _arrow(pen, corner, value)
        elif isinstance(component, Categorical):
            text = "" if value is None else names.of(int(value))
            null = value is not None and names.null == int(value)
            pen.text(corner, _fitting(f"{name}: {text}", wide), DIM if null else LIT, font())
        elif isinstance(component, Binary):
            _keys(pen, corner, wide, _labels(component, names), value)
        else:
            _bars(pen, corner, wide, _labels(component, names), value)


def contact_sheet(cells: Sequence[tuple[Picture, str]], columns: int) -> Image.Image:
    """The pictures of ``cells`` in rows of ``columns``, each with its text below."""
    shown = [(_sized(picture, CELL_WIDTH, CELL_WIDTH), text) for picture, text in cells]
    high = max(picture.height for picture, _ in shown) + LINE + MARGIN
    wide = CELL_WIDTH + MARGIN
    sheet = Image.new("RGB", (columns * wide + MARGIN, -(-len(shown) // columns) * high + MARGIN), GROUND)
    pen = ImageDraw.Draw(sheet)
    for number, (picture, text) in enumerate(shown):
        left, top = MARGIN + number % columns * wide, MARGIN + number // columns * high
        sheet.paste(picture, (left, top))
        pen.text((left, top + picture.height + 1), _fitting(text, CELL_WIDTH), BRIGHT, font())
    return sheet


def _sized(picture: Picture, least: int, most: int) -> Image.Image:
    """Enlarged by a whole factor up to ``least`` wide, or shrunk to ``most``; no higher than twice ``most``."""
    image = Image.fromarray(picture)
    if image.width * 2 <= least and image.height * 2 <= 2 * most:
        factor = min(least // image.width, max(1, 2 * most // image.height))
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    scale = min(1.0, most / image.width, 2 * most / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BOX) if scale < 1 else image


def _fitting(text: str, wide: int) -> str:
    """``text`` from its end as far as there is room, since what tells names apart often stands there."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text[:500])
    room = wide - 2 * MARGIN
    if font().getlength(text) <= room:
        return text
    while len(text) > 1 and font().getlength(".." + text) > room:
        text = text[1:]
    return ".." + text


def _labels(component: ActionComponent, names: EntryNames) -> list[str]:
    return [names.of(i)[:24] for i in range(min(component.size, MOST_DRAWN))]


def _boxes(labels: Sequence[str], wide: int) -> tuple[list[tuple[int, int, int]], int]:
    """Left, top and width of a box a label, as many in a row as there is room for, and the height of all."""
    boxes, left, top = [], MARGIN, 0
    for label in labels:
        width = int(font().getlength(label)) + 2 * MARGIN
        if left + width > wide - MARGIN and left > MARGIN:
            left, top = MARGIN, top + LINE + 2
        boxes.append((left, top, width))
        left += width + 2
    return boxes, top + LINE + 2


def _keys(pen: ImageDraw.ImageDraw, corner: tuple[int, int], wide: int, labels: Sequence[str], held: np.ndarray | None) -> None:
    for i, (label, (left, top, width)) in enumerate(zip(labels, _boxes(labels, wide)[0], strict=True)):
        lit = held is not None and held[i] > 0
        place = (left, corner[1] + top, left + width, corner[1] + top + LINE - 1)
        pen.rectangle(place, fill=LIT if lit else None, outline=LIT if lit else DIM)
        pen.text((left + MARGIN, corner[1] + top + 1), label, GROUND if lit else DIM, font())


def _arrow(pen: ImageDraw.ImageDraw, corner: tuple[int, int], cell: np.ndarray | None) -> None:
    """The way of the mouse, to the right for yaw and down for pitch, in steps of the grid, whose ends the square shows."""
    middle = (corner[0] + ARROW, corner[1] + ARROW)
    pen.rectangle((middle[0] - ARROW, middle[1] - ARROW, middle[0] + ARROW, middle[1] + ARROW), outline=DIM)
    if cell is None:
        return
    pitch, yaw = decode_mouse(cell).tolist()
    down, right = (2 * step / (BINS - 1) - 1 for step in divmod(int(cell), BINS))
    end = (middle[0] + right * ARROW, middle[1] + down * ARROW)
    moved = bool(pitch or yaw)
    pen.line((*middle, *end), LIT, 3)
    pen.ellipse((end[0] - 3, end[1] - 3, end[0] + 3, end[1] + 3), fill=LIT if moved else DIM)
    text = f"pitch {pitch:+.1f}  yaw {yaw:+.1f}" if moved else "mouse still"
    pen.text((middle[0] + ARROW + 2 * MARGIN, middle[1] - 6), text, LIT if moved else DIM, font())


def _bars(pen: ImageDraw.ImageDraw, corner: tuple[int, int], wide: int, labels: Sequence[str], values: np.ndarray | None) -> None:
    """An axis a line, from the middle (0, scaled) to the left or right."""
    begin = corner[0] + max(int(font().getlength(label)) for label in labels) + 2 * MARGIN
    half = max(10, (wide - begin - 2 * MARGIN) // 2)
    for i, label in enumerate(labels):
        top = corner[1] + i * LINE
        pen.text((corner[0], top + 1), label, DIM, font())
        pen.rectangle((begin, top + 3, begin + 2 * half, top + LINE - 3), outline=DIM)
        if values is not None:
            ends = sorted((begin + half, begin + half + int(np.clip(values[i], -1, 1) * half)))
            pen.rectangle((ends[0], top + 3, ends[1], top + LINE - 3), fill=LIT)
