"""The manifests for KubeRay: the rules of its CRD for the fields that are used here, and how Ray's autoscaler reads them.

The CRD itself is third-party and not kept here: pod templates are checked as far as they are listed, fields beyond these are refused.
"""

import copy
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import validate_config

from dreamer_ray.cluster_section import REPLICA_RESOURCE

ROOT = Path(__file__).parents[2]
FILES = ["kuberay-cluster", "kuberay-job"]
ASKED_FOR = {"CPU", "GPU", REPLICA_RESOURCE}


def record(required: str = "", **properties: object) -> dict:
    """An object with these properties and no others."""
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


TEXT, WHOLE, FLAG = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
CONTAINER = record(
    "name image resources",
    name=TEXT,
    image=TEXT,
    resources=record("limits requests", limits=TEXTS, requests=TEXTS),
    volumeMounts={"type": "array", "items": record("name mountPath", name=TEXT, mountPath=TEXT)},
)
POD = record(
    "containers",
    containers={"type": "array", "items": CONTAINER, "minItems": 1},
    securityContext=record("runAsNonRoot", runAsNonRoot=FLAG, runAsUser=WHOLE, runAsGroup=WHOLE, fsGroup=WHOLE),
    nodeSelector=TEXTS,
    tolerations={"type": "array", "items": record(key=TEXT, operator={"enum": ["Equal", "Exists"]}, value=TEXT, effect=TEXT)},
    volumes={"type": "array", "items": record("name", name=TEXT, persistentVolumeClaim=record("claimName", claimName=TEXT))},
)
TEMPLATE = record("spec", spec=POD)
HEAD = record("template rayStartParams", template=TEMPLATE, rayStartParams=TEXTS)
GROUP = record(
    "groupName replicas minReplicas maxReplicas template rayStartParams",
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    rayStartParams=TEXTS,
    resources=TEXTS,
    template=TEMPLATE,
)
CLUSTER = record(
    "rayVersion enableInTreeAutoscaling autoscalerOptions authOptions headGroupSpec workerGroupSpecs",
    rayVersion=TEXT,
    enableInTreeAutoscaling={"const": True},
    autoscalerOptions=record("version idleTimeoutSeconds", version={"const": "v2"}, idleTimeoutSeconds=WHOLE),
    authOptions=record("mode", mode={"const": "token"}),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": GROUP},
)
JOB = record(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=WHOLE,
    backoffLimit=WHOLE,
    rayClusterSpec=CLUSTER,
)


def manifest(kind: str, spec: dict) -> dict:
    metadata = record("name", name={"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$"})
    return record("apiVersion kind metadata spec", apiVersion={"const": "ray.io/v1"}, kind={"const": kind}, metadata=metadata, spec=spec)


RULES = {"kuberay-cluster": manifest("RayCluster", CLUSTER), "kuberay-job": manifest("RayJob", JOB)}


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())


def cluster_of(document: dict) -> dict:
    return document["spec"].get("rayClusterSpec", document["spec"])


def node_types(document: dict) -> dict:
    """How Ray's autoscaler reads the groups."""
    resource = {"metadata": {"name": "any", "namespace": "any"}, "spec": copy.deepcopy(cluster_of(document))}
    config = _derive_autoscaling_config_from_ray_cr(resource)
    validate_config(config)
    return config["available_node_types"]


