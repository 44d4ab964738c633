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


def test_muon_moves_the_matrices_of_blocks_and_adamw_the_rest(tiny):
    dynamics = tiny.dynamics()
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.3, rates={"transformer": 0.5}, kind="muon")
    optimizer = make_optimizer(dynamics, config)
    muon, adamw = optimizer.parts
    by_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    assert by_muon == {id(p) for name, p in dynamics.named_parameters() if name.startswith("transformer.") and p.ndim == 2}
    assert by_muon.isdisjoint(id(p) for group in adamw.param_groups for p in group["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(dynamics.parameters()))
    assert {group["lr"] for group in muon.param_groups} == {0.05}
    for p in dynamics.parameters():
        p.grad = torch.randn_like(p)
    before = {name: p.detach().clone() for name, p in dynamics.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * 0.02
    optimizer.step()
    name, weight = next((name, p) for name, p in dynamics.named_parameters() if id(p) in by_muon)
    moved = weight.detach() - before[name] * (1 - 0.01 * 0.3)
    sizes = torch.linalg.svdvals(moved) / (0.01 * 0.2 * max(weight.shape) ** 0.5)
    assert bool(((sizes > 0.3) & (sizes < 1.4)).all()), "orthogonal up to Newton and Schulz, of the size of AdamW's step"
    bias = (dynamics.predict.bias - before["predict.bias"]).abs()
    assert torch.allclose(bias, torch.full_like(bias, 0.02), rtol=1e-3)
    assert set(optimizer.state) == set(dynamics.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in dynamics.parameters())


def test_muon_without_a_block_is_refused():
    with pytest.raises(UserError, match=r"kind = muon.*adamw"):
        make_optimizer(torch.nn.Linear(2, 2), OptimizerConfig(learning_rate=0.1, kind="muon"))


def test_a_step_follows_the_configuration():
    module = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(module, OptimizerConfig(learning_rate=0.1, betas=(0.8, 0.95)))
    assert optimizer.defaults["betas"] == (0.8, 0.95)
    assert all(group["lr"] == 0.1 for group in optimizer.param_groups)
