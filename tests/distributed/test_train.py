"""How a supervised stage ends: whole, or with an error that says how to go on."""

from pathlib import Path

import pytest

from dreamer_ray.config_file import load_config
from dreamer_ray.distributed.train import figures, starts
from dreamer_ray.errors import RunError
from dreamer_ray.recipe import Recipe
from dreamer_ray.training.checkpoint import save_checkpoint

TOY = Path(__file__).parents[2] / "configs/crafter/toy.yaml"


def test_a_stage_whose_last_checkpoint_is_an_earlier_one_is_not_done(tmp_path):
    checkpoint = save_checkpoint(tmp_path, 5, made_by={}, tensors={})
    with pytest.raises(RunError, match="stage dynamics: its workers ended at step 5 of 10 without an error; run again"):
        figures("dynamics", checkpoint, 10)
    assert figures("dynamics", checkpoint, 5) == {"checkpoint": checkpoint.fingerprint, "steps": 5}


@pytest.mark.parametrize(("seconds", "attempts"), [(0, 15), (450, 15), (1800, 60)])
def test_workers_look_for_room_for_a_while_longer_than_a_cluster_takes_to_grow(seconds, attempts):
    assert starts(load_config(Recipe, TOY, [f"cluster.wait_seconds={seconds}"])) == attempts
