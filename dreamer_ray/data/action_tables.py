"""Actions beside a video, a row a moment: csv, jsonl or npz, whose columns are read as numbers, flags or choices, or refused by place."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic_core import from_json

from dreamer_ray.data.foreign import read_bytes, read_npz
from dreamer_ray.data.sources import BadRecordingError

SUFFIXES = (".csv", ".jsonl", ".npz")
FLAGS = {"0": False, "1": True, "false": False, "true": True}
MOST_COLUMNS = 1000


@dataclass(frozen=True)
class ActionTable:
    """Columns of one file; a cell is text, a JSON value or a number of numpy."""

    path: Path
    columns: dict[str, Any]
    lines: Sequence[int]
    """Where in the file each row stands, from 1 (in npz, which has no lines, from 0)."""

    def numbers(self, name: str) -> Float[np.ndarray, "t"]:
        """Column ``name`` as finite numbers. Raises ``BadRecordingError`` naming file, line, column and value; as do the others."""
        cells = self._cells(name)
        if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf" and np.isfinite(cells).all():
            return cells.astype(np.float64)
        return np.array([self._parsed(i, name, number) for i in range(len(cells))], np.float64)

    def flags(self, name: str) -> Bool[np.ndarray, "t"]:
        """Column ``name`` as 0, 1, true or false."""
        return np.array([self._parsed(i, name, flag) for i in range(len(self._cells(name)))], bool)

    def choices(self, name: str, values: Sequence[str | int] | None, size: int) -> Int[np.ndarray, "t"]:
        """Column ``name`` as positions in ``values``, or as numbers 0 .. size-1."""
        known = {str(value): i for i, value in enumerate(range(size) if values is None else values)}

        def choice(cell: Any) -> int:
            text = str(int(number(cell))) if values is None and number(cell).is_integer() else str(cell).strip()
            if text not in known:
                raise ValueError(f"none of {', '.join(list(known)[:8])}{' ..' * (len(known) > 8)}")
            return known[text]

        return np.array([self._parsed(i, name, choice) for i in range(len(self._cells(name)))], np.int64)

    def place(self, row: int) -> str:
        """Where ``row`` stands."""
        return f"{self.path}, {'row' if self.path.suffix == '.npz' else 'line'} {self.lines[row]}"

    def _cells(self, name: str) -> Sequence[Any]:
        if name not in self.columns:
            raise BadRecordingError(f"{self.path}: has no column {name!r}; it has {', '.join(list(self.columns)[:40])}")
        return self.columns[name]

    def _parsed(self, row: int, name: str, parse: Callable[[Any], Any]) -> Any:
        cell = self.columns[name][row]
        try:
            return parse(cell)
        except (ValueError, TypeError, OverflowError) as error:
            raise BadRecordingError(f"{self.place(row)}, column {name}: {cell!r:.80} is {error}") from None


def number(cell: Any) -> float:
    """A finite number."""
    plain = isinstance(cell, int | float | np.number | np.bool_) or (isinstance(cell, str) and "_" not in cell)
    try:
        value = float(cell) if plain else np.nan
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError("missing" if cell in (None, "") else "no finite number")
    return float(value)


def flag(cell: Any) -> bool:
    """A thing that is held or not."""
    text = cell.strip().lower() if isinstance(cell, str) else str(cell).lower()
    if text in FLAGS:
        return FLAGS[text]
    if number(cell) in (0, 1):
        return bool(number(cell))
    raise ValueError("neither 0 nor 1")


def read_table(path: Path) -> ActionTable:
    """The rows of a csv, jsonl or npz file. Raises ``BadRecordingError``."""
    return {".csv": _read_csv, ".jsonl": _read_jsonl, ".npz": _read_arrays}[path.suffix.lower()](path)


def _read_csv(path: Path) -> ActionTable:
    try:
        text = read_bytes(path).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadRecordingError(f"{path}: is not a csv file ({error})") from error
    if not rows:
        raise BadRecordingError(f"{path}: is empty; its first line is wanted to name the columns")
    (_, names), *rows = rows
    if len(set(names)) < len(names) or "" in names:
        raise BadRecordingError(f"{path}: its first line is wanted to name each column once, and says {', '.join(names):.200}")
    for line, cells in rows:
        if len(cells) != len(names):
            raise BadRecordingError(f"{path}, line {line}: {len(cells)} cells, its first line names {len(names)} columns")
    return ActionTable(path, {name: [cells[i] for _, cells in rows] for i, name in enumerate(names)}, [line for line, _ in rows])


def _read_jsonl(path: Path) -> ActionTable:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for line, text in enumerate(read_bytes(path).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            values = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise BadRecordingError(f"{path}, line {line}: is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise BadRecordingError(f'{path}, line {line}: is {type(values).__name__}, wanted an object such as {{"jump": 1}}')
        rows.append(_flat(values))
        lines.append(line)
    if not rows:
        raise BadRecordingError(f"{path}: is empty")
    names = dict.fromkeys(name for row in rows for name in row)
    return ActionTable(path, {name: [row.get(name) for row in rows] for name in names}, lines)


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Entry i of a list called ``a`` is called ``a.i``, and ``b`` of an object called ``a`` is ``a.b``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        flat |= {name: value} if inner is None else {f"{name}.{key}": each for key, each in inner}
    return flat


def _read_arrays(path: Path) -> ActionTable:
    columns: dict[str, np.ndarray] = {}
    for name, values in read_npz(path).items():
        if values.ndim not in (1, 2) or max(values.shape[1:], default=1) > MOST_COLUMNS or values.dtype.kind not in "biufU":
            raise BadRecordingError(f"{path}: array {name} is {values.dtype} of shape {values.shape}, wanted [rows] or [rows, columns]")
        columns |= {name: values} if values.ndim == 1 else {f"{name}.{i}": values[:, i] for i in range(values.shape[1])}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or not lengths.pop():
        raise BadRecordingError(f"{path}: its arrays are not of one length above 0")
    return ActionTable(path, columns, range(len(next(iter(columns.values())))))
