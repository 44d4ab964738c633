"""A reproduction as Ray tasks is the one in a single process, world for world."""

import json
import subprocess
import sys

import pytest

from dreamer_ray.cli.reproduce import shipped_recipe

SCRIPT = """
import sys
from pathlib import Path
from dreamer_ray.loopback import bind_ray_to_loopback
bind_ray_to_loopback()
from dreamer_ray.config_file import load_config
from dreamer_ray.distributed.reproduce import reproduce_on_ray
from dreamer_ray.in_process import Deadline
from dreamer_ray.recipe import Recipe
from dreamer_ray.reproduce import Reproduction, reproduce

place, folder, path, *overrides = sys.argv[1:]
reproduction = Reproduction(load_config(Recipe, path, overrides), Path(folder), 2)
if place == "ray":
    reproduce_on_ray(reproduction)
else:
    reproduce(reproduction, Deadline())
"""
OVERRIDES = [
    "data.crafter={size: 72, episodes: 5, holdout_episodes: 5, length: 100, noise: [0.0]}",
    "tokenizer.fit={steps: 6, optimizer: {learning_rate: 1e-3}}",
    "tokenizer.batches.batch_size=4",
    "dynamics.fit={steps: 4, optimizer: {learning_rate: 1e-3}}",
    "agent.fit={steps: 4, optimizer: {learning_rate: 1e-3}}",
    "agent.batches.batch_size=4",
    "imagination.contexts={batch_size: 4, length: 8, relevant_fraction: 1.0}",
    "imagination.dreams_per_call=2",
    "imagination.fit={steps: 2, optimizer: {learning_rate: 1e-3}, ema: 0.0}",
    "evaluation={worlds: 4, worlds_per_call: 2, length: 30, windows: 4, pictures: 16}",
    "cluster={threads: 1, object_store_mb: 100, cpus: 4, dashboard: false}",
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_has_the_same_outcome_in_every_world_on_ray_and_in_one_process(tmp_path):
    for place in ("ray", "here"):
        line = [sys.executable, "-c", SCRIPT, place, str(tmp_path / place), str(shipped_recipe("imagination", "cpu")), *OVERRIDES]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    here, there = (json.loads((tmp_path / place / "reproduce.json").read_text()) for place in ("here", "ray"))
    assert here["episodes"] == there["episodes"]
    assert here["effects"] == there["effects"]
    assert {*here["episodes"]["imagination"]} == {"0", "1"}
