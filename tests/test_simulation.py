"""The simulated loop against what can be reckoned by hand."""

import pytest

from dreamer_ray.bench.simulation import Service, simulate

EVEN = {"publish": 0.0, "fetch": 0.0, "submit": 0.0, "take": 0.0, "spread": 0.0}


def _simulate(replicas, *, dream=1.0, update=0.1, calls=4, max_lag=2, **changes):
    return simulate(Service(dream=dream, update=update, **EVEN | changes), replicas=replicas, calls_per_update=calls, max_lag=max_lag)


def test_a_few_replicas_bound_the_loop_by_their_dreams():
    for replicas in (1, 2, 4):
        found = _simulate(replicas)
        assert found.updates_per_second == pytest.approx(replicas / 4, rel=0.05)
        assert found.replica_idle < 0.05
        assert found.bottleneck.startswith("dreams")


def test_many_replicas_bound_it_by_the_learner():
    found = _simulate(100, update=1.0, calls=64)
    assert found.updates_per_second == pytest.approx(1.0, rel=0.05)
    assert found.learner_idle < 0.05
    assert found.bottleneck.startswith("the learner's update")


def test_without_lag_dreams_and_updates_take_turns():
    found = _simulate(4, update=1.0, max_lag=0)
    assert found.updates_per_second == pytest.approx(1 / 2, rel=0.05)
    assert found.lag == 0
    assert found.learner_idle == pytest.approx(0.5, rel=0.05)


def test_more_replicas_than_calls_that_may_be_sent_are_idle():
    found = _simulate(100)
    assert found.replica_idle > 0.8
    assert found.bottleneck.startswith("calls")
    assert found.lag <= 2


def test_taking_in_many_small_calls_is_named():
    found = _simulate(100, dream=0.1, update=0.001, calls=64, take=0.01)
    assert found.learner_handling > 0.5
    assert found.bottleneck.startswith("taking in")


def test_watching_very_many_replicas_is_named():
    free, watched = (_simulate(100, dream=0.5, update=0.001, calls=32, watch=watch) for watch in (0.0, 1e-2))
    assert watched.learner_handling > 0.5
    assert watched.bottleneck.startswith("taking in trajectories and watching")
    assert watched.updates_per_second < 0.5 * free.updates_per_second


def test_fetching_heads_costs_the_replicas():
    slow, fast = (_simulate(1, fetch=fetch) for fetch in (1.0, 0.0))
    assert slow.updates_per_second == pytest.approx(fast.updates_per_second * 4 / 5, rel=0.05)


def test_short_calls_that_run_out_while_the_learner_updates_are_named():
    found = _simulate(4, dream=0.1, update=1.0, calls=30)
    assert found.replica_idle > 0.2
    assert found.bottleneck.startswith("calls at hand")


def test_uneven_calls_are_as_old_as_when_they_began():
    found = _simulate(200, update=1.0, calls=64, spread=0.3)
    assert found.updates_per_second == pytest.approx(1.0, rel=0.05), "nothing was dropped as too old and dreamed again"
    assert found.learner_idle < 0.05
