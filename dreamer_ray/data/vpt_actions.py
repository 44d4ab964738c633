"""Actions of the VPT contractor recordings: a jsonl line a frame to 23 keys and the mouse, and the mouse's 11 x 11 mu-law grid.

The format is that of OpenAI's recorder (Baker et al. 2022, arXiv:2206.11795, and its index and jsonl files).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import BaseModel, Field, ValidationError

from dreamer_ray.data.foreign import optional
from dreamer_ray.data.sources import Motion
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace, Binary, Categorical

KEYBOARD = {
    "key.keyboard.e": "inventory",
    "key.keyboard.escape": "ESC",
    **{f"key.keyboard.{n}": f"hotbar.{n}" for n in range(1, 10)},
    "key.keyboard.w": "forward",
    "key.keyboard.s": "back",
    "key.keyboard.a": "left",
    "key.keyboard.d": "right",
    "key.keyboard.space": "jump",
    "key.keyboard.left.shift": "sneak",
    "key.keyboard.left.control": "sprint",
    "key.keyboard.f": "swapHands",
}
BUTTONS = ("attack", "use", "pickItem")
"""Names of the mouse buttons 0, 1, 2."""
KEYS: tuple[str, ...] = (*KEYBOARD.values(), *BUTTONS, "drop")
"""The 23 keys in the order of the component "keys"."""
KEY_NUMBER = {code: KEYS.index(name) for code, name in (KEYBOARD | {"key.keyboard.q": "drop"}).items()}
ATTACK, HOTBAR = KEYS.index("attack"), KEYS.index("hotbar.1")

DEGREES_PER_UNIT = 360 / 2400
"""Turn of the camera by one unit of ``dx`` or ``dy``."""
GUI_MOUSE_SCALE = {"5.7": 0.5, "5.8": 0.5, "6.7": 2.0, "6.8": 2.0, "6.9": 2.0}
"""Factor on ``dx`` and ``dy`` while a GUI is open, for the versions of the recorder that wrote them in another unit."""

WHEEL = "lines on which the mouse wheel changed the hotbar's slot, its key put in"
RESCALED = "lines whose mouse in a GUI was in another unit, by the recorder's version"
DAMAGED = "lines with a damaged field that may be missing, taken for missing"

MU, MAX_DEGREES, BINS = 10.0, 10.0, 11
MOUSE_BINS = BINS * BINS
VPT_ACTIONS: ActionSpace = {"keys": Binary(size=len(KEYS)), "mouse": Categorical(size=MOUSE_BINS)}


def encode_mouse(degrees: Float[np.ndarray, "*s 2"]) -> Int[np.ndarray, "*s"]:
    """Number 0 .. 120 of the cell of a turn (pitch, yaw) in degrees: ``11 * bin(pitch) + bin(yaw)``.

    ``bin(x) = round((sign(x) ln(1 + mu |x| / 10) / ln(1 + mu) * 10 + 10) / 2)`` with mu = 10 and x cut to +-10 degrees.
    """
    share = np.clip(np.asarray(degrees, np.float64) / MAX_DEGREES, -1, 1)
    companded = np.sign(share) * np.log1p(MU * np.abs(share)) / np.log1p(MU)
    bins = np.rint((companded + 1) * (BINS - 1) / 2).astype(np.int64)
    return bins[..., 0] * BINS + bins[..., 1]


def decode_mouse(cell: Int[np.ndarray, "*s"]) -> Float[np.ndarray, "*s 2"]:
    """Turn (pitch, yaw) in degrees at the centre of ``cell``, the inverse of ``encode_mouse``."""
    bins = np.stack(np.divmod(np.asarray(cell), BINS), axis=-1)
    companded = bins * 2 / (BINS - 1) - 1
    return (np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU * MAX_DEGREES).astype(np.float32)


def encode_turns(degrees: Float[np.ndarray, "t 2"]) -> Int[np.ndarray, "t"]:
    """``encode_mouse`` of consecutive frames, where what a cell is short of its turn is added to the next turn: small ones are not lost.

    No cell turns where its frame does not, or against it. What a turn has beyond 10 degrees is lost: a later frame does not show it.
    """
    cells, short = np.zeros(len(degrees), np.int64), np.zeros(2)
    for t, turn in enumerate(degrees):
        wanted = np.clip(turn + short, -MAX_DEGREES, MAX_DEGREES)
        nearest = decode_mouse(encode_mouse(wanted))
        cells[t] = encode_mouse(np.where(nearest * turn > 0, nearest, 0))
        short = wanted - decode_mouse(cells[t])
    return cells


MOUSE_MOTION = Motion(decode_mouse, encode_turns)
"""Of cells of the mouse's grid, in degrees."""


