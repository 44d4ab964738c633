"""The worlds of a Gymnasium environment for the closed loop: pictures and actions as a model trained on recordings of it knows them."""

from collections.abc import Sequence
from dataclasses import dataclass

from dreamer_ray.data.environment import camera
from dreamer_ray.data.layout import picture_maker
from dreamer_ray.data.lerobot import LeRobotSource
from dreamer_ray.data.open_source import open_sources
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.envs.gymnasium_env import EnvironmentConfig, PictureEnv
from dreamer_ray.errors import UserError


@dataclass(frozen=True)
class GymnasiumWorlds:
    """Where agents are played: see ``evaluation.episodes.Worlds``."""

    environment: EnvironmentConfig
    recordings: RecordingsConfig
    """What the model was trained on: its layout is that of the pictures, its first source knows how actions were scaled."""
    tasks: tuple[str, ...]
    """Of the data set, in its order; each has its rule in ``environment``."""
    ladder: tuple[str, ...]
    length: int
    """Step limit of an episode."""

    def make(self) -> PictureEnv:
        """A world that draws like the recorded ones and takes the model's actions ``[n]``.

        Raises ``UserError`` where the environment is not the recorded one: another rate or number of actions, a task without a rule.
        """
        source, draw, fit = self._source(), camera(self.environment), picture_maker(self.recordings.layout)
        scaling = source.scaling
        env = PictureEnv(
            self.environment,
            tasks=self.tasks,
            length=self.length,
            picture=lambda drawn: fit(draw(drawn)),
            unscaled=scaling.unscaled,
        )
        name, rate = self.environment.id, self.recordings.fps or source.fps
        if env.box.shape != (len(scaling.center),):
            raise UserError(f"environment {name}: takes actions {list(env.box.shape)}, recorded were {len(scaling.center)} numbers")
        if abs(env.fps - rate) > 0.01 * rate:
            raise UserError(
                f"environment {name}: has {env.fps} pictures a second, the recordings {rate:g}; "
                "set repeat and fps of evaluation.environment as they were when it was recorded"
            )
        return env

    def prompt(self, counts: Sequence[int]) -> int:
        """The lowest task of the ladder that was not achieved yet; the last one where all were."""
        places = [self.tasks.index(task) for task in self.ladder]
        return next((place for place in places if not counts[place]), places[-1])

    def _source(self) -> LeRobotSource:
        first = open_sources(self.recordings)[0]
        if not isinstance(first, LeRobotSource):
            kind = self.recordings.sources[0].source.kind
            raise UserError(f"evaluation.environment: wants recordings whose first source is of kind lerobot, not {kind}")
        return first
