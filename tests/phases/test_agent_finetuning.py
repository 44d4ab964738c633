"""Which rows and frames teach which part of the agent (Dreamer 4, section 3.3)."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from dreamer_ray.imagination.sampler import context_noising
from dreamer_ray.models.dynamics import Prediction
from dreamer_ray.phases.agent_finetuning import AgentFinetuning
from dreamer_ray.phases.cloning import FinetuningConfig, head_terms, natural_weights
from dreamer_ray.types import Binary, Categorical

ROWS, FRAMES, L = 6, 7, 2
UNIFORM, RELEVANT = 1, 2
CONFIG = FinetuningConfig(image_fraction=0.0)


@pytest.fixture
def agent(tiny):
    return tiny.agent()


def _metrics(agent, batch, tiny, config=CONFIG):
    loss = AgentFinetuning(agent, config)(batch, generator=tiny.generator(), progress=1.0)
    return {name: float(value) for name, value in loss.metrics.items()}


def _with(batch, row, frame, *, part, tiny):
    """The batch with one thing changed at ``row`` and ``frame``."""
    notes = replace(batch.notes, actions={n: v.clone() for n, v in batch.notes.actions.items()}, rewards=batch.notes.rewards.clone())
    latents, continues = batch.latents.clone(), notes.continues.clone()
    if part == "action":
        notes.actions["mouse"][row, frame] = (notes.actions["mouse"][row, frame] + 1) % 5
        notes.actions["arm"][row, frame] += 1
    elif part == "reward":
        notes.rewards[row, frame] += 1
    elif part == "continue":
        continues[row, frame] = 1 - continues[row, frame]
    else:
        latents[row, frame] *= -1
    return replace(batch, latents=latents, notes=replace(notes, continues=continues))


# The action of the last frame is a target but never an input: blocks hold previous actions.
@pytest.mark.parametrize(("row", "moves"), [(UNIFORM, False), (RELEVANT, True)])
def test_the_policy_learns_from_relevant_rows_only(tiny, agent, row, moves):
    batch = tiny.clip(ROWS, FRAMES)
    before, after = (_metrics(agent, b, tiny) for b in (batch, _with(batch, row, FRAMES - 1, part="action", tiny=tiny)))
    assert (before["policy"] != after["policy"]) is moves
    assert {n: v for n, v in before.items() if n != "policy"} == {n: v for n, v in after.items() if n != "policy"}


@pytest.mark.parametrize(("row", "moves"), [(UNIFORM, True), (RELEVANT, False)])
def test_the_dynamics_learn_from_uniform_rows_only(tiny, agent, row, moves):
    batch = tiny.clip(ROWS, FRAMES)
    before, after = (_metrics(agent, b, tiny) for b in (batch, _with(batch, row, 3, part="latents", tiny=tiny)))
    assert (before["shortcut"] != after["shortcut"]) is moves
    assert before["reward"] != after["reward"]


@pytest.mark.parametrize("part", ["reward", "continue"])
@pytest.mark.parametrize("row", [UNIFORM, RELEVANT])
def test_reward_and_continue_learn_from_both(tiny, agent, part, row):
    batch = tiny.clip(ROWS, FRAMES)
    before, after = (_metrics(agent, b, tiny) for b in (batch, _with(batch, row, 3, part=part, tiny=tiny)))
    assert before[part] != after[part]
    assert {n: v for n, v in before.items() if n != part} == {n: v for n, v in after.items() if n != part}


def _gradients(agent, batch, tiny, term):
    phase = AgentFinetuning(agent, _only(term))
    agent.zero_grad()
    phase(batch, generator=tiny.generator(), progress=1.0).total.backward()
    return {name: 0.0 if p.grad is None else float(p.grad.abs().sum()) for name, p in agent.named_parameters()}


def _only(term):
    weights = {f"{name}_weight": 0.0 for name in ("dynamics", "policy", "reward", "continue")} | {f"{term}_weight": 1.0}
    return FinetuningConfig(image_fraction=0.0, **weights)


def test_without_relevant_rows_the_policy_has_no_gradient(tiny, agent):
    batch = tiny.clip(ROWS, FRAMES)
    uniform = replace(batch, notes=replace(batch.notes, relevant=torch.zeros(ROWS, dtype=torch.bool)))
    assert set(_gradients(agent, uniform, tiny, "policy").values()) == {0.0}
    assert _gradients(agent, batch, tiny, "policy")["policy.net.output.weight"] > 0


def test_without_uniform_rows_the_video_has_no_gradient(tiny, agent):
    batch = tiny.clip(ROWS, FRAMES)
    relevant = replace(batch, notes=replace(batch.notes, relevant=torch.ones(ROWS, dtype=torch.bool)))
    assert set(_gradients(agent, relevant, tiny, "dynamics").values()) == {0.0}
    assert _gradients(agent, batch, tiny, "dynamics")["dynamics.predict.weight"] > 0


def test_video_does_not_teach_the_task_and_the_value_learns_nothing_here(tiny, agent):
    batch = tiny.clip(ROWS, FRAMES)
    assert _gradients(agent, batch, tiny, "dynamics")["task.weight"] == 0
    gradients = _gradients(agent, batch, tiny, "policy")
    assert gradients["task.weight"] > 0
    assert gradients["dynamics.expand.weight"] > 0
    assert all(v == 0 for n, v in gradients.items() if n.startswith("value."))


@pytest.fixture
def fixed_states(agent, monkeypatch):
    """Agent states that do not depend on the batch, so that only targets differ."""
    states = torch.randn(ROWS, FRAMES, 16)
    monkeypatch.setattr(agent.dynamics, "forward", lambda noisy, *_: Prediction(noisy.float(), states[: noisy.shape[0]]))
    return states


def test_distances_and_the_end_of_the_clip(tiny, agent, fixed_states):
    batch = tiny.clip(ROWS, FRAMES)
    labelled = batch.notes.labelled.clone()
    labelled[RELEVANT, 4] = False
    batch = replace(batch, notes=replace(batch.notes, labelled=labelled))
    with torch.no_grad():
        policy, reward = agent.policy(fixed_states), agent.reward(fixed_states)
    log_prob, surprise = [], []
    for row in range(ROWS):
        for t in range(FRAMES):
            for n in range(L + 1):
                if t + n >= FRAMES:
                    continue
                target = batch.notes.rewards[row, t + n].expand(ROWS, FRAMES, L + 1)
                surprise.append(float(reward.cross_entropy(target)[row, t, n]))
                if row % 2 == 0 and labelled[row, t + n]:
                    actions = {k: v[row, t + n].expand(ROWS, FRAMES, L + 1, *v.shape[2:]) for k, v in batch.notes.actions.items()}
                    log_prob.append(float(policy.log_prob(actions)[row, t, n]))
    found = _metrics(agent, batch, tiny)
    assert found["policy"] == pytest.approx(-sum(log_prob) / len(log_prob), rel=1e-4)
    assert found["reward"] == pytest.approx(sum(surprise) / len(surprise), rel=1e-4)


def test_continue_is_that_of_the_same_frame(tiny, agent, fixed_states):
    batch = tiny.clip(ROWS, FRAMES)
    p, c = agent.continues.probability(fixed_states), batch.notes.continues
    expected = -(c * p.log() + (1 - c) * (1 - p).log()).mean().detach()
    assert _metrics(agent, batch, tiny)["continue"] == pytest.approx(float(expected), rel=1e-4)


def test_relevant_rows_may_be_seen_as_the_agent_sees_when_it_acts(tiny, agent, monkeypatch):
    seen, forward = [], agent.dynamics.forward
    monkeypatch.setattr(agent.dynamics, "forward", lambda *args: seen.append(args) or forward(*args))
    config = FinetuningConfig(relevant_signal="context", bootstrap_fraction=0.0)
    _metrics(agent, tiny.clip(ROWS, FRAMES), tiny, config)
    [(_, noising, conditioning)] = seen
    assert set(noising.signal[::2].flatten().tolist()) == {7}
    assert len(set(noising.signal[1::2].flatten().tolist())) > 3
    assert torch.equal(conditioning.agent, agent.prompt(tiny.clip(ROWS, FRAMES).notes.task, FRAMES))


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_actions_that_do_nothing_weigh_less_in_cloning_and_as_much_in_all_else(tiny, weight):
    """The policy's loss is worked out from that of the actions that do nothing alone, and that of those that do something."""
    space = {"keys": Binary(size=3), "mouse": Categorical(size=5)}
    agent, batch, states = tiny.agent(space=space), tiny.clip(ROWS, FRAMES, space=space), torch.randn(ROWS, FRAMES, 16)
    actions = {"keys": torch.ones_like(batch.notes.actions["keys"]), "mouse": batch.notes.actions["mouse"].clone()}
    still = (torch.arange(FRAMES) % 3 == 0).expand(ROWS, -1)
    actions["keys"][still], actions["mouse"][still] = 0, 2

    def losses(labelled, **changes):
        known = replace(batch, notes=replace(batch.notes, actions=actions, labelled=labelled))
        found = head_terms(agent, agent.policy, known, states, FinetuningConfig(null_choices={"mouse": 2}, **changes))
        return {name: float(value.detach()) for name, value in found.items()}

    everything = torch.ones_like(still)
    nulls, acts = (sum(int(kind[0, frame : frame + L + 1].sum()) for frame in range(FRAMES)) for kind in (still, ~still))
    of_nulls, of_acts = (losses(kind)["policy"] for kind in (still, ~still))
    found = losses(everything, null_weight=weight)
    assert found.pop("policy") == pytest.approx((weight * nulls * of_nulls + acts * of_acts) / (weight * nulls + acts), rel=1e-4)
    assert of_nulls != pytest.approx(of_acts, rel=0.01)
    assert found == {name: value for name, value in losses(everything).items() if name != "policy"}


