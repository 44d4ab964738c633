"""All parts after the tokenizer as one agent: dynamics, task embedding and heads."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dreamer_ray.config import Config
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.models.heads import ContinueHead, HeadsConfig, PolicyHead, RewardHead, ValueHead


class AgentConfig(Config):
    """Sizes of what the agent adds to the dynamics."""

    heads: HeadsConfig = HeadsConfig()


class Agent(nn.Module):
    """The dynamics with agent tokens that take a task prompt, and the heads on their states (Dreamer 4, sections 3.3 and 3.4)."""

    def __init__(self, config: AgentConfig, dynamics: Dynamics, *, tasks: int):
        super().__init__()
        self.config, self.dynamics = config, dynamics
        width, tokens = dynamics.config.transformer.width, dynamics.config.agent_tokens
        self.task = nn.Embedding(tasks, tokens * width)
        nn.init.normal_(self.task.weight, std=0.5)
        self.policy = PolicyHead(config.heads, width, dynamics.actions.space)
        self.reward = RewardHead(config.heads, width)
        self.continues = ContinueHead(config.heads, width)
        self.value = ValueHead(config.heads, width)

    def prompt(self, task: Int[Tensor, "b"], frames: int) -> Float[Tensor, "b t a d"]:
        """Agent tokens that ask for ``task`` in each of ``frames`` frames."""
        tokens = self.task(task).unflatten(-1, (self.dynamics.config.agent_tokens, -1))
        return tokens.unsqueeze(1).expand(-1, frames, -1, -1)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Copies ``weights``, some or all of the state dictionary, into the parameters, which stay where they are."""
        own = self.state_dict()
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)
