"""The mouse's cursor, which the recorder of the VPT recordings left out of the video: the picture that OpenAI published with them (MIT)."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from dreamer_ray.data.layout import Picture

WINDOW_ROWS = 720
"""Of the window in whose pixels the recorder wrote the cursor's place."""


def draw_cursor(picture: Picture, place: np.ndarray) -> Picture:
    """A copy of ``picture`` with the cursor's tip at ``place``, (x, y) in the window; cut off where it leaves the picture."""
    cursor = _cursor()
    left, top = (int(value * picture.shape[0] / WINDOW_ROWS) for value in place)
    rows, columns = (slice(max(0, start), max(0, start + 16)) for start in (top, left))
    drawn = picture.copy()
    under = drawn[rows, columns]
    part = cursor[max(0, -top) :, max(0, -left) :][: under.shape[0], : under.shape[1]]
    alpha = part[..., 3:].astype(np.float32) / 255
    under[:] = np.rint(part[..., :3] * alpha + under * (1 - alpha))
    return drawn


@cache
def _cursor() -> np.ndarray:
    """uint8 ``[16, 16, 4]``, RGB and opacity."""
    with Image.open(Path(__file__).with_name("vpt_cursor.png")) as picture:
        return np.asarray(picture.convert("RGBA"))