@dataclass(frozen=True)
class SegmentActions:
    """The actions of one segment; entry t is taken while frame t is seen."""

    keys: UInt8[np.ndarray, "t 23"]
    """1 where the key of ``KEYS`` is held."""
    camera: Float[np.ndarray, "t 2"]
    """Turn in degrees, (pitch, yaw), before it is put into the cells of the grid."""
    labelled: Bool[np.ndarray, "t"]
    """False where the line could not be read."""
    gui: Bool[np.ndarray, "t"]
    """Whether an inventory or the like is open, in which case the mouse moves the cursor."""
    cursor: Float[np.ndarray, "t 2"]
    """Where the cursor is, (x, y) in a window of 1280 x 720."""
    tick: Int[np.ndarray, "t"]
    """The game's clock, 20 a second; -1 where it is not known."""
    milli: Int[np.ndarray, "t"]
    """The computer's clock in ms; -1 where it is not known."""
    server_ms: Float[np.ndarray, "t"]
    """How long the server took for its tick; 0 where it is not known."""
    idle: Bool[np.ndarray, "t"]
    """Whether the player is known to have touched neither key nor mouse."""
    stuck: int
    """Lines whose attack was left out, since it was held from before the segment."""
    mended: Mapping[str, Bool[np.ndarray, "t"]]
    """Lines that are not as they were written, by what was done to them."""

    def actions(self) -> dict[str, np.ndarray]:
        """By component of ``VPT_ACTIONS``."""
        return {"keys": self.keys, "mouse": encode_mouse(self.camera)}


Number = Annotated[float, Field(gt=-1e6, lt=1e6)]
Clock = Annotated[int, Field(ge=-1, lt=2**53)]


class _Mouse(BaseModel):
    x: Annotated[Number, optional(0.0)] = 0.0
    y: Annotated[Number, optional(0.0)] = 0.0
    dx: Number
    dy: Number
    wheel: Annotated[Number, optional(0.0)] = Field(default=0.0, alias="dwheel")
    buttons: list[int]
    pressed: Annotated[list[int], optional([])] = Field(default=[], alias="newButtons")


class _Keyboard(BaseModel):
    keys: list[str]
    pressed: Annotated[list[str], optional([])] = Field(default=[], alias="newKeys")


class _Line(BaseModel):
    """What is read of a line; all but mouse and keyboard came to the format over time, and counts as not there where it is damaged."""

    mouse: _Mouse
    keyboard: _Keyboard
    in_gui: Annotated[bool, optional(default=False)] = Field(default=False, alias="isGuiOpen")
    hotbar: Annotated[int | None, optional(None)] = None
    tick: Annotated[Clock, optional(-1)] = -1
    milli: Annotated[Clock, optional(-1)] = -1
    server_ms: Annotated[float, Field(ge=0, lt=1e9), optional(0.0)] = Field(default=0.0, alias="serverTickDurationMs")


