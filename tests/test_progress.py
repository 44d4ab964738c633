"""Progress lines: what they say and how often they come."""

import logging

import pytest

from dreamer_ray.progress import Progress, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    handler, log = Lines(), logging.getLogger("dreamer_ray")
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "level", logging.INFO)
    log.manager._clear_cache()
    return handler.lines


def test_a_line_has_place_rate_end_and_figures(shown):
    clock = Clock()
    progress = Progress("tokenizer", 1200, "steps", clock=clock)
    progress.update(200, {})
    clock.now += 10
    progress.update(340, {"mse": 0.0123456, "psnr": 20.5})
    assert shown[0].split() == ["tokenizer", "200/1200", "steps"]
    assert shown[1] == "tokenizer     340/1200 steps  14 steps/s  ETA 0:01:01  mse 0.01235  psnr 20.5"


def test_the_start_of_the_workers_does_not_count(shown):
    clock = Clock()
    progress = Progress("tokenizer", 1000, "steps", clock=clock)
    for done, seconds in ((0, 30), (10, 10), (110, 10)):
        progress.update(done, {})
        clock.now += seconds
    assert "0.333 steps/s" in shown[1]
    assert "10 steps/s  ETA 0:01:29" in shown[2]


def test_lines_come_every_few_seconds_and_the_end_is_shown_once(shown):
    clock = Clock()
    progress = Progress("record", 10, "episodes", clock=clock)
    for done in (1, 2, 3, 10, 10):
        progress.update(done, {})
        clock.now += 1
    assert [line.split()[1] for line in shown] == ["1/10", "10/10"]
    assert "ETA" not in shown[1]


def test_nothing_is_shown_while_nothing_moves(shown):
    clock = Clock()
    progress = Progress("record", 10, "episodes", clock=clock)
    for _ in range(5):
        progress.update(0, {})
        clock.now += 100
    assert len(shown) == 1


def test_only_the_main_figures_are_shown(shown):
    Progress("a", 10, "steps").update(1, {f"x{i}": float(i) for i in range(9)})
    assert "x3" in shown[0]
    assert "x4" not in shown[0]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (67, "0:01:07"), (3599.6, "1:00:00"), (90_061, "25:01:01")])
def test_durations(seconds, text):
    assert duration(seconds) == text
