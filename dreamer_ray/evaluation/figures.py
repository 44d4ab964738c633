"""Charts as inline SVG, pictures as PNG and dreams as video: text that can stand inside an HTML page and needs no other file."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import av
import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from dreamer_ray.evaluation.intervals import Interval

COLOURS = ("#8b9199", "#3b7dd8", "#e0812b", "#3a9d6e", "#9467bd")
_INK = "#123456"  # stands for the page's own text colour, light or dark
_GAP = 2
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dreamer_ray",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
}

Frames = UInt8[np.ndarray, "t y x 3"]
Points = Sequence[tuple[float, float]]


def curve_chart(points: Sequence[tuple[int, float]]) -> str:
    """One figure of merit over the steps: the values as logged, pale, and their moving average; logarithmic where they span 50-fold."""
    steps, values = np.array([point for point in points if np.isfinite(point[1])], dtype=np.float64).reshape(-1, 2).T
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.4, 1.9), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, values, color=COLOURS[1], alpha=0.35, linewidth=0.8, marker="." if len(steps) == 1 else None)
        axes.plot(steps, _smooth(values), color=COLOURS[1], linewidth=1.5)
        if len(values) and values.min() > 0 and values.max() > 50 * values.min():
            axes.set_yscale("log")
        axes.grid(axis="y", alpha=0.15, color=_INK)
        return _svg(figure)


def interval_curve(points: Sequence[tuple[int, Interval]]) -> str:
    """An estimate over the steps, pale its interval."""
    steps, found = [step for step, _ in points], [interval for _, interval in points]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.4, 1.9), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(steps, [i.low for i in found], [i.high for i in found], color=COLOURS[1], alpha=0.2, linewidth=0)
        axes.plot(steps, [i.value for i in found], color=COLOURS[1], linewidth=1.5, marker=".")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.15, color=_INK)
        return _svg(figure)


def bar_chart(names: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Probabilities of named choices, a group of bars for each choice and a colour for each of ``series``."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(series)
        for index, (label, values) in enumerate(series.items()):
            places = np.arange(len(names)) + (index - (len(series) - 1) / 2) * width
            axes.bar(places, values, width, color=COLOURS[index % len(COLOURS)], label=label)
        axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=35, ha="right")
        axes.margins(x=0.01)
        axes.grid(axis="y", alpha=0.15, color=_INK)
        _legend(axes, len(series))
        return _svg(figure)


def interval_chart(rows: Mapping[str, Mapping[str, Interval]]) -> str:
    """Success rates with their intervals: a line for each task, a colour for each variant."""
    variants = list(dict.fromkeys(variant for row in rows.values() for variant in row))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.7 + (0.08 + 0.12 * len(variants)) * len(rows)), layout="constrained")
        axes = figure.subplots()
        for index, variant in enumerate(variants):
            places = [place + (index - (len(variants) - 1) / 2) * 0.18 for place, row in enumerate(rows.values()) if variant in row]
            found = [row[variant] for row in rows.values() if variant in row]
            colour = COLOURS[index % len(COLOURS)]
            axes.hlines(places, [i.low for i in found], [i.high for i in found], color=colour, linewidth=1.6, alpha=0.6)
            axes.plot([i.value for i in found], places, "o", color=colour, markersize=4.5, label=variant)
        axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.01, 1.01)
        axes.grid(axis="x", alpha=0.15, color=_INK)
        axes.tick_params(axis="y", length=0)
        _legend(axes, len(variants))
        return _svg(figure)


def difference_chart(rows: Mapping[str, Interval]) -> str:
    """Differences with their intervals beside the line of no difference; the last of ``rows`` sums up the others."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.5 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, found in enumerate(rows.values()):
            last = place == len(rows) - 1
            if np.isfinite(found.low):
                axes.hlines(place, found.low, found.high, color=COLOURS[1 + last], linewidth=2.6 if last else 1.6, alpha=0.7)
            axes.plot(found.value, place, "D" if last else "o", color=COLOURS[1 + last], markersize=5.5 if last else 4.5)
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.15, color=_INK)
        axes.tick_params(axis="y", length=0)
        return _svg(figure)


