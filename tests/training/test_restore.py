"""From checkpoints back to models: the same function, frozen, with averaged weights; wrong or edited ones are refused in words."""

import json

import pytest
import torch

from dreamer_ray.errors import UserError
from dreamer_ray.models.dynamics import Conditioning, Noising
from dreamer_ray.phases.agent_finetuning import AgentFinetuning
from dreamer_ray.phases.cloning import FinetuningConfig
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.phases.imagination_training import ImaginationLossConfig, ImaginationTraining, WholeImaginationTraining
from dreamer_ray.phases.tokenizer_pretraining import TokenizerPretraining
from dreamer_ray.training.checkpoint import open_checkpoint, save_checkpoint
from dreamer_ray.training.restore import (
    begin_agent,
    build_agent,
    describe_agent,
    describe_dynamics,
    describe_tokenizer,
    load_heads,
    restore_agent,
    restore_dynamics,
    restore_tokenizer,
)

TASKS = ["a", "b", "c", "d", "e"]


def _saved(folder, phase, made_by, *, shift=0.0):
    """A checkpoint whose averages are the weights plus ``shift``; freezes ``phase``, as kernels with and without gradients round apart."""
    average = {name: p.detach() + shift for name, p in phase.named_parameters() if p.requires_grad}
    phase.requires_grad_(False)
    return save_checkpoint(folder, 1, made_by=json.loads(json.dumps(made_by)), tensors={"weights": phase.state_dict(), "ema": average})


def _shake(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def _pass(tiny, agent):
    clip = tiny.clip(2, 5)
    noising = Noising(torch.full((2, 5), 3), torch.full((2, 5), 3))
    conditioning = Conditioning(clip.notes.actions, clip.notes.labelled, agent.prompt(clip.notes.task, 5))
    return agent.dynamics(agent.dynamics.standardize(clip.latents), noising, conditioning)


def _agent(tiny):
    agent = tiny.agent()
    _shake(agent)
    agent.dynamics.set_latent_statistics(torch.rand(tiny.latents, tiny.channels), torch.rand(tiny.latents, tiny.channels) + 0.5)
    return agent


def test_a_tokenizer_comes_back(tiny, tmp_path):
    tokenizer = tiny.tokenizer((6, 8))
    _shake(tokenizer)
    tokenizer.set_mean(torch.rand(6, 8, 3))
    back = restore_tokenizer(_saved(tmp_path, TokenizerPretraining(tokenizer), describe_tokenizer(tokenizer)))
    frames = torch.randint(0, 256, (2, 3, 6, 8, 3), dtype=torch.uint8)
    assert torch.equal(back.encode(frames), tokenizer.encode(frames))
    assert torch.equal(back.decode(back.encode(frames)), tokenizer.decode(tokenizer.encode(frames)))
    assert not back.training
    assert not any(p.requires_grad for p in back.parameters())


def test_an_agent_comes_back_from_finetuning(tiny, tmp_path):
    agent = _agent(tiny)
    back = restore_agent(_saved(tmp_path, AgentFinetuning(agent, FinetuningConfig()), describe_agent(agent, TASKS)))
    one, two = _pass(tiny, agent), _pass(tiny, back)
    assert torch.equal(one.latents, two.latents)
    assert torch.equal(one.states, two.states)
    assert torch.equal(agent.reward.now(one.states).mean, back.reward.now(one.states).mean)
    assert torch.equal(agent.policy.now(one.states).entropy(), back.policy.now(one.states).entropy())
    assert torch.equal(agent.continues(one.states), back.continues(one.states))
    assert not any(p.requires_grad for p in back.parameters())


def test_dynamics_come_back_from_pretraining(tiny, tmp_path):
    agent = _agent(tiny)
    checkpoint = _saved(tmp_path, DynamicsPretraining(agent.dynamics, ForcingConfig()), describe_dynamics(agent.dynamics, TASKS))
    begun, back = begin_agent(checkpoint, agent.config), restore_dynamics(checkpoint)
    assert torch.equal(_pass(tiny, agent).latents, _pass(tiny, begun.requires_grad_(False)).latents)
    assert {name: value.tolist() for name, value in back.state_dict().items()} == (
        {name: value.tolist() for name, value in agent.dynamics.state_dict().items()}
    )
    assert not any(p.requires_grad for p in back.parameters())


def test_averaged_weights_are_used(tiny, tmp_path):
    agent = _agent(tiny)
    checkpoint = _saved(tmp_path, AgentFinetuning(agent, FinetuningConfig()), describe_agent(agent, TASKS), shift=0.5)
    back = restore_agent(checkpoint)
    assert torch.equal(back.dynamics.expand.weight, agent.dynamics.expand.weight + 0.5)
    assert torch.equal(back.dynamics.latent_mean, agent.dynamics.latent_mean)


def test_heads_come_back_from_imagination(tiny, tmp_path):
    agent = _agent(tiny)
    phase = ImaginationTraining(agent, ImaginationLossConfig())
    _shake(phase)
    back = load_heads(_agent(tiny), _saved(tmp_path, phase, describe_agent(agent, TASKS)))
    states = torch.randn(3, 16)
    assert torch.equal(agent.policy.now(states).entropy(), back.policy.now(states).entropy())
    assert torch.equal(agent.value(states).mean, back.value(states).mean)


def test_the_whole_agent_comes_back_from_imagination_of_all_weights(tiny, tmp_path):
    agent = _agent(tiny)
    phase = WholeImaginationTraining(agent, ImaginationLossConfig(), FinetuningConfig())
    _shake(phase)
    back = restore_agent(_saved(tmp_path, phase, describe_agent(agent, TASKS)))
    assert {name: value.tolist() for name, value in back.state_dict().items()} == {n: v.tolist() for n, v in agent.state_dict().items()}


def test_a_description_builds_an_agent_of_the_same_sizes(tiny):
    agent = tiny.agent(registers=2, packing=4)
    built = build_agent(json.loads(json.dumps(describe_agent(agent, TASKS))))
    assert {n: p.shape for n, p in built.named_parameters()} == {n: p.shape for n, p in agent.named_parameters()}
    assert built.config == agent.config
    assert built.dynamics.config == agent.dynamics.config
    assert built.dynamics.actions.space == agent.dynamics.actions.space


def test_a_checkpoint_of_another_stage_is_refused(tiny, tmp_path):
    agent, tokenizer = _agent(tiny), tiny.tokenizer()
    of_agent = _saved(tmp_path / "agent", AgentFinetuning(agent, FinetuningConfig()), describe_agent(agent, TASKS))
    of_tokenizer = _saved(tmp_path / "tokenizer", TokenizerPretraining(tokenizer), describe_tokenizer(tokenizer))
    with pytest.raises(UserError, match="no tokenizer"):
        restore_tokenizer(of_agent)
    with pytest.raises(UserError, match="no dynamics"):
        restore_dynamics(of_tokenizer)
    with pytest.raises(UserError, match="no agent"):
        restore_agent(of_tokenizer)


def _edited(checkpoint, change):
    path = checkpoint.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["made_by"])
    path.write_text(json.dumps(manifest))
    return open_checkpoint(checkpoint.path)


