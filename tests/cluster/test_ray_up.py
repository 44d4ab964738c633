"""The YAMLs for `ray up`: Ray's own checks of them, and what these leave out."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from dreamer_ray.cluster_section import REPLICA_RESOURCE
from dreamer_ray.distributed.submission import EXCLUDES

ROOT = Path(__file__).parents[2]
FILES = ["aws", "gcp", "on-premise"]
ASKED_FOR = {"CPU", "GPU", REPLICA_RESOURCE}
"""By the code; an actor asks for nothing else."""


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())


def faults(config: dict) -> list[str]:
    """What is wrong with a cluster; raises what Ray's own checks raise."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    types = prepared["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != prepared["head_node_type"] or len(types) == 1}
    found = [f"{name}: min_workers > max_workers" for name, kind in workers.items() if kind["min_workers"] > kind["max_workers"]]
    if sum(kind["max_workers"] for kind in workers.values()) > prepared["max_workers"]:
        found.append("max_workers of the cluster is less than those of its node types together")
    if not prepared.get("idle_timeout_minutes"):
        found.append("idle nodes are kept for ever")
    starts = [command for who in ("head", "worker") for command in prepared[f"{who}_start_ray_commands"] if "ray start" in command]
    declared = [text for command in starts for text in re.findall(r'--resources="((?:[^"\\]|\\.)*)"', command)]
    named = {name for text in declared for name in re.findall(r'\\"(\w+)\\":', text)}
    named |= {name for kind in types.values() for name in kind["resources"]}
    found += [f"nobody asks for the resource {name}" for name in sorted(named - ASKED_FOR)]
    found += [f"without a token: {command}" for command in starts if not re.search(r"(^|[;&] *)RAY_AUTH_MODE=token ray start", command)]
    found += [f"open dashboard: {command}" for command in starts if "--head" in command and "--dashboard-host=127.0.0.1" not in command]
    found += [f"work on the head: {command}" for command in starts if "--head" in command and "--num-cpus=0" not in command]
    if prepared["file_mounts"].get("~/.ray/auth_token") != "~/.ray/auth_token":
        found.append("the token does not get to the nodes")
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_cluster_of_ray_up_is_without_fault(name):
    assert faults(read(name)) == []


@pytest.mark.parametrize("name", FILES)
def test_nodes_get_the_tried_ray(name):
    tried = re.search(r"^ray==\S+$", (ROOT / "docker" / "constraints-cpu.txt").read_text(), re.MULTILINE).group()
    pins = re.findall(r"ray\[[\w,]+\]==[\d.]+", " ".join(read(name)["setup_commands"]))
    assert [re.sub(r"\[.*\]", "", pin) for pin in pins] == [tried]


@pytest.mark.parametrize("name", FILES)
def test_neither_runs_nor_recordings_travel_to_the_nodes(name):
    assert {"/runs", "/data"} <= set(EXCLUDES) & set(read(name)["rsync_exclude"])


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_every_node_sees_a_new_checkpoint_of_another_within_seconds(name):
    (options,) = re.findall(r"mount -t nfs4? -o (\S+)", " ".join(read(name)["setup_commands"]))
    assert {"hard", "actimeo=1"} <= set(options.split(","))


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_learners_replicas_and_data_have_nodes_of_their_own(name):
    types = read(name)["available_node_types"]
    assert set(types) == {"head", "learner", "replica", "data"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert {kind for kind in types if REPLICA_RESOURCE in types[kind]["resources"]} == {"replica"}
    assert types["learner"]["min_workers"] > 0
    assert types["replica"]["min_workers"] == types["data"]["min_workers"] == 0
    spot = {kind for kind in types if "spot" in str(types[kind]["node_config"]).lower()}
    assert spot == {"replica"}


def replace(config: dict, path: str, old: str, new: str) -> None:
    """In the text or the list of texts at ``path``; fails where there is nothing to replace."""
    texts = config[path]
    assert any(old in text for text in texts)
    config[path] = [text.replace(old, new) for text in texts]


def test_a_misspelt_key_is_found():
    config = read("aws")
    config["idle_timeout_minute"] = config.pop("idle_timeout_minutes")
    with pytest.raises(ValidationError, match="idle_timeout_minute"):
        faults(config)


def test_a_misspelt_key_of_a_node_type_is_found():
    config = read("gcp")
    config["available_node_types"]["data"]["max_worker"] = 3
    with pytest.raises(ValidationError, match="max_worker"):
        faults(config)


@pytest.mark.parametrize("name", FILES)
def test_a_text_for_a_number_is_found(name):
    config = read(name)
    config["idle_timeout_minutes"] = "10"
    with pytest.raises(ValidationError, match="'10' is not of type 'number'"):
        faults(config)


def test_a_head_that_is_no_node_type_is_found():
    config = read("aws")
    config["head_node_type"] = "haed"
    with pytest.raises(ValueError, match="head_node_type"):
        faults(config)


def test_more_workers_at_least_than_at_most_are_found():
    config = read("aws")
    config["available_node_types"]["replica"] |= {"min_workers": 2, "max_workers": 1}
    assert faults(config) == ["replica: min_workers > max_workers"]


def test_more_machines_at_least_than_at_most_are_found():
    config = read("on-premise") | {"max_workers": 2}
    with pytest.raises(ValueError, match="max_workers"):
        faults(config)


def test_a_cluster_too_small_for_its_groups_is_found():
    assert faults(read("gcp") | {"max_workers": 16}) == ["max_workers of the cluster is less than those of its node types together"]


def test_a_resource_that_nobody_asks_for_is_found():
    config = read("aws")
    config["available_node_types"]["replica"]["resources"] = {"replicas": 2}
    assert faults(config) == ["nobody asks for the resource replicas"]


def test_a_resource_that_nobody_asks_for_is_found_in_a_command():
    config = read("on-premise")
    replace(config, "worker_start_ray_commands", "replica", "dreams")
    assert faults(config) == ["nobody asks for the resource dreams"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("who", ["head", "worker"])
def test_authentication_switched_off_is_found(name, who):
    config = read(name)
    replace(config, f"{who}_start_ray_commands", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled")
    assert [fault.split(":")[0] for fault in faults(config)] == ["without a token"]


@pytest.mark.parametrize("name", FILES)
def test_a_token_left_at_home_is_found(name):
    config = read(name)
    del config["file_mounts"]["~/.ray/auth_token"]
    assert faults(config) == ["the token does not get to the nodes"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("old", "fault"), [("--dashboard-host=127.0.0.1", "open dashboard"), ("--num-cpus=0", "work on the head")])
def test_an_open_or_working_head_is_found(name, old, fault):
    config = read(name)
    replace(config, "head_start_ray_commands", old, "")
    assert [found.split(":")[0] for found in faults(config)] == [fault]
