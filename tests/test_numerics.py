"""Oracles of the scalar transforms, two-hot codes, running RMS and masked means."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_ray.models.distributions import TwoHot
from dreamer_ray.numerics import RunningRMS, masked_mean, symexp, symexp_bins, symlog, twohot_encode, twohot_mean

BINS = symexp_bins(255)
reals = st.floats(-4e8, 4e8, width=32)


@settings(deadline=None)
@given(st.floats(-20, 20))
def test_symlog_inverts_symexp(x):
    assert float(symlog(symexp(torch.tensor(x, dtype=torch.float64)))) == pytest.approx(x, abs=1e-12)


@settings(deadline=None)
@given(st.floats(-1e8, 1e8))
def test_symexp_inverts_symlog(x):
    assert float(symexp(symlog(torch.tensor(x, dtype=torch.float64)))) == pytest.approx(x, rel=1e-12, abs=1e-12)


def test_symlog_values():
    assert float(symlog(torch.tensor(math.e - 1))) == pytest.approx(1.0, rel=1e-6)
    assert float(symlog(torch.tensor(1 - math.e))) == pytest.approx(-1.0, rel=1e-6)
    assert float(symexp(torch.tensor(0.0))) == 0.0


@pytest.mark.parametrize("count", [3, 21, 255])
def test_bins_are_symexp_of_a_grid_and_mirrored(count):
    bins = symexp_bins(count)
    assert torch.equal(bins, -bins.flip(0))
    assert bins[count // 2] == 0
    assert bool((bins.diff() > 0).all())
    assert torch.allclose(symlog(bins.double()), torch.linspace(-20, 20, count, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 254])
def test_bins_refuse_even_counts(count):
    with pytest.raises(ValueError, match=str(count)):
        symexp_bins(count)


@settings(deadline=None)
@given(st.lists(reals, min_size=1, max_size=8))
def test_twohot_mean_of_encode_is_the_number(values):
    x = torch.tensor(values)
    code = twohot_encode(x, BINS)
    assert torch.allclose(twohot_mean(code, BINS), x, rtol=1e-5, atol=1e-6)
    assert torch.allclose(code.sum(-1), torch.ones(len(values)))
    assert bool((code >= 0).all())


@settings(deadline=None)
@given(reals)
def test_twohot_touches_two_neighbouring_bins(value):
    used = twohot_encode(torch.tensor([value]), BINS)[0].nonzero().squeeze(1)
    assert len(used) in (1, 2)
    assert used[-1] - used[0] <= 1
    assert BINS[max(int(used[0]) - 1, 0)] <= value <= BINS[min(int(used[-1]) + 1, 254)]


def test_twohot_of_a_bin_is_one_hot():
    assert torch.equal(twohot_encode(BINS, BINS), torch.eye(255))


def test_twohot_clips_beyond_its_range():
    code = twohot_encode(torch.tensor([-1e12, 1e12]), BINS)
    assert code[0, 0] == 1
    assert code[1, -1] == 1
    assert torch.equal(code.sum(-1), torch.ones(2))


@pytest.mark.parametrize("count", [3, 101, 255, 1023])
def test_uniform_distribution_has_a_mean_of_exactly_zero(count):
    bins = symexp_bins(count)
    assert float(TwoHot(torch.zeros(2, count), bins).mean.abs().max()) == 0.0


def test_cross_entropy_is_that_of_the_two_neighbours():
    logits, bins = torch.tensor([[0.3, -0.2, 1.1]]), torch.tensor([-2.0, 0.0, 2.0])
    log_p = logits[0].log_softmax(0)
    expected = -(0.75 * log_p[1] + 0.25 * log_p[2])
    assert float(TwoHot(logits, bins).cross_entropy(torch.tensor([0.5]))) == pytest.approx(float(expected), rel=1e-6)


def test_masked_mean_counts_only_the_mask():
    terms = torch.tensor([[1.0, 2.0], [3.0, 10.0]])
    assert float(masked_mean(terms, torch.tensor([[True, True], [True, False]]))) == 2.0
    assert float(masked_mean(terms, torch.tensor([[True], [False]]))) == 1.5
    assert float(masked_mean(terms)) == 4.0


def test_masked_mean_of_nothing_is_zero_with_zero_gradient():
    terms = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = masked_mean(terms, torch.zeros(2, dtype=torch.bool))
    mean.backward()
    assert mean == 0
    assert torch.equal(terms.grad, torch.zeros(2))


def _normalised(scale: float, steps: int = 50) -> torch.Tensor:
    rms, draws = RunningRMS(["a", "b"]), torch.Generator().manual_seed(0)
    out = [rms({"a": scale * torch.rand((), generator=draws), "b": torch.rand((), generator=draws)}) for _ in range(steps)]
    return torch.stack([torch.stack([o["a"], o["b"]]) for o in out])


def test_running_rms_makes_the_scale_of_a_term_irrelevant():
    assert torch.allclose(_normalised(1.0), _normalised(1000.0), rtol=1e-4)


def test_running_rms_adapts_when_a_term_grows_a_thousandfold():
    rms, constant = RunningRMS(["a"]), torch.tensor(0.5)
    for _ in range(20):
        rms({"a": constant})
    for _ in range(2000):
        last = rms({"a": 1000 * constant})["a"]
    assert float(last) == pytest.approx(1.0, rel=1e-3)


def test_running_rms_is_unbiased_from_the_first_step():
    rms = RunningRMS(["a"], decay=0.99)
    assert float(rms({"a": torch.tensor(-7.0)})["a"]) == pytest.approx(-1.0, rel=1e-5)
    expected = math.sqrt((0.99 * 0.01 * 49 + 0.01 * 9) / (0.99 * 0.01 + 0.01))
    assert float(rms({"a": torch.tensor(3.0)})["a"]) == pytest.approx(3 / expected, rel=1e-5)


def test_running_rms_ignores_empty_terms_and_stands_still_in_evaluation():
    rms = RunningRMS(["a", "b"])
    rms({"a": torch.tensor(4.0), "b": torch.tensor(0.0)})
    assert rms.weight[1] == 0
    before = rms.square.clone()
    rms({"a": torch.tensor(0.0), "b": torch.tensor(0.0)})
    assert torch.equal(rms.square, before)
    rms.eval()
    assert float(rms({"a": torch.tensor(8.0), "b": torch.tensor(1.0)})["a"]) == pytest.approx(2.0, rel=1e-5)
    assert torch.equal(rms.square, before)


def test_running_rms_keeps_the_gradient_direction_and_detaches_its_statistics():
    rms, x = RunningRMS(["a"]), torch.tensor(5.0, requires_grad=True)
    rms({"a": x})["a"].backward()
    assert float(x.grad) == pytest.approx(0.2, rel=1e-5)


def test_running_rms_refuses_other_names():
    with pytest.raises(ValueError, match="expected"):
        RunningRMS(["a"])({"b": torch.tensor(1.0)})