NATURAL = FinetuningConfig(image_fraction=0.0, reward_rows="natural", context_fraction=0.5, relevant_signal="context")


@pytest.mark.parametrize("signal", ["sampled", "context"])
def test_natural_weights_give_the_means_of_uniform_rows(tiny, signal):
    """Two kinds of clips, one of which relevant draws prefer: weighted means of a batch with both are those of uniform rows alone."""
    config, generator, rows = NATURAL.model_copy(update={"relevant_signal": signal}), tiny.generator(), 200_000
    rare, enrichment = 0.1, 10.0  # all relevant rows are of the rare kind
    relevant = torch.rand(rows, generator=generator) < 0.4
    kind = relevant | (torch.rand(rows, generator=generator) < rare)
    acting = torch.where(relevant, signal == "context", torch.rand(rows, generator=generator) < config.context_fraction)
    notes = replace(tiny.clip(1, 2).notes, relevant=relevant, enrichment=enrichment * kind)
    weights = natural_weights(notes, acting, config)
    for among in (acting, ~acting):
        assert float((weights * kind)[among].sum() / weights[among].sum()) == pytest.approx(rare, rel=0.03)
        assert float(weights[among].mean()) == pytest.approx(1, rel=0.03)


def test_rows_that_stand_for_more_weigh_more_in_reward_and_continue_alone(tiny, agent):
    batch = tiny.clip(ROWS, FRAMES)
    some = replace(batch, notes=replace(batch.notes, enrichment=torch.tensor([0.0, 0.0, 3.0, 1.0, 0.5, 2.0])))
    other = replace(batch, notes=replace(batch.notes, enrichment=torch.tensor([0.0, 0.0, 9.0, 1.0, 0.5, 2.0])))
    one, two = (_metrics(agent, each, tiny, NATURAL) for each in (some, other))
    assert {name for name in one if one[name] != two[name]} >= {"reward", "continue"}
    assert all(one[name] == two[name] for name in ("shortcut", "policy"))