def read_segment(lines: Iterable[bytes], *, name: str, version: str = "", degrees_per_unit: float = DEGREES_PER_UNIT) -> SegmentActions:
    """The actions in the ``lines`` of a segment's jsonl file; blank lines are left out, unreadable ones are not labelled.

    Read from the first line on, since two states of the recorder are carried along: an attack that was held before the segment began
    counts only from where it is pressed anew, and a hotbar slot that changes without its key, by the mouse wheel, counts as pressed.
    ``version`` is the recorder's, such as "6.9". Raises ``UserError`` naming ``name`` where no line can be read.
    """
    read = [_parse(line) for line in lines if line.strip()]
    parsed = [line for line, _ in read]
    if not any(parsed):
        raise UserError(f"{name}: none of its {len(parsed)} lines is an action of a VPT recording; is it the jsonl file of a segment?")
    size, gui_scale = len(parsed), GUI_MOUSE_SCALE.get(version, 1.0)
    held = SegmentActions(
        keys=np.zeros((size, len(KEYS)), np.uint8),
        camera=np.zeros((size, 2), np.float32),
        labelled=np.array([line is not None for line in parsed]),
        gui=np.array([line is not None and line.in_gui for line in parsed]),
        cursor=np.array([(line.mouse.x, line.mouse.y) if line else (0, 0) for line in parsed], np.float32),
        tick=np.array([line.tick if line else -1 for line in parsed], np.int64),
        milli=np.array([line.milli if line else -1 for line in parsed], np.int64),
        server_ms=np.array([line.server_ms if line else 0 for line in parsed], np.float32),
        idle=np.zeros(size, bool),
        stuck=_stuck(parsed),
        mended={name: np.zeros(size, bool) for name in (WHEEL, RESCALED, DAMAGED)},
    )
    held.mended[DAMAGED][:] = [odd for _, odd in read]
    slot = None
    for t, line in enumerate(parsed):
        if line is None:
            continue
        _press(held.keys[t], line, stuck=t < held.stuck)
        held.mended[WHEEL][t] = _press_turned(held.keys[t], line, slot)
        slot = line.hotbar if line.hotbar is not None else slot
        unit = degrees_per_unit * (gui_scale if line.in_gui else 1.0)
        held.mended[RESCALED][t] = unit != degrees_per_unit and bool(line.mouse.dx or line.mouse.dy)
        held.camera[t] = np.clip([line.mouse.dy * unit, line.mouse.dx * unit], -180, 180)
        held.idle[t] = not (held.keys[t].any() or line.mouse.dx or line.mouse.dy or line.mouse.wheel or line.keyboard.pressed)
    return held


def _stuck(lines: list[_Line | None]) -> int:
    """How many of the first lines hold an attack that was pressed before they began."""
    if not (lines[0] and lines[0].mouse.pressed == [0]):
        return 0
    return next((t for t, line in enumerate(lines) if t > 0 and line and 0 in line.mouse.pressed), len(lines))


def _parse(line: bytes) -> tuple[_Line | None, bool]:
    """What a line says, and whether some of it is damaged that is taken for not there."""
    odd: set[str] = set()
    try:
        return _Line.model_validate_json(line, context=odd), bool(odd)
    except ValidationError:
        return None, False


def _press(row: np.ndarray, line: _Line, *, stuck: bool) -> None:
    """Sets the keys held in ``line``."""
    for code in line.keyboard.keys:
        if (number := KEY_NUMBER.get(code)) is not None:
            row[number] = 1
    for button in line.mouse.buttons:
        if 0 <= button < len(BUTTONS) and not (stuck and button == 0):
            row[ATTACK + button] = 1


def _press_turned(row: np.ndarray, line: _Line, slot: int | None) -> bool:
    """Sets the key of a hotbar slot to which the wheel was turned, and whether there is one; ``slot`` is that before it."""
    if slot is None or line.hotbar is None or line.hotbar == slot or not 0 <= line.hotbar < 9 or row[HOTBAR + line.hotbar]:
        return False
    row[HOTBAR + line.hotbar] = 1
    return True
