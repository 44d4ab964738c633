"""What is decided before a job is submitted: what would be uploaded, the command, what the cluster lacks."""

import json
import shlex
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package
from ray.dashboard.modules.job.pydantic_models import JobDetails

from dreamer_ray.distributed.jobs import exit_code, shortages
from dreamer_ray.distributed.submission import EXCLUDES, PACKAGE_LIMIT, Submission, needs, package_bytes, packed_files
from dreamer_ray.errors import UserError
from dreamer_ray.recipe import ClusterSection

ROOT = Path(__file__).parents[2]


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


def test_a_recipe_needs_what_its_largest_stage_takes():
    assert needs(ClusterSection(replicas=5)) == {"CPU": 6, "GPU": 0}
    assert needs(ClusterSection(replicas=5, learners=2, evaluators=3, gpus_per_replica=0.5)) == {"CPU": 10, "GPU": 4}
    assert needs(ClusterSection(workers=4, gpus_per_worker=1, replicas=2, gpus_per_replica=0.5)) == {"CPU": 6, "GPU": 4}
    assert needs(ClusterSection(workers=8, fewest_workers=5, gpus_per_worker=1, replicas=2)) == {"CPU": 5, "GPU": 5}
    mixed = {"gpus_per_replica": 0.5, "replicas": 4, "cpu_replicas": 3, "gpus_per_worker": 1}
    assert needs(ClusterSection(**mixed)) == {"CPU": 8, "GPU": 2}
    assert needs(ClusterSection(**mixed, gpus_per_learner=1, weight_transport="nccl")) == {"CPU": 8, "GPU": 3}


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
