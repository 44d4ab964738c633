"""The schedule of the learning rate and the groups of parameters."""

import pytest
import torch

from dreamer_ray.errors import UserError
from dreamer_ray.training.optimizer import OptimizerConfig, learning_rate, make_optimizer


def _rates(steps, **changes):
    config = OptimizerConfig(**({"learning_rate": 1.0} | changes))
    return [learning_rate(step, steps, config) for step in range(steps)]


def test_without_warm_up_and_decay_the_rate_is_constant():
    assert _rates(5) == [1.0] * 5


def test_warm_up_rises_linearly_and_the_last_share_falls_linearly_to_almost_zero():
    assert _rates(10, warmup=4, decay=0.4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 0.75, 0.5, 0.25])


def test_decay_over_all_steps():
    assert _rates(4, decay=1.0) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_the_rate_scales_with_its_peak():
    assert _rates(10, learning_rate=0.03, warmup=2, decay=0.5) == pytest.approx([0.03 * r for r in _rates(10, warmup=2, decay=0.5)])


def test_weight_decay_is_on_matrices_only_and_frozen_weights_are_left_out(tiny):
    dynamics = tiny.dynamics()
    dynamics.expand.requires_grad_(False)
    optimizer = make_optimizer(dynamics, OptimizerConfig(learning_rate=0.1, weight_decay=0.3))
    names = {id(p): name for name, p in dynamics.named_parameters()}
    decayed, others = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert "predict.weight" in decayed
    assert {"predict.bias", "positions", "transformer.norm.weight"} <= others
    assert decayed | others == {name for name, p in dynamics.named_parameters() if p.requires_grad}
    assert "expand.weight" not in decayed | others


@pytest.mark.parametrize("inside", [False, True], ids=["agent", "phase with an agent"])
def test_parts_may_have_a_rate_of_their_own_and_a_wrong_name_is_refused(tiny, inside):
    agent = tiny.agent()
    optimizer = make_optimizer(
        torch.nn.ModuleDict({"agent": agent}) if inside else agent, OptimizerConfig(learning_rate=0.1, rates={"value": 4.0})
    )
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in agent.named_parameters():
        assert rates[id(p)] == pytest.approx(0.4 if name.startswith("value.") else 0.1), name
    with pytest.raises(UserError, match=r"'valeu'.*policy.*value"):
        make_optimizer(agent, OptimizerConfig(learning_rate=0.1, rates={"valeu": 4.0}))


def test_a_step_follows_the_configuration():
    module = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(module, OptimizerConfig(learning_rate=0.1, betas=(0.8, 0.95)))
    assert optimizer.defaults["betas"] == (0.8, 0.95)
    assert all(group["lr"] == 0.1 for group in optimizer.param_groups)