def faults(name: str, document: dict) -> list[str]:
    found = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(RULES[name]).iter_errors(document)]
    if found:
        return found
    for group in cluster_of(document)["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            found.append(f"{group['groupName']}: not minReplicas <= replicas <= maxReplicas")
        if group["rayStartParams"] and group.get("resources"):
            found.append(f"{group['groupName']}: the operator wants resources or rayStartParams, not both")
    types = node_types(document)
    named = {name for kind in types.values() for name in kind["resources"]} - {"memory"}  # which Ray reads from the limits
    found += [f"nobody asks for the resource {name}" for name in sorted(named - ASKED_FOR)]
    if types["headgroup"]["resources"]["CPU"]:
        found.append("work on the head")
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_is_without_fault(name):
    assert faults(name, read(name)) == []


@pytest.mark.parametrize("name", FILES)
def test_learners_replicas_and_data_have_pods_of_their_own(name):
    types = node_types(read(name))
    assert set(types) == {"headgroup", "learner", "replica", "data"}
    assert {kind for kind in types if REPLICA_RESOURCE in types[kind]["resources"]} == {"replica"}
    assert {kind for kind in types if "GPU" in types[kind]["resources"]} == {"learner", "replica"}
    assert types["learner"]["min_workers"] > 0


def test_the_operator_is_told_the_tried_ray():
    pins = (ROOT / "docker" / "constraints-cpu.txt").read_text().splitlines()
    assert f"ray=={cluster_of(read('kuberay-cluster'))['rayVersion']}" in pins


def test_a_job_brings_the_same_cluster():
    assert cluster_of(read("kuberay-job")) == cluster_of(read("kuberay-cluster"))


def test_the_entry_point_is_a_recipe_of_the_images():
    words = read("kuberay-job")["spec"]["entrypoint"].split()
    assert words[:2] == ["dreamer-ray", "run"]
    assert words[2].startswith("/dreamer_ray/configs/")
    assert (ROOT / words[2].removeprefix("/dreamer_ray/")).is_file()


def test_the_runs_lie_in_the_claim():
    claim = read("kuberay-runs")
    assert (claim["apiVersion"], claim["kind"], claim["spec"]["accessModes"]) == ("v1", "PersistentVolumeClaim", ["ReadWriteMany"])
    spec = cluster_of(read("kuberay-job"))
    pods = [group["template"]["spec"] for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]]
    assert {volume["persistentVolumeClaim"]["claimName"] for pod in pods for volume in pod["volumes"]} == {claim["metadata"]["name"]}
    places = {mount["mountPath"] for pod in pods for container in pod["containers"] for mount in container["volumeMounts"]}
    assert len(places) == 1
    runs = read("kuberay-job")["spec"]["entrypoint"].split("--runs ")[1]
    assert Path(runs).is_relative_to(places.pop())


def test_every_image_has_the_program_that_the_probes_of_the_operator_call():
    images = re.findall(r"image: dreamer-ray:(\w+)", (ROOT / "cluster" / "kuberay-cluster.yaml").read_text())
    assert set(images) == {"cpu", "gpu"}
    for image in images:
        assert re.search(r"apt-get install [^&]* wget=", (ROOT / "docker" / f"{image}.Dockerfile").read_text()), image


@pytest.mark.parametrize("name", FILES)
def test_the_head_and_replicas_have_memory_for_a_large_world_model(name):
    spec = cluster_of(read(name))
    for pods in (spec["headGroupSpec"], group(spec, "replica")):
        (container,) = pods["template"]["spec"]["containers"]
        assert {container["resources"][kind]["memory"] for kind in ("limits", "requests")} == {"64Gi"}


def group(spec: dict, name: str) -> dict:
    return next(group for group in spec["workerGroupSpecs"] if group["groupName"] == name)


DAMAGES = {
    "misspelt key": (lambda spec: group(spec, "data").update(maxReplica=group(spec, "data").pop("maxReplicas")), "maxReplica"),
    "misspelt option": (lambda spec: spec["autoscalerOptions"].update(idleTimeoutSecond=60), "idleTimeoutSecond"),
    "text for a number": (lambda spec: group(spec, "replica").update(minReplicas="0"), "'0' is not of type 'integer'"),
    "number for a text": (lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "0 is not of type 'string'"),
    "min over max": (lambda spec: group(spec, "data").update(minReplicas=9), "data: not minReplicas <= replicas"),
    "replicas over max": (lambda spec: group(spec, "learner").update(replicas=2), "learner: not minReplicas <= replicas"),
    "unknown resource": (lambda spec: group(spec, "replica").update(resources={"replicas": "2"}), "the resource replicas"),
    "resources twice": (lambda spec: group(spec, "replica")["rayStartParams"].update({"num-cpus": "1"}), "not both"),
    "no container": (lambda spec: group(spec, "data")["template"]["spec"].update(containers=[]), "containers"),
    "authentication off": (lambda spec: spec["authOptions"].update(mode="disabled"), "'token' was expected"),
    "no authentication": (lambda spec: spec.pop("authOptions"), "'authOptions' is a required property"),
    "first autoscaler": (lambda spec: spec["autoscalerOptions"].update(version="v1"), "'v2' was expected"),
    "work on the head": (lambda spec: spec["headGroupSpec"].update(rayStartParams={}), "work on the head"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_found(name, damage):
    document = copy.deepcopy(read(name))
    hurt, message = DAMAGES[damage]
    hurt(cluster_of(document))
    assert any(message in fault for fault in faults(name, document))


@pytest.mark.parametrize(
    ("name", "key", "value"), [("kuberay-job", "apiVersion", "ray.io/v1alpha1"), ("kuberay-cluster", "kind", "RayJob")]
)
def test_another_kind_is_found(name, key, value):
    assert any(f"$.{key}" in fault for fault in faults(name, read(name) | {key: value}))
