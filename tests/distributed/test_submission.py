"""What is decided before a job is submitted: what would be uploaded, the command, what the cluster lacks."""

import json
import shlex
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package
from ray.dashboard.modules.job.pydantic_models import JobDetails

from dreamer_ray.config_file import load_config
from dreamer_ray.distributed.demand import demands, needs
from dreamer_ray.distributed.jobs import exit_code, shortages
from dreamer_ray.distributed.submission import EXCLUDES, PACKAGE_LIMIT, Submission, package_bytes, packed_files
from dreamer_ray.errors import UserError
from dreamer_ray.recipe import Recipe

ROOT = Path(__file__).parents[2]
TOY = ROOT / "configs/crafter/toy.yaml"


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_what_no_run_needs_is_left_out(tmp_path):
    kept = ["recipe.yaml", "dreamer_ray/data/shards.py", "mine/runs/notes.txt"]
    write(tmp_path, *kept, ".git/HEAD", ".venv/bin/python", "runs/toy/report.html", "data/a.mp4", "mine/__pycache__/a.pyc", ".ruff_cache/x")
    assert set(packed_files(tmp_path)) == set(kept)


def test_own_patterns_and_those_of_gitignore_count(tmp_path):
    write(tmp_path, "recipe.yaml", "films/a.mp4", "notes.txt", "secret.txt")
    (tmp_path / ".gitignore").write_text("secret.txt\n")
    assert set(packed_files(tmp_path, (*EXCLUDES, "*.mp4", "/notes.txt"))) == {"recipe.yaml", ".gitignore"}


def test_sizes_are_those_of_the_archive_that_ray_makes(tmp_path):
    write(tmp_path / "project", "recipe.yaml", *(f"films/{i}.mp4" for i in range(50)), "runs/x")
    archive = tmp_path / "package.zip"
    create_package(str(tmp_path / "project"), archive, include_gitignore=True, excludes=list(EXCLUDES))
    files = packed_files(tmp_path / "project")
    assert {entry.filename: entry.file_size for entry in ZipFile(archive).infolist()} == files
    assert package_bytes(files) == archive.stat().st_size


def test_a_clone_of_this_repository_is_small_and_whole():
    files = packed_files(ROOT)
    assert "dreamer_ray/data/shards.py" in files
    assert "configs/crafter/toy.yaml" in files
    assert package_bytes(files) < 10 * 2**20


def test_too_much_is_refused_with_the_largest_files_and_the_remedy():
    files = {f"{i}.py": 1000 for i in range(9)} | {"films/a.mp4": 90 * 2**20, "b.bin": 30 * 2**20}
    with pytest.raises(
        UserError, match=r"120 MiB in 11 files to upload, Ray takes less than 100; largest: films/a.mp4 90.0 MiB, b.bin 30.0"
    ):
        package_bytes(files)
    assert package_bytes({"a": PACKAGE_LIMIT - 1000}) < PACKAGE_LIMIT


