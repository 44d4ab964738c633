"""Write-only metric sinks: a JSON line a record, and TensorBoard."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

MetricSink = Callable[[int, dict[str, float]], None]
"""Takes the number of finished steps and named figures."""


class FileSink:
    """Appends to ``folder/metrics.jsonl`` and to TensorBoard files in ``folder/tensorboard``."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self.board = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        append_record(self.path, {"step": step, **figures})
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line of JSON at once; a last line that a crash has cut does not become part of it."""
    line = json.dumps(record).encode() + b"\n"
    with path.open("ab+", buffering=0) as file:
        if file.seek(0, 2):
            file.seek(-1, 2)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file in their order, none where it is not there; broken lines are left out."""
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves by name from ``metrics.jsonl``; where a resumed run did steps again the later record counts; broken lines are left out."""
    records: dict[int, dict[str, float]] = {}
    for record in read_records(folder / "metrics.jsonl"):
        records[record.pop("step")] = record
    curves: dict[str, list[tuple[int, float]]] = {}
    for step in sorted(records):
        for name, value in records[step].items():
            curves.setdefault(name, []).append((step, value))
    return curves
