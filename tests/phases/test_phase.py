"""The base of all phases: terms are weighed once, by name."""

import pytest
import torch

from dreamer_ray.phases.phase import Phase


def test_total_is_the_weighted_sum_and_figures_only_go_to_the_log():
    phase = Phase({"a": 2.0, "b": 0.5}, normalized=())
    x = torch.tensor(3.0, requires_grad=True)
    loss = phase.weigh({"a": x, "b": torch.tensor(4.0)}, seen=torch.tensor(7.0))
    assert float(loss.total.detach()) == 8.0
    assert {name: float(value) for name, value in loss.metrics.items()} == {"a": 3.0, "b": 4.0, "seen": 7.0}
    assert not any(value.requires_grad for value in loss.metrics.values())
    loss.total.backward()
    assert float(x.grad) == 2.0


def test_normalised_terms_enter_at_their_weight_whatever_their_size():
    phase = Phase({"a": 2.0, "b": 0.5})
    for _ in range(3):
        loss = phase.weigh({"a": torch.tensor(1e-3), "b": torch.tensor(1e4)})
    assert float(loss.total) == pytest.approx(2.5, rel=1e-4)
    assert float(loss.metrics["b"]) == 1e4


def test_only_the_named_terms_are_normalised():
    phase = Phase({"a": 2.0, "b": 0.5}, normalized=["a"])
    assert float(phase.weigh({"a": torch.tensor(1e-3), "b": torch.tensor(1e4)}).total) == pytest.approx(2.0 + 0.5e4, rel=1e-4)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", "c"]])
def test_terms_and_weights_must_bear_the_same_names(names):
    with pytest.raises(ValueError, match="weights"):
        Phase({"a": 1.0, "b": 1.0}, normalized=()).weigh({name: torch.tensor(1.0) for name in names})


def test_a_phase_without_a_loss_says_so():
    with pytest.raises(TypeError, match="Phase is a phase without a loss"):
        Phase({"a": 1.0})(None, generator=torch.Generator(), progress=0.0)
