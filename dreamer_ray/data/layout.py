"""The pictures of a data set in one size: the resize filter, and the bars around a picture of another shape."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from pydantic import Field

from dreamer_ray.config import Config

Side = Annotated[int, Field(gt=0, le=8192)]
Picture = np.ndarray
FILTERS = {"area": Interpolation.AREA, "bilinear": Interpolation.BILINEAR}


class PictureLayout(Config):
    """How pictures are brought to one size; a recorded property of a set, since a model sees the difference."""

    shape: tuple[Side, Side]
    """Rows and columns, bars included."""
    filter: Literal["area", "bilinear"] = "area"
    """``area`` takes the mean of what a pixel covers; ``bilinear``, as FFmpeg has it, weighs twice as much by a triangle, which is softer.

    (OpenCV's INTER_LINEAR looks at four pixels only, however much smaller the picture gets.)
    """
    fit: Literal["letterbox", "stretch"] = "letterbox"
    """``letterbox`` keeps the aspect and adds black bars, 360 x 640 in 384 x 640 without any resize; ``stretch`` does not."""


@dataclass(frozen=True)
class Box:
    """Where in the rows and columns of a layout the picture lies."""

    top: int
    left: int
    rows: int
    columns: int


def inner_box(shape: tuple[int, int], layout: PictureLayout) -> Box:
    """Where a picture of ``shape`` (rows, columns) comes to lie: in the middle, as large as it fits."""
    rows, columns = layout.shape
    if layout.fit == "stretch":
        return Box(0, 0, rows, columns)
    scale = min(rows / shape[0], columns / shape[1])
    high, wide = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    return Box((rows - high) // 2, (columns - wide) // 2, high, wide)


def quarter_turns(frame: av.VideoFrame) -> int:
    """By how many quarters of a turn, counterclockwise, ``frame`` must be turned to stand upright: phones film lying down, and say so."""
    return round(frame.rotation / 90) % 4


def turned(picture: Picture, turns: int) -> Picture:
    """``picture`` after ``turns`` of ``quarter_turns``."""
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def picture_maker(layout: PictureLayout | None) -> Callable[[av.VideoFrame | Picture], Picture]:
    """A function from a decoded frame, or a picture uint8 ``[y, x, 3]`` RGB, to a picture in ``layout``; as large as it is without one.

    A frame is turned as its video says. It keeps the scaler's tables from one picture to the next: make one a video.
    """
    scaler = VideoReformatter()

    def make(frame: av.VideoFrame | Picture) -> Picture:
        if isinstance(frame, np.ndarray):
            if layout is None or frame.shape[:2] == layout.shape:
                return frame
            frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
        turns = quarter_turns(frame)
        shape = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        box = Box(0, 0, *shape) if layout is None else inner_box(shape, layout)
        size = (box.rows, box.columns) if turns % 2 else (box.columns, box.rows)
        kind = FILTERS[layout.filter if layout else "area"]
        scaled = turned(scaler.reformat(frame, *size, "rgb24", interpolation=kind, threads=1).to_ndarray(), turns)
        if layout is None or (box.rows, box.columns) == layout.shape:
            return scaled
        canvas = np.zeros((*layout.shape, 3), np.uint8)
        canvas[box.top : box.top + box.rows, box.left : box.left + box.columns] = scaled
        return canvas

    return make