def test_the_command_can_be_pasted():
    entrypoint = ("python", "-m", "dreamer_ray", "run", "my recipe.yaml", "--runs", "/shared", "data.crafter.noise=[0.0, 0.1]", "name=it's")
    submission = Submission("toy-1", Path(), entrypoint, {"recipe": "my recipe.yaml"}, ("*.mp4",))
    words = shlex.split(submission.command("http://127.0.0.1:8265", {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": "auto"}, wait=False))
    assert words[:5] == ["RAY_ADDRESS=", "RAY_AUTH_MODE=token", "ray", "job", "submit"]
    options, ran = words[5 : words.index("--")], words[words.index("--") + 1 :]
    assert tuple(ran) == entrypoint
    assert options.pop() == "--no-wait"
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert (given["--address"], given["--submission-id"], given["--working-dir"]) == ("http://127.0.0.1:8265", "toy-1", ".")
    assert json.loads(given["--runtime-env-json"]) == submission.runtime_env
    assert json.loads(given["--metadata-json"]) == {"recipe": "my recipe.yaml"}


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ([], (3, 0, 0)),
        (["replicas=5"], (6, 0, 0)),
        (["replicas=5", "learners=2", "evaluators=3", "gpus_per_replica=0.5"], (10, 4, 0)),
        (["workers=4", "gpus_per_worker=1", "replicas=2", "gpus_per_replica=0.5"], (6, 4, 0)),
        (["workers=8", "fewest_workers=5", "gpus_per_worker=1"], (5, 5, 0)),
        (["replicas=4", "gpus_per_replica=0.5", "cpu_replicas=3"], (8, 2, 0)),
        (["replicas=4", "gpus_per_replica=0.5", "cpu_replicas=3", "gpus_per_learner=1", "weight_transport=nccl"], (8, 3, 0)),
        (["replicas=4", "dedicated_replicas=true"], (5, 0, 4)),
        (["replicas=4", "dedicated_replicas=true", "fewest_replicas=1"], (5, 0, 1)),
    ],
)
def test_a_recipe_needs_what_its_largest_stage_takes(keys, wanted):
    shared = [
        "imagination.contexts.batch_size=32",
        "imagination.dreams_per_call=4",
        *(f"{stage}.batches.batch_size=40" for stage in ("tokenizer", "dynamics", "agent")),
    ]
    recipe = load_config(Recipe, TOY, [*shared, "dynamics.batches.long_batch_size=40", *(f"cluster.{key}" for key in keys)])
    assert tuple(needs(recipe).values()) == wanted


def test_a_stage_that_is_to_be_done_alone_needs_nothing_for_the_others():
    recipe = load_config(Recipe, TOY, ["cluster.replicas=5", "cluster.gpus_per_worker=1"])
    assert needs(recipe, only="record") == {"CPU": 5, "GPU": 0, "replica": 0}
    assert needs(recipe, only="report") == {"CPU": 0, "GPU": 0, "replica": 0}
    assert list(demands(recipe, only="dynamics")) == ["dynamics"]


def test_clips_that_are_rehearsed_need_a_loader():
    whole = load_config(Recipe, TOY, ["imagination.finetune=all", "cluster.learners=2", "cluster.replicas=2"])
    assert demands(whole)["imagination"].total("CPU") == 2 * 1.5 + 2
    assert "cluster.learners = 2 with 1.5 each and cluster.replicas = 2 with 1 each" in demands(whole)["imagination"].words("CPU")


def test_what_is_measured_beside_the_played_episodes_needs_a_cpu():
    demand = demands(load_config(Recipe, TOY, ["cluster.replicas=3"]))["evaluate"].of("CPU")
    assert demand.total("CPU") == 4
    assert demand.shortage([{"CPU": 4}]) is None
    shortage = demand.shortage([{"CPU": 3}])
    assert shortage is not None
    assert "stage evaluate needs 4 CPUs (cluster.replicas = 3 with 1 each), the cluster has 3" in shortage.need


ONE_GPU = {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("keys", "nodes", "lacking"),
    [
        (
            ["workers=2", "gpus_per_worker=2"],
            [ONE_GPU] * 4,
            "cluster.workers = 2 with 1 CPUs and 2 GPUs each on one node, the cluster holds 0",
        ),
        (
            ["workers=3", "gpus_per_worker=2"],
            [{"CPU": 8, "GPU": 3}] * 2,
            "workers = 3 with 1 CPUs and 2 GPUs each on one node, the cluster holds 2",
        ),
        (["gpus_per_worker=1"], [{"CPU": 8}, {"GPU": 1}], "workers = 1 with 1 CPUs and 1 GPUs each on one node, the cluster holds 0"),
        (
            ["workers=9", "gpus_per_worker=0.7"],
            [{"CPU": 99, "GPU": 8}],
            "cluster.workers = 9 with 1 CPUs and 0.7 GPUs each on one node, the cluster holds 8",
        ),
        (["workers=4", "gpus_per_worker=1"], [ONE_GPU] * 3, "needs 4 GPUs (cluster.workers = 4 with 1 each), the cluster has 3"),
        (["workers=4", "gpus_per_worker=1"], [ONE_GPU] * 4, None),
        (["workers=2", "gpus_per_worker=2"], [{"CPU": 2, "GPU": 4}, {"CPU": 1}], None),
        (["workers=2"], [{"CPU": 1}] * 3, None),
        (["workers=10", "gpus_per_worker=0.1"], [{"CPU": 15, "GPU": 1}], None),
    ],
)
def test_a_node_holds_a_worker_whole_or_the_stage_is_refused_with_numbers(keys, nodes, lacking):
    sizes = [f"{stage}.batches.{size}=360" for stage in ("tokenizer", "dynamics", "agent") for size in ("batch_size",)]
    recipe = load_config(Recipe, TOY, [*sizes, "dynamics.batches.long_batch_size=360", *(f"cluster.{key}" for key in keys)])
    shortage = demands(recipe)["dynamics"].shortage(nodes)
    assert (lacking or "") in (shortage.need if shortage else "")
    assert (shortage is None) == (lacking is None)


def test_a_replica_of_its_own_node_finds_cpu_gpu_and_room_together():
    keys = ["cluster.replicas=2", "cluster.gpus_per_replica=0.5", "cluster.dedicated_replicas=true"]
    demand = demands(load_config(Recipe, TOY, keys))["imagination"].of("replica")
    assert demand.shortage([{"CPU": 4, "GPU": 1, "replica": 2}]) is None
    shortage = demand.shortage([{"CPU": 4, "GPU": 1}, {"CPU": 4, "replica": 2}])
    assert shortage is not None
    assert "1 CPUs and 0.5 GPUs and 1 replicas each on one node, the cluster holds 0" in shortage.need
    assert "1 nodes of 1 GPUs, 4 CPUs; 1 nodes of 2 replicas, 4 CPUs" in shortage.need


def test_actors_of_several_kinds_have_room_beside_each_other():
    keys = ["cluster.gpus_per_learner=1", "cluster.replicas=2", "cluster.gpus_per_replica=0.5", "cluster.evaluators=1"]
    demand = demands(load_config(Recipe, TOY, keys))["imagination"]
    assert demand.shortage([{"CPU": 4, "GPU": 3}]) is None
    assert demand.shortage([{"CPU": 1, "GPU": 1}, {"CPU": 3, "GPU": 2}]) is None
    assert demand.shortage([{"CPU": 1, "GPU": 4}, {"CPU": 3, "GPU": 2}]) is None
    assert demand.shortage([{"CPU": 1, "GPU": 4}, {"CPU": 3, "GPU": 1}]) is not None
    shortage = demand.shortage([{"CPU": 2, "GPU": 3}, {"CPU": 8}])
    assert shortage is not None
    assert "cluster.learners = 1, cluster.replicas = 2, cluster.evaluators = 1 beside each other" in shortage.need
    assert "one of replicas with 1 CPUs and 0.5 GPUs finds no room (1 nodes of 3 GPUs, 2 CPUs; 1 nodes of 8 CPUs)" in shortage.need


def test_what_is_lacking_is_named_with_numbers():
    assert shortages({"CPU": 6, "GPU": 1.5}, {"CPU": 6.0}) == ["1.5 GPUs, there 0"]
    assert shortages({"CPU": 6, "GPU": 0}, {"CPU": 8.0}) == []


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", 137, 137),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_the_exit_code_is_that_of_the_job(status, code, expected):
    assert exit_code(JobDetails(type="SUBMISSION", status=status, entrypoint="", driver_exit_code=code)) == expected
