"""Effects over seeds of training: pairing, intervals that hold, and figures at the edges."""

import math

import numpy as np
import pytest
from scipy import stats

from dreamer_ray.evaluation.effects import LEAST_SEEDS, Effect, effect, figure, rate, steps_to_success
from dreamer_ray.evaluation.intervals import Interval


def by_seed(table: np.ndarray) -> dict[int, np.ndarray]:
    return dict(enumerate(table))


def test_the_effect_is_the_mean_over_seeds_of_the_paired_difference_with_students_interval():
    rng = np.random.default_rng(0)
    before = rng.poisson(2.0, (8, 60)).astype(float)
    after = before + rng.normal(0.3, 0.5, (8, 60)) + rng.normal(0, 0.2, (8, 1))
    found = effect("x", by_seed(after), by_seed(before))
    differences = (after - before).mean(1)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert found.across.value == pytest.approx(differences.mean())
    assert (found.across.low, found.across.high) == pytest.approx((expected.low, expected.high))
    assert found.across.n == 8
    for seed, within in found.within.items():
        paired = stats.ttest_rel(after[seed], before[seed]).confidence_interval(0.95)
        assert (within.value, within.low, within.high, within.n) == pytest.approx((differences[seed], paired.low, paired.high, 60))


def test_beside_students_interval_within_a_seed_stands_that_of_the_bootstrap():
    rare = np.zeros((2, 80))
    rare[0, :2], rare[1, :3] = 10, 10
    found = effect("x", by_seed(rare), by_seed(np.zeros((2, 80))))
    for seed, redrawn in found.redrawn.items():
        resampled = stats.bootstrap((rare[seed],), np.mean, method="percentile", n_resamples=10_000, random_state=1).confidence_interval
        assert (redrawn.value, redrawn.n) == (found.within[seed].value, 80)
        assert (redrawn.low, redrawn.high) == pytest.approx((resampled.low, resampled.high), abs=0.13)
        assert redrawn.low == 0 > found.within[seed].low, "no redraw falls below zero, as Student's interval does"
    assert found.redrawn == effect("x", by_seed(rare), by_seed(np.zeros((2, 80)))).redrawn, "the same whenever it is computed"
    assert math.isnan(effect("x", {0: [2.0]}, {0: [1.0]}).redrawn[0].low)


def test_worlds_are_paired_so_that_easy_and_hard_ones_drop_out():
    ease = np.random.default_rng(1).normal(0, 10, 40)
    paired = effect("x", {0: ease + 1}, {0: ease + np.tile([-0.1, 0.1], 20)}).within[0]
    mixed = effect("x", {0: ease + 1}, {0: np.roll(ease, 1)}).within[0]
    assert paired.high - paired.low < 0.1 < 2 < mixed.high - mixed.low
    assert paired.value == pytest.approx(mixed.value)


def test_seeds_that_disagree_show_nothing_however_many_worlds_were_played():
    rng = np.random.default_rng(2)
    signs = np.tile([0.3, -0.3, 0.2, -0.2], 2)[:, None]
    found = effect("x", by_seed(rng.normal(0, 0.1, (8, 2000)) + signs), by_seed(np.zeros((8, 2000))))
    assert found.shown == "no difference shown"
    assert all(within.low > 0 or within.high < 0 for within in found.within.values())


def test_the_interval_over_seeds_covers_what_another_draw_of_seeds_gives():
    rng, covered, within_covered, runs = np.random.default_rng(3), 0, 0, 400
    for _ in range(runs):
        after = rng.normal(0.1, 0.15, (8, 1)) + rng.normal(0, 0.5, (8, 50))
        found = effect("x", by_seed(after), by_seed(np.zeros((8, 50))))
        covered += found.across.low <= 0.1 <= found.across.high
        within_covered += found.within[0].low <= 0.1 <= found.within[0].high
    assert 0.92 <= covered / runs <= 0.98
    assert within_covered / runs < 0.75, "that within one checkpoint is no interval for the effect"


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.1, 0.3, "above zero"), (-0.3, -0.1, "below zero"), (-0.1, 0.1, "no difference shown")]
)
def test_what_is_shown_goes_by_the_interval_over_seeds(low, high, words):
    within, across = dict.fromkeys(range(LEAST_SEEDS), Interval(0.0, -1.0, 1.0, 5)), Interval((low + high) / 2, low, high, LEAST_SEEDS)
    assert Effect("x", across, within, within).shown == words
    few = dict.fromkeys(range(LEAST_SEEDS - 1), Interval(0.0, -1.0, 1.0, 5))
    assert Effect("x", across, few, few).shown == "direction only"


def test_one_seed_shows_nothing_over_seeds():
    found = effect("x", {0: [2.0, 3.0]}, {0: [1.0, 1.0]})
    assert math.isnan(found.across.low)
    assert found.shown == "direction only"


def test_other_seeds_cannot_be_compared():
    with pytest.raises(ValueError, match=r"seeds \[0, 1\] and \[0\]"):
        effect("x", {0: [1.0], 1: [1.0]}, {0: [1.0]})


def test_a_rate_is_as_unsure_as_its_seeds_and_its_worlds_make_it():
    agreeing = rate({seed: [1.0] * 30 + [0.0] * 30 for seed in range(5)})
    wilson = stats.binomtest(30, 60).proportion_ci(method="wilson")
    assert (agreeing.low, agreeing.high, agreeing.n) == pytest.approx((wilson.low, wilson.high, 300))
    scattered = rate({seed: [1.0] * count + [0.0] * (60 - count) for seed, count in enumerate((5, 55, 10, 50))})
    assert scattered.low < 0.1
    assert scattered.high > 0.9
    never = rate({seed: [0.0] * 60 for seed in range(5)})
    assert never.low == 0
    assert 0.05 < never.high < 0.07


def test_a_mean_figure_takes_the_wider_interval_too():
    table = np.random.default_rng(4).normal(0, 1, (3, 40)) + np.array([[0], [5], [10]])
    found, over_seeds = figure(by_seed(table)), stats.t.interval(0.95, 2, table.mean(), stats.sem(table.mean(1)))
    assert (found.low, found.high) == pytest.approx(over_seeds)
    alone = figure({0: [1.0, 2.0, 3.0]})
    assert alone.low < 2 < alone.high
    assert math.isnan(figure({0: [1.0]}).low)


def test_steps_count_from_successes_only():
    assert steps_to_success({0: [-1, -1], 1: [-1]}) is None
    found = steps_to_success({0: [10, -1, 20], 1: [30, -1]})
    assert found is not None
    assert (found.value, found.n) == (22.5, 3)
    assert found.low < 15 < 30 < found.high
    single = steps_to_success({0: [10, 20, 30], 1: [-1]})
    assert single is not None
    assert (single.value, single.n) == (20, 3)
    assert single.low == pytest.approx(20 - stats.t.ppf(0.975, 2) * 10 / math.sqrt(3))
