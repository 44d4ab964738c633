"""Recorded play of a Gymnasium environment, as a LeRobot data set: which episodes there are, and how they are played.

    episode plan --played, a file an episode--> .FOLDER.episodes/ --written in order--> FOLDER

Killed and started again it goes on with the first episode that has no file. Equal plans give equal data.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.data.crafter import HELDOUT_SEEDS, SEEDS_A_SET
from dreamer_ray.data.layout import PictureLayout, picture_maker
from dreamer_ray.data.lerobot_writer import LeRobotFormat, LeRobotWriter, RobotEpisode
from dreamer_ray.envs.gymnasium_env import EnvironmentConfig, PictureEnv
from dreamer_ray.envs.pendulum_player import swing_up
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.run_folder import write_json

Script = Callable[[np.ndarray], np.ndarray]
SCRIPTS: dict[str, Script] = {"Pendulum-v1": swing_up}
"""From the environment's own observation to its own action."""
PLAN = "recording.json"
"""In the data set's folder: how it was recorded, and each episode's seed, noise and first step at which the task was done."""


class EnvironmentRecording(Config):
    """The data set that is recorded."""

    environment: EnvironmentConfig
    task: str
    """The one that ``next.success`` tells of: an episode of a LeRobot data set has one task."""
    length: int = Field(gt=0)
    """Step limit of an episode."""
    episodes: int = Field(gt=0, le=HELDOUT_SEEDS)
    noise: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=1)
    """Shares of random actions; episodes take them in turn, so that the data holds failures as well as successes."""
    seed: int = Field(default=0, ge=0, lt=1000)

    def episode(self, number: int) -> tuple[int, float]:
        """Seed and noise of an episode. Seeds are below those that evaluation plays, or far above them."""
        return self.seed * SEEDS_A_SET + number, self.noise[number % len(self.noise)]


def camera(config: EnvironmentConfig) -> Callable[[np.ndarray], np.ndarray]:
    """From what the environment draws to its pictures of ``config.size``, for one environment."""
    return picture_maker(PictureLayout(shape=config.size, fit="stretch"))


def record_environment(plan: EnvironmentRecording, folder: Path, *, on_episode: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Plays what is missing of ``plan`` and writes it to ``folder``; returns what its file ``PLAN`` says.

    ``on_episode`` hears how many are done.

    Raises ``UserError`` where the environment cannot be played, no script is known for it, or ``folder`` holds something else.
    """
    folder = folder.absolute()
    if folder.exists():
        return _existing(plan, folder)
    env = PictureEnv(plan.environment, tasks=[plan.task], length=plan.length, picture=camera(plan.environment))
    script = _script(plan, env)
    played = folder.with_name(f".{folder.name}.episodes")
    _begin(plan, played)
    files = [played / f"episode-{number:06d}.npz" for number in range(plan.episodes)]
    for number, file in enumerate(files):
        if not file.exists():
            _save(file, record_episode(env, script, *plan.episode(number)))
        if on_episode is not None:
            on_episode(number + 1)
    env.close()
    made = _write(plan, folder, files, env)
    shutil.rmtree(played)
    return made


def record_episode(env: PictureEnv, script: Script, seed: int, noise: float) -> dict[str, np.ndarray]:
    """Plays one episode to its end; the fields of a ``RobotEpisode``, the same ones for the same seed in any process."""
    rng = np.random.default_rng([seed, 1])
    frame, info = env.reset(seed=seed)
    rows: dict[str, list] = {"frames": [], "actions": [], "rewards": [], "success": []}
    terminated = truncated = False
    while not (terminated or truncated):
        at_random = rng.random() < noise
        action = rng.uniform(env.box.low, env.box.high) if at_random else script(info["state"])
        action = env.native(action)
        rows["frames"].append(frame)
        rows["actions"].append(action)
        frame, reward, terminated, truncated, info = env.step(action)
        rows["rewards"].append(reward)
        rows["success"].append(info["done"][0])
    kinds = {"frames": np.uint8, "actions": np.float32, "rewards": np.float32, "success": np.bool_}
    return {name: np.array(rows[name], kind) for name, kind in kinds.items()} | {"terminated": np.array(terminated)}


def _script(plan: EnvironmentRecording, env: PictureEnv) -> Script:
    name = plan.environment.id
    if any(plan.noise) and not (np.isfinite(env.box.low) & np.isfinite(env.box.high)).all():
        raise UserError(f"environment {name}: its actions {env.box} have no bounds, so none can be drawn at random; use --noise 0")
    if name in SCRIPTS:
        return SCRIPTS[name]
    if min(plan.noise) < 1:
        raise UserError(f"environment {name}: no script plays it (there are scripts for {', '.join(SCRIPTS)}); --noise 1 plays at random")
    return lambda _: np.zeros(env.box.shape, np.float32)


def _begin(plan: EnvironmentRecording, played: Path) -> None:
    """Makes the folder of episodes. Raises ``UserError`` where it is that of another plan."""
    if (played / PLAN).exists() and (old := _read(played / PLAN)) != plan.model_dump(mode="json"):
        changed = [key for key, value in plan.model_dump(mode="json").items() if old.get(key) != value]
        raise UserError(
            f"{played}: a recording with another {', '.join(changed)} was begun there; remove that folder or use those values again"
        )
    write_json(played / PLAN, plan.model_dump(mode="json"))


def _existing(plan: EnvironmentRecording, folder: Path) -> dict[str, Any]:
    if (folder / PLAN).is_file() and (made := _read(folder / PLAN)).get("plan") == plan.model_dump(mode="json"):
        return made
    raise UserError(f"data set {folder}: is there already, and not recorded with these values; name another folder or remove it")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove the folder {path.parent}") from error
    return values if isinstance(values, dict) else {}


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    partial = file.with_name(f".{file.name}")
    try:
        with partial.open("wb") as opened:
            np.savez_compressed(opened, allow_pickle=False, **arrays)
        partial.replace(file)
    except OSError as error:
        raise RunError(f"{file}: not written ({error.strerror}); make room and run again: what was played is kept") from error


def _write(plan: EnvironmentRecording, folder: Path, files: list[Path], env: PictureEnv) -> dict[str, Any]:
    names = tuple(f"action_{number}" for number in range(env.box.shape[0]))
    form = LeRobotFormat(fps=env.fps, frame_shape=plan.environment.size, action_names=names, robot=plan.environment.id)
    made: dict[str, Any] = {"plan": plan.model_dump(mode="json"), "episodes": []}
    with LeRobotWriter(folder, form) as writer:
        for number, file in enumerate(files):
            with np.load(file, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            terminated, (seed, noise) = bool(arrays.pop("terminated")), plan.episode(number)
            writer.add(RobotEpisode(**arrays, terminated=terminated, task=plan.task))
            steps = np.flatnonzero(arrays["success"])
            first = int(steps[0]) + 1 if len(steps) else None
            made["episodes"].append({"seed": seed, "noise": noise, "steps": len(arrays["success"]), "first_done": first})
        write_json(writer.partial / PLAN, made)
    return made
