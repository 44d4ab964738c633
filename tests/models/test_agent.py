"""The agent: prompts, and the weights that travel from the learner."""

import torch


def test_prompts_differ_by_task_and_repeat_over_frames(tiny):
    agent = tiny.agent(agent_tokens=2)
    prompt = agent.prompt(torch.tensor([0, 3, 0]), 4)
    assert prompt.shape == (3, 4, 2, 16)
    assert torch.equal(prompt[0], prompt[2])
    assert not torch.equal(prompt[0], prompt[1])
    assert torch.equal(prompt[:, 0], prompt[:, 3])


def test_head_weights_are_copied_and_nothing_else_moves(tiny):
    agent, other = tiny.agent(), tiny.agent()
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(1)
    weights = {name: value for name, value in agent.state_dict().items() if name.startswith(("policy.", "value."))}
    untouched = {name: value.clone() for name, value in other.state_dict().items() if name not in weights}
    other.load_weights(weights)
    states = torch.randn(2, 16)
    assert torch.equal(agent.value(states).mean, other.value(states).mean)
    assert torch.equal(agent.policy.now(states).entropy(), other.policy.now(states).entropy())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in untouched.items())
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.zero_()
    assert not torch.equal(agent.policy.now(states).entropy(), other.policy.now(states).entropy())


def test_all_agent_tokens_make_the_state(tiny):
    agent = tiny.agent(agent_tokens=2)
    assert agent.dynamics.layout.counts["agent"] == 2
    assert agent.dynamics.space_mask.shape == (agent.dynamics.layout.total,) * 2
