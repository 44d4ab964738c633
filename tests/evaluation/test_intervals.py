"""Intervals against published values, simulated coverage, and each other."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamer_ray.evaluation.intervals import mean, paired_bootstrap, paired_difference, ratio_bootstrap, success_rate


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 40, 0.000, 0.088), (13, 40, 0.201, 0.480), (81, 263, 0.2553, 0.3662), (40, 40, 0.912, 1.000)],
)
def test_wilson_as_published(successes, n, low, high):
    """81 of 263 is the example of Newcombe (1998), table I, method 3; the others follow from the formula by hand."""
    interval = success_rate(successes, n)
    assert interval.value == successes / n
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-4)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_symmetric_and_encloses(trial):
    successes, n = trial
    here, mirrored = success_rate(successes, n), success_rate(n - successes, n)
    assert -1e-12 <= here.low <= here.value + 1e-12 <= here.high + 2e-12 <= 1 + 3e-12
    assert here.low == pytest.approx(1 - mirrored.high, abs=1e-9)


def test_t_interval_by_hand():
    """Mean 3, standard deviation sqrt(2.5), n 5; t(0.975, 4) = 2.7764: half width 1.9633."""
    interval = mean([1, 2, 3, 4, 5])
    assert (interval.value, interval.high - 3, 3 - interval.low) == pytest.approx((3, 1.9633, 1.9633), abs=1e-4)


def test_one_value_has_no_interval():
    interval = mean([2.0])
    assert interval.value == 2
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_t_interval_covers_the_truth_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(1.0, 3.0, size=(2000, 8))
    covered = [interval.low <= 1 <= interval.high for interval in map(mean, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_pairing_takes_out_what_the_worlds_share():
    rng = np.random.default_rng(0)
    worlds = rng.normal(0, 10, 160)
    after, before = worlds + rng.normal(0.5, 1, 160), worlds + rng.normal(0, 1, 160)
    interval = paired_difference(after, before)
    assert 0 < interval.low < 0.5 < interval.high
    assert interval.high - interval.low < (mean(after).high - mean(after).low) / 5


def test_bootstrap_agrees_with_t_and_repeats_with_its_seed():
    rng = np.random.default_rng(1)
    after, before = rng.normal(1, 1, 160), rng.normal(0, 1, 160)
    student = paired_difference(after, before)
    resampled = paired_bootstrap(after, before, np.random.default_rng(2))
    assert resampled == paired_bootstrap(after, before, np.random.default_rng(2))
    assert resampled != paired_bootstrap(after, before, np.random.default_rng(3))
    assert (resampled.value, resampled.low, resampled.high) == pytest.approx((student.value, student.low, student.high), abs=0.03)


def test_mistakes_are_refused():
    for call in (lambda: success_rate(3, 2), lambda: success_rate(0, 0), lambda: mean([]), lambda: paired_difference([1, 2], [1])):
        with pytest.raises(ValueError, match="expected"):
            call()


def test_a_ratio_of_sums_is_covered_as_often_as_it_says_and_is_infinite_over_nothing():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        below = rng.poisson(2.0, 60)
        interval = ratio_bootstrap(3 * below + rng.normal(0, 1, 60), below, rng, draws=400)
        covered.append(interval.low <= 3 <= interval.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)
    nothing = ratio_bootstrap([1.0, 2.0], [0.0, 0.0], rng)
    assert nothing.value == nothing.low == nothing.high == math.inf
    assert math.isnan(ratio_bootstrap([0.0], [0.0], rng).value)
