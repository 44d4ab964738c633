"""A healthy run is called healthy; each damage done to it on purpose is named, and no other."""

from dataclasses import replace

import pytest
import torch

from dreamer_ray.data.batches import BatchConfig, BatchPlan, load
from dreamer_ray.evaluation.doctor import CHECKS, Patient, examine, named
from dreamer_ray.evaluation.passes import agent_states
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.stages import latents
from dreamer_ray.types import LatentClip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
RIGHT, STAY, UNUSED = 1, 2, 3
OFTEN = 7.0
"""Bias with which a policy takes an action in about half of its steps that nobody was recorded taking."""


def examined(patient: Patient, extent) -> set[str]:
    findings = examine(patient, extent, seed=0)
    assert [finding.check.name for finding in findings] == [check.name for check in CHECKS]
    for finding in findings:
        print(finding.check.name, finding.status, finding.says)
    return named(findings)


def agents(patient: Patient) -> tuple[Agent, Agent]:
    assert patient.agent is not None and patient.cloned is not None
    return patient.agent, patient.cloned


def clips(run, rows: int, length: int) -> LatentClip:
    source = latents(run, "train")
    return load(source, BatchPlan(source, BatchConfig(batch_size=rows, length=length), steps=1, tasks=("gold",)), 0, rank=0, world=1)


def test_a_healthy_run_is_called_healthy(patient, extent):
    findings = examine(patient, extent, seed=0)
    assert {finding.check.name: finding.status for finding in findings} == {check.name: "healthy" for check in CHECKS}


def test_a_decoder_that_gives_the_mean_of_each_patch_blurs(patient, extent):
    pixels = patient.tokenizer.pixels
    with torch.no_grad():
        for weights in (pixels.weight, pixels.bias):
            channels = weights.unflatten(0, (-1, 3))
            channels.copy_(channels.mean(0, keepdim=True).expand_as(channels))
    assert examined(patient, extent) == {"blur"}


def test_a_decoder_that_gives_the_mean_of_one_corner_blurs_there(patient, extent):
    """The rest is as it was, and hides it in every figure of whole pictures."""

    def spoil(_module, _inputs, patches: torch.Tensor) -> None:
        patches[..., 2, :].unflatten(-1, (8, 8, 3))[..., 4:, 4:, :] = 0

    patient.tokenizer.pixels.register_forward_hook(spoil)
    assert examined(patient, extent) == {"blur"}


def test_numbers_of_the_latents_that_are_always_zero_are_a_collapse(patient, extent):
    with torch.no_grad():
        patient.tokenizer.bottleneck.weight[::2] = 0
        patient.tokenizer.bottleneck.bias[::2] = 0
    assert examined(patient, extent) == {"collapse"}


def test_a_dynamics_to_which_all_actions_are_one_ignores_actions(patient, extent):
    with torch.no_grad():
        for agent in agents(patient):
            table = agent.dynamics.actions.components[0].weight
            table.copy_(table[RIGHT].expand_as(table))
    assert examined(patient, extent) == {"actions"}


def test_a_dynamics_that_learned_to_stand_still_freezes(patient, extent, run):
    """On clips that stop somewhere; what it makes of recorded frames stays as it was."""
    agent, cloned = agents(patient)
    learn_to_stand_still(agent, standing_still(clips(run, 256, 16))[0])
    cloned.dynamics.load_state_dict(agent.dynamics.state_dict())
    assert examined(patient, extent) == {"freeze"}


def standing_still(clip: LatentClip) -> tuple[LatentClip, torch.Tensor]:
    """Each row stops at some frame; bool ``[b t]``: from there on."""
    rows, length = clip.latents.shape[:2]
    stops = torch.randint(4, 12, (rows, 1), generator=torch.Generator().manual_seed(0)).expand(-1, length)
    frames = torch.arange(length).expand(rows, -1)
    return replace(clip, latents=clip.latents[torch.arange(rows)[:, None], torch.minimum(frames, stops)]), frames >= stops


def learn_to_stand_still(agent: Agent, clip: LatentClip) -> None:
    dynamics, draw = agent.dynamics.requires_grad_(True), torch.Generator().manual_seed(1)
    phase = DynamicsPretraining(dynamics, ForcingConfig(bootstrap_after=0.0, image_fraction=0.0))
    optimizer = torch.optim.Adam(dynamics.parameters(), 1e-3)
    for _ in range(150):
        rows = torch.randint(0, 256, (16,), generator=draw)
        optimizer.zero_grad()
        phase(clip.rows(rows), generator=draw, progress=0.5).total.backward()
        optimizer.step()
    dynamics.requires_grad_(False)


