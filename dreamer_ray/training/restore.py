"""From a checkpoint back to the modules it contains, by the configuration that it carries."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor, nn

from dreamer_ray.config_file import parse_config
from dreamer_ray.errors import UserError
from dreamer_ray.models.agent import Agent, AgentConfig
from dreamer_ray.models.dynamics import Dynamics, DynamicsConfig
from dreamer_ray.models.tokenizer import Tokenizer, TokenizerConfig
from dreamer_ray.training.checkpoint import Checkpoint
from dreamer_ray.types import ActionSpace


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ``made_by`` of a tokenizer's checkpoint."""
    return {"tokenizer": tokenizer.config.model_dump(mode="json"), "frame_shape": list(tokenizer.frame_shape)}


def describe_dynamics(dynamics: Dynamics, tasks: list[str]) -> dict[str, Any]:
    """The ``made_by`` of a checkpoint of dynamics pretraining."""
    return {
        "dynamics": dynamics.config.model_dump(mode="json"),
        "latent_shape": list(dynamics.latent_mean.shape),
        "action_space": TypeAdapter(ActionSpace).dump_python(dynamics.actions.space, mode="json"),
        "tasks": tasks,
    }


def describe_agent(agent: Agent, tasks: list[str]) -> dict[str, Any]:
    """The ``made_by`` of a checkpoint of agent finetuning."""
    return describe_dynamics(agent.dynamics, tasks) | {"agent": agent.config.model_dump(mode="json")}


def build_agent(made_by: dict[str, Any]) -> Agent:
    """A new agent of the sizes in ``made_by`` (see ``describe_agent``)."""
    dynamics = _build_dynamics(made_by)
    return Agent(parse_config(AgentConfig, made_by["agent"], "checkpoint"), dynamics, tasks=len(made_by["tasks"]))


def _build_dynamics(made_by: dict[str, Any]) -> Dynamics:
    latents, channels = made_by["latent_shape"]
    space = TypeAdapter(ActionSpace).validate_python(made_by["action_space"])
    config = parse_config(DynamicsConfig, made_by["dynamics"], "checkpoint")
    return Dynamics(config, latents=latents, channels=channels, action_space=space)


def restore_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The trained tokenizer, frozen, in evaluation mode."""
    _require(checkpoint, "tokenizer")
    with _edited(checkpoint):
        rows, columns = checkpoint.made_by["frame_shape"]
        tokenizer = Tokenizer(parse_config(TokenizerConfig, checkpoint.made_by["tokenizer"], str(checkpoint.path)), (rows, columns))
        _load(tokenizer, checkpoint.weights(), "tokenizer.")
    return tokenizer.requires_grad_(False).eval()


def restore_dynamics(checkpoint: Checkpoint) -> Dynamics:
    """The dynamics of a checkpoint of dynamics pretraining, frozen, in evaluation mode."""
    _require(checkpoint, "dynamics")
    with _edited(checkpoint):
        dynamics = _build_dynamics(checkpoint.made_by)
        _load(dynamics, checkpoint.weights(), "dynamics.")
    return dynamics.requires_grad_(False).eval()


def restore_agent(checkpoint: Checkpoint) -> Agent:
    """The agent of a checkpoint of agent finetuning, frozen, in evaluation mode."""
    _require(checkpoint, "agent")
    with _edited(checkpoint):
        agent = build_agent(checkpoint.made_by)
        _load(agent, checkpoint.weights(), "agent.")
    return agent.requires_grad_(False).eval()


def begin_agent(checkpoint: Checkpoint, config: AgentConfig) -> Agent:
    """An agent with new heads of the sizes of ``config`` on the dynamics of a checkpoint of dynamics pretraining."""
    _require(checkpoint, "dynamics")
    with _edited(checkpoint):
        agent = build_agent(checkpoint.made_by | {"agent": config.model_dump(mode="json")})
        _load(agent.dynamics, checkpoint.weights(), "dynamics.")
    return agent


def load_heads(agent: Agent, checkpoint: Checkpoint) -> Agent:
    """``agent`` with the policy and value heads of a checkpoint of imagination training."""
    weights = checkpoint.weights()
    with _edited(checkpoint):
        _load(agent.policy, weights, "policy.")
        _load(agent.value, weights, "value.")
    return agent


@contextmanager
def _edited(checkpoint: Checkpoint) -> Iterator[None]:
    """Says which checkpoint it is whose configuration cannot be built or does not fit its weights."""
    try:
        yield
    except UserError as error:
        raise error if str(checkpoint.path) in str(error) else UserError(f"checkpoint {checkpoint.path}: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()[:40])
        raise UserError(
            f"checkpoint {checkpoint.path}: the configuration in its manifest.json and its weights do not fit "
            f"({type(error).__name__}: {reason}); redo the stage with --from"
        ) from error


def _load(module: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    module.load_state_dict({name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)})


def _require(checkpoint: Checkpoint, part: str) -> None:
    if part not in checkpoint.made_by:
        raise UserError(
            f"checkpoint {checkpoint.path}: holds {sorted(checkpoint.made_by)}, no {part}; name a checkpoint of the right stage"
        )
