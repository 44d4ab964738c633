"""Write-only metric sinks: a JSON line a record, and TensorBoard."""

import json
from collections.abc import Callable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

MetricSink = Callable[[int, dict[str, float]], None]
"""Takes the number of finished steps and named figures."""


class FileSink:
    """Appends to ``folder/metrics.jsonl`` and to TensorBoard files in ``folder/tensorboard``."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            # A crash cut the last line; the next record must not become part of it.
            with self.path.open("a") as file:
                file.write("\n")
        self.board = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves by name from ``metrics.jsonl``; where a resumed run did steps again the later record counts; broken lines are left out."""
    records: dict[int, dict[str, float]] = {}
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records[record.pop("step")] = record
    curves: dict[str, list[tuple[int, float]]] = {}
    for step in sorted(records):
        for name, value in records[step].items():
            curves.setdefault(name, []).append((step, value))
    return curves
