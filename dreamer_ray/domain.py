"""What a recipe is about: actions, tasks, pictures, and worlds to play in where there are any. Nothing behind the data knows more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dreamer_ray.data.action_names import known_names
from dreamer_ray.data.minerl import CHOICES, MINERL_ACTIONS
from dreamer_ray.data.minerl import KEYS as MINERL_KEYS
from dreamer_ray.data.open_source import open_sources, shared_actions, shared_tasks
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.vpt_actions import KEYS as VPT_KEYS
from dreamer_ray.data.vpt_actions import VPT_ACTIONS
from dreamer_ray.envs.crafter import ACTION_SPACE, ACTIONS, TASKS, CrafterConfig, CrafterWorlds
from dreamer_ray.errors import UserError
from dreamer_ray.evaluation.episodes import Worlds
from dreamer_ray.evaluation.gymnasium_worlds import GymnasiumWorlds
from dreamer_ray.phases.cloning import FinetuningConfig
from dreamer_ray.recipe import Recipe
from dreamer_ray.types import ActionSpace, Categorical, Continuous

TILES_A_SIDE, MOST_SHOWN = 9, 40
VPT_NAMES, MINERL_NAMES = {"keys": VPT_KEYS}, {"keys": MINERL_KEYS, **CHOICES}
"""Names of keys and choices by component."""


@dataclass(frozen=True)
class Domain:
    """What all phases, the evaluation and the report must know of the data."""

    action_space: ActionSpace
    """Empty where no action was recorded."""
    tasks: tuple[str, ...]
    """Names of the columns of events, and the prompts."""
    ladder: tuple[str, ...]
    """The tasks in the order in which an agent is to achieve them, which make a clip task-relevant."""
    frame_shape: tuple[int, int]
    """Rows and columns of a picture."""
    tile: int
    """Side of the squares, in pixels, of which those that changed are looked at alone."""
    worlds: Worlds | None = None
    """Where agents are played; None where there are only recordings."""
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the keys or choices of a component, where known."""
    null_choices: Mapping[str, int] = field(default_factory=dict)
    """The choice that does nothing, by component, where it is known."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """Shares of worlds in which behaviour cloning is to achieve a task, of recipes that are held to some."""

    @property
    def countable(self) -> dict[str, tuple[str, ...]]:
        """The components whose keys or choices are few enough to be shown one by one, with their names."""
        shown = {name: part for name, part in self.action_space.items() if not isinstance(part, Continuous) and part.size <= MOST_SHOWN}
        prefix = {name: f"{name} " if len(shown) > 1 or name not in self.choices else "" for name in shown}
        words = {name: self.choices.get(name) or range(part.size) for name, part in shown.items()}
        return {name: tuple(f"{prefix[name]}{word}" for word in words[name]) for name in shown}

    @property
    def rungs(self) -> dict[str, int]:
        """Where among the tasks each task of the ladder stands."""
        return {task: self.tasks.index(task) for task in self.ladder}


def domain_of(recipe: Recipe, schema: ShardSchema | None = None) -> Domain:
    """What ``recipe`` is about: by the ``schema`` of its shards, which is all that is needed where they are there, else by its sources.

    Raises ``UserError`` where a source cannot be opened, or has not what the sections of the recipe need.
    """
    if recipe.data.crafter is not None:
        domain = _crafter(recipe, CrafterConfig(size=recipe.data.crafter.size, length=recipe.evaluation.length))
    else:
        assert recipe.data.recordings is not None
        domain = _recorded(recipe.data.recordings, schema)
        domain = replace(domain, worlds=_worlds(recipe, recipe.data.recordings, domain))
        _refuse_what_is_not_recorded(recipe, domain)
    if recipe.agent is not None:
        with_null_choices(recipe.agent.finetuning, domain)
    return domain


def _crafter(recipe: Recipe, world: CrafterConfig) -> Domain:
    assert recipe.data.crafter is not None
    ladder = recipe.data.crafter.ladder
    return Domain(
        action_space=ACTION_SPACE,
        tasks=TASKS,
        ladder=ladder,
        frame_shape=recipe.data.frame_shape,
        tile=world.size // TILES_A_SIDE,
        worlds=CrafterWorlds(world, ladder),
        choices={"action": ACTIONS},
        null_choices={"action": ACTIONS.index("noop")},
        targets={task: share for task, share in {"collect_wood": 0.6, "place_table": 0.2}.items() if task in ladder},
    )


def _recorded(config: RecordingsConfig, schema: ShardSchema | None) -> Domain:
    if schema is None:
        sources = open_sources(config)
        space, tasks = shared_actions(config, sources), shared_tasks(config, sources)
    else:
        space, tasks = schema.action_space, schema.tasks
    nulls = {name: null for name, part in space.items() if (null := known_names(name, part).null) is not None}
    if played := space == ACTION_SPACE and tasks == TASKS:
        nulls |= {"action": ACTIONS.index("noop")}
    return Domain(
        action_space=space,
        tasks=tasks,
        ladder=config.ladder or tasks,
        frame_shape=config.layout.shape,
        tile=max(1, round(min(config.layout.shape) / TILES_A_SIDE)),
        choices={"action": ACTIONS} if played else VPT_NAMES if space == VPT_ACTIONS else MINERL_NAMES if space == MINERL_ACTIONS else {},
        null_choices=nulls,
    )


def with_null_choices(config: FinetuningConfig, domain: Domain) -> FinetuningConfig:
    """``config`` with all choices of ``domain`` that do nothing, where they matter. Raises ``UserError`` where one is not known."""
    if config.null_weight == 1:
        return config
    known, where = {**domain.null_choices, **config.null_choices}, f"agent.finetuning.null_weight = {config.null_weight:g}"
    if wrong := [name for name in config.null_choices if not isinstance(domain.action_space.get(name), Categorical)]:
        raise UserError(f"agent.finetuning.null_choices: {', '.join(wrong)} is no component with choices")
    for name, part in domain.action_space.items():
        if isinstance(part, Continuous):
            raise UserError(f"{where}: {name} is continuous, and which of its values do nothing is not known; leave the key out")
        if isinstance(part, Categorical) and not 0 <= known.get(name, -1) < part.size:
            says = f"its number {known[name]} is none of 0 .. {part.size - 1}" if name in known else "it is not known"
            remedy = f"write agent.finetuning.null_choices.{name}=NUMBER, or leave null_weight out"
            raise UserError(f"{where}: which choice of {name} does nothing? {says}; {remedy}")
    return config.model_copy(update={"null_choices": known})


def _worlds(recipe: Recipe, recordings: RecordingsConfig, domain: Domain) -> Worlds | None:
    """Those of the environment in which the recordings were made, where the recipe names it."""
    environment = recipe.evaluation.environment
    if environment is None:
        return None
    environment.rules(domain.tasks)
    return GymnasiumWorlds(environment, recordings, domain.tasks, domain.ladder, recipe.evaluation.length)


def _refuse_what_is_not_recorded(recipe: Recipe, domain: Domain) -> None:
    if unknown := [task for task in domain.ladder if task not in domain.tasks]:
        raise UserError(f"data.recordings.ladder: {', '.join(unknown)} is no task of the sources ({', '.join(domain.tasks) or 'none'})")
    missing = [name for name, found in (("actions", domain.action_space), ("tasks", domain.tasks)) if not found]
    if recipe.agent is not None and missing:
        raise UserError(
            f"agent: learns from recorded actions and tasks, and the sources have no {' and no '.join(missing)}; "
            "leave the sections agent and imagination out to train the world model alone"
        )
    if recipe.cluster.evaluators and domain.worlds is None:
        raise UserError(f"cluster.evaluators = {recipe.cluster.evaluators}: there are recordings but no world to play in; set it to 0")
