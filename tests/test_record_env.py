"""``dreamer-ray record-env`` and the recipe of the robot: what is recorded is what the recipe reads and plays."""

import logging
from pathlib import Path

import numpy as np
import pytest

from dreamer_ray.cli.main import main
from dreamer_ray.config_file import load_config
from dreamer_ray.domain import domain_of
from dreamer_ray.recipe import Recipe
from dreamer_ray.types import Continuous

ROOT = Path(__file__).parents[1]
SAMPLE, CRAFTER = ROOT / "configs" / "robot" / "sample.yaml", ROOT / "configs" / "crafter" / "tiny.yaml"


@pytest.fixture(autouse=True)
def _own_log():
    """The command line puts its handlers on the package's log."""
    log = logging.getLogger("dreamer_ray")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.level, log.propagate = before


def record(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["record-env", *map(str, arguments)])
    return end.value.code


def test_two_commands_agree_on_the_data_and_on_the_world(tmp_path, capsys):
    path = f"data.recordings.path={tmp_path / 'set'}"
    assert record(SAMPLE, "--episodes", 5, path) == 0
    said = capsys.readouterr().err
    assert "noise 0: 1 of 1 episodes reach 'upright'" in said and "5 episodes, 500 steps" in said
    domain = domain_of(load_config(Recipe, SAMPLE, [path]))
    assert (domain.action_space, domain.tasks, domain.ladder) == ({"action": Continuous(size=1)}, ("upright",), ("upright",))
    assert domain.worlds is not None
    world = domain.worlds.make()
    frame, info = world.reset(seed=0)
    assert frame.shape == (*domain.frame_shape, 3) and info["events"].tolist() == [0]
    assert world.step(np.array([1.0]))[3] is False


def test_where_it_goes_and_what_is_played_can_be_chosen(tmp_path, capsys):
    chosen = "--to", tmp_path / "set", "--episodes", 2, "--noise", "1", "--seed", 3, "evaluation.length=5"
    assert record(SAMPLE, *chosen) == 0
    assert record(SAMPLE, *chosen) == 0
    assert "2 episodes, 10 steps" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CRAFTER,), "has no evaluation.environment, which says what is to be played"),
        ((SAMPLE, "--task", "balanced"), "no rule for the task 'balanced'; there are rules for 'upright'"),
        ((SAMPLE, "--episodes", "0"), "--episodes 0: input should be greater than 0"),
        ((SAMPLE, "--noise", "2"), "--noise 2.0: input should be less than or equal to 1"),
        ((SAMPLE, "--noise", "much"), "much: expected numbers from 0 to 1"),
        ((SAMPLE, "evaluation.environment.id=NoSuchThing-v0"), "NoSuchThing-v0: cannot be made"),
        ((SAMPLE, "evaluation.environment.id=MountainCarContinuous-v0"), "no script plays it"),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, arguments, message):
    assert record(*arguments, "--to", tmp_path / "set") == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_world_without_a_rule_for_a_recorded_task_is_refused(tmp_path):
    assert record(SAMPLE, "--to", tmp_path / "set", "--episodes", 1, "evaluation.length=5") == 0
    rule = "evaluation.environment.tasks=[{kind: reward, name: other, least: 0.0}]"
    recipe = load_config(Recipe, SAMPLE, [f"data.recordings.path={tmp_path / 'set'}", rule])
    with pytest.raises(Exception, match="no rule for the task 'upright'; there are rules for 'other'"):
        domain_of(recipe)