EDITS = {
    "other width": lambda made_by: made_by["dynamics"]["transformer"].update(width=32),
    "other packing": lambda made_by: made_by["dynamics"].update(packing=4),
    "impossible packing": lambda made_by: made_by["dynamics"].update(packing=3),
    "unknown key": lambda made_by: made_by["dynamics"].update(depth=3),
    "no action space": lambda made_by: made_by.pop("action_space"),
    "odd action space": lambda made_by: made_by.update(action_space={"a": {"kind": "quaternion", "size": 4}}),
    "odd latent shape": lambda made_by: made_by.update(latent_shape=[3]),
    "fewer tasks": lambda made_by: made_by.update(tasks=["a"]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_manifest_is_refused_in_words(tiny, tmp_path, edit):
    agent = _agent(tiny)
    checkpoint = _saved(tmp_path, AgentFinetuning(agent, FinetuningConfig()), describe_agent(agent, TASKS))
    with pytest.raises(UserError, match="step-00000001"):
        restore_agent(_edited(checkpoint, EDITS[edit]))


def test_an_edited_tokenizer_manifest_is_refused_in_words(tiny, tmp_path):
    tokenizer = tiny.tokenizer()
    checkpoint = _saved(tmp_path, TokenizerPretraining(tokenizer), describe_tokenizer(tokenizer))
    with pytest.raises(UserError, match="step-00000001"):
        restore_tokenizer(_edited(checkpoint, lambda made_by: made_by["tokenizer"].update(latents=9)))
