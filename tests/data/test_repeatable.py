"""What must be the same in any process: the plan of batches, a recorded episode and the file that holds it."""

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from dreamer_ray.data.batches import BatchConfig, BatchPlan
from dreamer_ray.data.crafter import EpisodePlan, RecordConfig, record_episode, shard_schema
from dreamer_ray.data.existing_shards import existing_shard
from dreamer_ray.data.shards import commit_manifest, open_shards, write_shard

BATCHES = {
    "batch_size": 4, "length": 3, "long_length": 5, "long_batch_size": 2, "long_fraction": 0.3, "relevant_fraction": 0.5, "seed": 7
}  # fmt: skip
STEPS = 20
CONFIG = RecordConfig(episodes=1, holdout_episodes=1, length=25)
PLAN = EpisodePlan("train-000000", "train", 5, 0.3)

ELSEWHERE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from dreamer_ray.data.batches import BatchConfig, BatchPlan
from dreamer_ray.data.crafter import EpisodePlan, RecordConfig, record_episode, shard_schema
from dreamer_ray.data.shards import open_shards, write_shard

asked = json.loads(sys.argv[1])
source = open_shards(Path(asked["set"]))
plan = BatchPlan(source, BatchConfig(**asked["batches"]), steps=asked["steps"], tasks=source.schema.tasks)
config = RecordConfig.model_validate_json(asked["config"])
other = record_episode(config, EpisodePlan("train-000009", "train", 9, 0.0))
entry = write_shard(Path(asked["into"]), "a.parquet", [record_episode(config, EpisodePlan(**asked["plan"]))], shard_schema(config))
print(json.dumps({"refs": [[asdict(ref) for ref in plan.refs(step)] for step in range(asked["steps"])], "entry": entry.model_dump_json()}))
"""


@pytest.mark.slow
def test_another_process_plans_and_records_the_same(tmp_path, sets):
    """There another episode was recorded before, and hashes of texts differ."""
    source = sets.make(tmp_path / "set", [9, 12, 7], events={0: [(4, 1)], 1: [(8, 0), (2, 2)]})
    plan = BatchPlan(source, BatchConfig(**BATCHES), steps=STEPS, tasks=source.schema.tasks)
    asked = {"set": str(tmp_path / "set"), "batches": BATCHES, "steps": STEPS, "config": CONFIG.model_dump_json()}
    asked |= {"plan": asdict(PLAN), "into": str(tmp_path / "there")}
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, json.dumps(asked)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["refs"] == [[asdict(ref) for ref in plan.refs(step)] for step in range(STEPS)]
    here = write_shard(tmp_path / "here", "a.parquet", [record_episode(CONFIG, PLAN)], shard_schema(CONFIG))
    assert found["entry"] == here.model_dump_json()


def test_a_recorded_file_cut_short_is_recorded_again_the_same(tmp_path):
    schema = shard_schema(CONFIG)
    entry = write_shard(tmp_path, "a.parquet", [record_episode(CONFIG, PLAN)], schema)
    path = tmp_path / "a.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert existing_shard(tmp_path, "a.parquet", schema, [PLAN.name]) is None
    episode = record_episode(CONFIG, PLAN)
    assert write_shard(tmp_path, "a.parquet", [episode], schema) == entry
    commit_manifest(tmp_path, schema, [entry], made_by={}, parents={})
    found = open_shards(tmp_path)
    found.verify()
    np.testing.assert_array_equal(found.read_episode(0).frames, episode.frames)
    np.testing.assert_array_equal(found.read_episode(0).actions["action"], episode.actions["action"])


def test_another_seed_is_another_episode():
    one, other = (record_episode(CONFIG, EpisodePlan("a", "train", seed, 0.3)).frames for seed in (5, 6))
    assert not np.array_equal(one[0], other[0])