def test_uniform_rows_may_be_seen_as_the_agent_sees_when_it_acts(tiny, agent, monkeypatch):
    """They then teach the heads at that signal, and the dynamics nothing."""
    batch, seen = tiny.clip(64, FRAMES), []
    forward = agent.dynamics.forward
    monkeypatch.setattr(agent.dynamics, "forward", lambda noisy, noising, told: seen.append(noising) or forward(noisy, noising, told))
    config = FinetuningConfig(image_fraction=0.0, bootstrap_fraction=0.0, context_fraction=0.5)
    AgentFinetuning(agent, config)(batch, generator=tiny.generator(), progress=1.0)
    level = context_noising(agent.dynamics, 1, FRAMES).signal
    acting = (seen[0].signal == level).all(1)
    assert not acting[batch.notes.relevant].any()
    assert 6 <= int(acting.sum()) <= 26
    row = int(acting.nonzero()[0])
    before, after = (_metrics(agent, b, tiny, config) for b in (batch, _with(batch, row, FRAMES - 1, part="latents", tiny=tiny)))
    assert before["shortcut"] == after["shortcut"]
    assert before["reward"] != after["reward"]


def test_natural_rows_need_uniform_ones_at_the_signal_of_acting():
    with pytest.raises(ValidationError, match="set context_fraction"):
        FinetuningConfig(reward_rows="natural", relevant_signal="context")
    FinetuningConfig(reward_rows="natural")
