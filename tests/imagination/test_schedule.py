"""The rules of the actor-learner loop, whatever the order in which calls end, are lost or come back too old."""

import heapq
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_ray.imagination.schedule import IN_FLIGHT, PATIENCE, Schedule, Seat

STEPS = 6


@dataclass(frozen=True)
class Result:
    call: int
    version: int


PACES = st.lists(st.sampled_from([None, 0.0, 0.1, 0.3, 1.0, 1.01, 40.0]), min_size=1, max_size=5)
"""Seconds that calls of each seat take; None where nothing is measured."""


@settings(deadline=None)
@given(
    calls=st.integers(1, 4),
    max_lag=st.integers(0, 3),
    paces=PACES,
    learners=st.sampled_from([1, 2]),
    start=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
def test_each_update_uses_its_own_calls_once_and_none_that_is_too_old(calls, max_lag, paces, learners, start, seed):
    per_update, chance = calls * learners, random.Random(seed)
    for rank in range(learners):
        schedule, pool = Schedule[Result](per_update, max_lag, share=(rank, learners)), [Seat(ready=True) for _ in paces]
        schedule.open(start, STEPS)
        flying: list[tuple[Seat, int, int]] = []
        for update in range(start, STEPS):
            while not schedule.complete(update):
                while (taken := schedule.take(update, pool)) is not None:
                    assert taken[1] < (update + max_lag + 1) * per_update
                    flying.append((*taken, update))
                assert all(seat.calls <= IN_FLIGHT for seat in pool)
                assert flying, "something is always under way"
                seat, call, version = flying.pop(chance.randrange(len(flying)))
                seat.calls -= 1
                seat.took(paces[pool.index(seat)])
                fate = chance.random()
                if fate < 0.2:
                    schedule.again(call, lost=True)
                else:
                    schedule.finished[call] = Result(call, max(0, version - 2) if fate < 0.4 else version)
            used = schedule.use(update)
            first = update * per_update + rank * calls
            assert [result.call for result in used] == list(range(first, first + calls))
            assert all(update - result.version <= max_lag for result in used)
        assert not schedule.waiting
        assert not flying
        assert not schedule.finished


def test_nothing_is_sent_to_a_replica_that_has_not_started():
    schedule, seats = Schedule[Result](1, 0), [Seat(), Seat()]
    schedule.open(0, 1)
    assert schedule.take(0, seats) is None
    assert schedule.take(0, []) is None
    seats[1].ready = True
    assert schedule.take(0, seats) == (seats[1], 0)


def seats_of(*paces: float) -> list[Seat]:
    seats = [Seat(ready=True) for _ in paces]
    for seat, pace in zip(seats, paces, strict=True):
        seat.took(pace)
    return seats


def given_to(schedule: Schedule, seats: list[Seat], version: int = 0) -> list[int]:
    """Who gets the calls that may be sent, as indices of the seats."""
    found = []
    while (taken := schedule.take(version, seats)) is not None:
        found.append(seats.index(taken[0]))
    return found


def test_a_seat_gets_what_it_will_have_done_first():
    schedule = Schedule[Result](4, 0)
    schedule.open(0, 1)
    assert given_to(schedule, seats_of(1.0, 2.5)) == [0, 0, 1], "the fourth waits for the faster one, which has two"


def test_the_last_call_of_an_update_waits_for_a_fast_seat():
    schedule, (fast, slow) = Schedule[Result](3, 0), seats_of(1.0, 10.0)
    schedule.open(0, 2)
    assert given_to(schedule, [fast, slow]) == [0, 0]
    fast.calls -= 1
    assert given_to(schedule, [fast, slow]) == [0]


def test_a_slow_seat_helps_where_there_is_as_much_to_do_for_the_others():
    schedule = Schedule[Result](4, 2)
    schedule.open(0, 3)
    assert given_to(schedule, seats_of(1.0, 10.0)) == [0, 0, 1], "the fast one alone would be at it for 12 s"


def test_seats_of_unknown_pace_count_as_the_fastest():
    schedule, seats = Schedule[Result](6, 0), [*seats_of(1.0, 3.0), Seat(ready=True)]
    schedule.open(0, 1)
    assert given_to(schedule, seats) == [0, 2, 0, 2, 1]


def test_equal_seats_share_evenly():
    schedule, seats = Schedule[Result](4, 1), seats_of(1.0, 1.0, 1.0, 1.0)
    schedule.open(0, 2)
    assert sorted(given_to(schedule, seats)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_one_hiccup_does_not_make_a_seat_slow():
    schedule, seats = Schedule[Result](2, 0), seats_of(1.0, 1.0)
    seats[1].took(60.0)
    schedule.open(0, 1)
    assert sorted(given_to(schedule, seats)) == [0, 1]


def test_a_seat_that_was_passed_over_for_long_is_tried_again():
    schedule, (fast, slow) = Schedule[Result](1, 0), seats_of(1.0, 10.0)
    updates = 5 * 10 * PATIENCE
    schedule.open(0, updates)
    given: list[int] = []
    for update in range(updates):
        given += given_to(schedule, [fast, slow], update)
        seat = (fast, slow)[given[-1]]
        seat.calls -= 1
        seat.took(1.0 if seat is fast else 10.0)
    assert len(given) == updates
    assert sum(given) == 2, "two seats: half of the time of each call counts"


def test_a_lost_seat_is_judged_anew():
    (seat,) = seats_of(10.0)
    seat.lose()
    assert (seat.ready, list(seat.times)) == (False, [])


@pytest.mark.parametrize("max_lag", [0, 2])
def test_slow_seats_make_a_pool_faster(max_lag):
    def seconds(*paces: float) -> float:
        schedule, seats, now, ends = Schedule[Result](9, max_lag), seats_of(*paces), 0.0, []
        free = dict.fromkeys(seats, 0.0)
        schedule.open(0, 40)
        for update in range(40):
            while not schedule.complete(update):
                while (taken := schedule.take(update, seats)) is not None:
                    seat, call = taken
                    free[seat] = max(now, free[seat]) + paces[seats.index(seat)]
                    heapq.heappush(ends, (free[seat], call, seats.index(seat)))
                now, call, index = heapq.heappop(ends)
                seats[index].calls -= 1
                seats[index].took(paces[index])
                schedule.finished[call] = Result(call, update)
            schedule.use(update)
        return now

    alone, mixed = seconds(1.0, 1.0), seconds(1.0, 1.0, 4.0, 40.0)
    assert mixed < 0.95 * alone
