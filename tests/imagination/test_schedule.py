"""The rules of the actor-learner loop, whatever the order in which calls end, are lost or come back too old."""

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dreamer_ray.imagination.schedule import IN_FLIGHT, Schedule, Seat

STEPS = 6


@dataclass(frozen=True)
class Result:
    call: int
    version: int


@given(
    calls=st.integers(1, 4),
    max_lag=st.integers(0, 3),
    seats=st.integers(1, 5),
    learners=st.sampled_from([1, 2]),
    start=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
def test_each_update_uses_its_own_calls_once_and_none_that_is_too_old(calls, max_lag, seats, learners, start, seed):
    per_update, chance = calls * learners, random.Random(seed)
    for rank in range(learners):
        schedule, pool = Schedule[Result](per_update, max_lag, share=(rank, learners)), [Seat(ready=True) for _ in range(seats)]
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
