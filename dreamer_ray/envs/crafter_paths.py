"""Shortest paths over a grid of tiles."""

import heapq
from dataclasses import dataclass
from itertools import count

import numpy as np

DIRECTIONS: tuple[tuple[int, int], ...] = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Left, right, up, down as steps of (x, y); among equal paths the one that starts with the earlier direction wins."""


@dataclass(frozen=True)
class Route:
    """The start of a cheapest path."""

    step: tuple[int, int]
    """First step, one of ``DIRECTIONS``."""
    cost: int
    """Sum of the costs of the tiles that it enters; the goal itself counts 1."""
    arrives: bool
    """Whether the first step enters the goal."""


def route(costs: np.ndarray, start: tuple[int, int], goals: np.ndarray) -> Route | None:
    """The cheapest path from ``start`` to a tile of ``goals``, or None where there is none (Dijkstra's algorithm).

    ``costs``: int ``[x, y]``, what it costs to enter a tile, 0 where it cannot be entered. ``goals``: bool ``[x, y]``;
    a goal may be entered whatever its cost. A goal at ``start`` does not count.
    """
    stride = costs.shape[1] + 2
    price = np.where(goals, 1, costs)
    prices: list[int] = np.pad(price, 1).ravel().tolist()
    wanted: list[bool] = np.pad(goals, 1).ravel().tolist()
    origin = (start[0] + 1) * stride + start[1] + 1
    wanted[origin] = False
    best, order = {origin: 0}, count()
    heap: list[tuple[int, int, int, tuple[int, int]]] = [(0, next(order), origin, DIRECTIONS[0])]
    offsets = [(step, step[0] * stride + step[1]) for step in DIRECTIONS]
    while heap:
        total, _, tile, first = heapq.heappop(heap)
        if wanted[tile]:
            return Route(first, total, wanted[origin + first[0] * stride + first[1]])
        if total > best[tile]:
            continue
        for step, offset in offsets:
            there = tile + offset
            cost = total + prices[there]
            if prices[there] and cost < best.get(there, cost + 1):
                best[there] = cost
                heapq.heappush(heap, (cost, next(order), there, step if tile == origin else first))
    return None