def test_a_dynamics_whose_predictions_are_noisy_drifts(patient, extent):
    agent, _ = agents(patient)
    with torch.no_grad():
        weight = agent.dynamics.predict.weight
        weight += 4 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    assert examined(patient, extent) == {"drift"}


def test_a_dynamics_that_sees_one_frame_back_forgets(patient, extent):
    for agent in agents(patient):
        old = agent.dynamics
        short = old.config.model_copy(update={"transformer": old.config.transformer.model_copy(update={"context": 2})})
        agent.dynamics = Dynamics(short, latents=3, channels=4, action_space=old.actions.space).requires_grad_(False).eval()
        agent.dynamics.load_state_dict(old.state_dict())
    assert examined(replace(patient, dynamics=patient.agent.dynamics), extent) == {"memory"}


def test_a_reward_head_that_always_hopes_is_not_calibrated(patient, extent):
    for agent in agents(patient):
        bias = agent.reward.net.output.bias
        with torch.no_grad():
            bias[: len(agent.reward.bins)][agent.reward.bins > 0.5] += 6
    assert examined(patient, extent) == {"reward"}


def test_a_continue_head_that_always_fears_is_not_calibrated(patient, extent):
    with torch.no_grad():
        for agent in agents(patient):
            agent.continues.net.output.bias -= 8
    assert examined(patient, extent) == {"continue"}


def test_a_value_that_says_the_same_of_all_states_explains_nothing(patient, extent):
    with torch.no_grad():
        patient.agent.value.net.output.weight.zero_()
    assert examined(patient, extent) == {"value"}


def test_a_value_that_hardly_varies_between_states_explains_nothing(patient, extent):
    with torch.no_grad():
        patient.agent.value.net.output.weight.mul_(0.02)
    assert examined(patient, extent) == {"value"}


def test_a_value_that_lies_above_all_returns_is_wrong_about_them(patient, extent):
    head = patient.agent.value
    with torch.no_grad():
        head.net.output.bias[(head.bins - 6).abs().argmin()] += 3
    assert examined(patient, extent) == {"value"}


def test_a_policy_that_does_one_thing_left_the_prior(patient, extent):
    with torch.no_grad():
        patient.agent.policy.net.output.bias[STAY] += 6
    assert examined(patient, extent) == {"policy"}


def test_a_reward_head_that_pays_an_action_which_does_nothing_pays_what_fails(patient, extent, run):
    """Nobody was recorded taking it, so on recordings the head is right. Dreams pay it too, and follow the head in that."""
    agent, cloned = agents(patient)
    recorded = clips(run, 256, 16)
    still, stopped = standing_still(recorded)
    moves = torch.where(stopped, UNUSED, recorded.notes.actions["move"])
    paid = torch.cat([torch.zeros(256, 1), stopped[:, :-1].float()], 1)
    learn_to_pay(agent, replace(still, notes=replace(still.notes, actions={"move": moves}, rewards=paid)), recorded)
    cloned.reward.load_state_dict(agent.reward.state_dict())
    take_unused(patient)
    assert examined(patient, extent) == {"attempts"}


def test_an_action_that_leads_to_rewards_in_dreams_alone_is_exploited(patient, extent):
    """It walks in dreams, and does nothing in the world, whose frames the reward head does not pay."""
    table = patient.agent.dynamics.actions.components[0].weight
    with torch.no_grad():
        table[UNUSED] = table[RIGHT]
    patient.cloned.dynamics.load_state_dict(patient.agent.dynamics.state_dict())
    take_unused(patient)
    assert examined(patient, extent) == {"exploit"}


def take_unused(patient: Patient) -> None:
    """Both policies take the action often."""
    with torch.no_grad():
        for agent in agents(patient):
            agent.policy.net.output.bias[UNUSED] += OFTEN


def learn_to_pay(agent: Agent, played: LatentClip, recorded: LatentClip) -> None:
    """The reward head learns of both clips, and nothing else does."""
    head, draw = agent.reward.requires_grad_(True), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(head.parameters(), 5e-3)
    known = [
        (agent_states(agent, clip, torch.randn(clip.latents.shape, generator=draw)), clip.notes.rewards) for clip in (played, recorded)
    ]
    for _ in range(300):
        optimizer.zero_grad()
        sum(head.now(states).cross_entropy(rewards).mean() for states, rewards in known).backward()
        optimizer.step()
    head.requires_grad_(False)