def line_chart(series: Mapping[str, Points], *, across: str, up: str, level: float | None = None) -> str:
    """Several quantities over one, each with a colour; ``level`` is a line to compare them with."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.subplots()
        if level is not None:
            axes.axhline(level, color=COLOURS[2], linewidth=0.9, linestyle="--")
        for index, (label, points) in enumerate(series.items()):
            marker = "." if len(points) <= 12 else None
            axes.plot(*zip(*points, strict=True), color=COLOURS[(index + 1) % len(COLOURS)], linewidth=1.5, marker=marker, label=label)
        axes.set(xlabel=across, ylabel=up)
        axes.grid(axis="y", alpha=0.15, color=_INK)
        _legend(axes, min(len(series), 2))
        return _svg(figure)


def reliability_chart(foretold: Sequence[float], came: Sequence[float], counts: Sequence[int]) -> str:
    """Shares of what came to pass over what was foretold, a dot a bin, larger where there is more; true on the diagonal."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.2, 2.8), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=COLOURS[0], linewidth=0.8, linestyle="--")
        axes.plot(foretold, came, color=COLOURS[1], linewidth=0.8, alpha=0.6)
        axes.scatter(foretold, came, [12 + 20 * np.log10(count) for count in counts], color=COLOURS[1])
        axes.set(xlabel="foretold probability", ylabel="share that came", xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
        return _svg(figure)


def histogram(values: np.ndarray, *, across: str, level: float) -> str:
    """How often which value occurs; ``level`` is a line to compare them with."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 2.2), layout="constrained")
        axes = figure.subplots()
        axes.hist(values, bins=40, color=COLOURS[1], alpha=0.8)
        axes.axvline(level, color=COLOURS[2], linewidth=0.9, linestyle="--")
        axes.set(xlabel=across, ylabel="frames", yscale="log")
        return _svg(figure)


def heat_maps(maps: Mapping[str, np.ndarray], *, across: str = "", up: str = "") -> str:
    """Tables of numbers side by side as colours on one scale, from 0 on."""
    most = max(float(values.max()) for values in maps.values()) or 1.0
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.0 * len(maps) + 0.4, 2.7), layout="constrained")
        row = figure.subplots(1, len(maps), squeeze=False)[0]
        colours = ScalarMappable(Normalize(0, most), "viridis")
        for axes, (label, values) in zip(row, maps.items(), strict=True):
            axes.pcolormesh(values, norm=colours.norm, cmap=colours.cmap, edgecolors="face", linewidth=0.2)
            axes.invert_yaxis()
            axes.set(title=label, xlabel=across, ylabel=up, aspect="equal" if not across else "auto", xticks=[], yticks=[])
        figure.colorbar(colours, ax=list(row), shrink=0.85)
        return _svg(figure)


def mosaic(rows: Sequence[Frames]) -> str:
    """Data URI of one PNG: each of ``rows`` is a row of pictures; the gaps are transparent."""
    _, height, width, _ = rows[0].shape
    count = max(len(row) for row in rows)
    canvas = np.zeros((len(rows) * (height + _GAP) - _GAP, count * (width + _GAP) - _GAP, 4), np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = r * (height + _GAP), c * (width + _GAP)
            canvas[top : top + height, left : left + width, :3] = picture
            canvas[top : top + height, left : left + width, 3] = 255
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG", optimize=True)
    return _data_uri("image/png", file.getvalue())


def side_by_side(truth: Frames, dream: Frames, *, context: int, scale: int = 4) -> Frames:
    """Truth at the left, dream at the right, each pixel enlarged to a square of ``scale``; even sides, as video needs them.

    A bar under the dream is grey during its first ``context`` frames, which are facts, and blue while the model dreams.
    """
    left, right = (_enlarge(part, scale) for part in (truth, dream))
    frames, height, width, _ = left.shape
    canvas = np.zeros((frames, height + 6 + height % 2, 2 * width + 8, 3), np.uint8)
    canvas[:, :height, :width], canvas[:, :height, width + 8 :] = left, right
    for t in range(frames):
        canvas[t, height + 2 :, width + 8 :] = _rgb(COLOURS[0] if t < context else COLOURS[1])
    return canvas


def video(frames: Frames, frames_per_second: int) -> str:
    """Data URI of an H.264 video that browsers play (yuv420p); both sides of the pictures must be even."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options={"crf": "18", "preset": "veryfast", "threads": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return _data_uri("video/mp4", file.getvalue())


def _smooth(values: np.ndarray) -> np.ndarray:
    window = max(1, len(values) // 15)
    totals = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.clip(np.arange(len(values)) + window // 2 + 1, 0, len(values))
    starts = np.clip(np.arange(len(values)) - window // 2, 0, len(values))
    return (totals[ends] - totals[starts]) / (ends - starts)


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False)


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # implied inside HTML
    names = {name for pair in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text) for name in pair}
    # All charts stand in one page, where an id may occur once: keep those that are referred to (they are hashes of their content).
    text = re.sub(r' id="([^"]*)"', lambda match: match.group(0) if match.group(1) in names else "", text)
    text = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', text, count=1)
    return text.replace(_INK, "currentColor").strip()


def _enlarge(frames: Frames, scale: int) -> Frames:
    return frames.repeat(scale, 1).repeat(scale, 2)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
