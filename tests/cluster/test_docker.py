"""The images: their linter, the rules that it leaves out, and their install steps done in a clean environment."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ["cpu", "gpu"]


def read(name: str) -> str:
    return (ROOT / "docker" / f"{name}.Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions with what follows them, each on one line, without comments."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines if line)]


def linter_faults(text: str) -> str:
    """What hadolint says, notes on style too; empty where nothing."""
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run([hadolint, "--no-color", "-"], input=text, capture_output=True, text=True, check=False).stdout


def faults(text: str) -> list[str]:
    """What hadolint would let pass."""
    found, steps, pins = [], instructions(text), (ROOT / "docker" / "constraints-cpu.txt").read_text().splitlines()
    users = [rest for word, rest in steps if word == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        found.append("it runs as root")
    found += [f"not pinned: {rest}" for word, rest in steps if word == "FROM" and not re.match(r"\S+:\d+\.\d+\.\d+\S*( AS \w+)?$", rest)]
    found += [f"fetched without a check: {rest}" for word, rest in steps if word == "ADD"]
    installs = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    found += [f"not constrained: {rest}" for rest in installs if "--constraint docker/constraints-cpu.txt" not in rest]
    named = [re.sub(r"\[.*\]", "", name) for rest in installs for name in re.findall(r"\S+==[\w.]+", rest.replace('"', ""))]
    found += [f"not a tried version: {name}" for name in named if name not in pins]
    if not {"ray", "torch", "torchvision"} <= {name.split("==")[0] for name in named}:
        found.append("ray or torch is not pinned")
    if ("ENTRYPOINT", '["dreamer-ray"]') not in steps:
        found.append("dreamer-ray is not what it runs")
    return found


@pytest.mark.parametrize("name", FILES)
def test_an_image_is_without_fault(name):
    assert linter_faults(read(name)) == ""
    assert faults(read(name)) == []


@pytest.mark.parametrize("name", FILES)
def test_what_an_image_copies_is_there_and_not_ignored(name):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for word, rest in instructions(read(name)):
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored or any(f"!{parent}" in ignored for parent in Path(source).parents)


def test_images_of_both_kinds_have_the_same_python_and_packages():
    def shared(name: str) -> list[str]:
        steps = [rest for word, rest in instructions(read(name)) if word in ("FROM", "RUN")]
        return [re.sub(r"\$\{.*?\} ", "", rest) for rest in steps]

    assert shared("cpu") == shared("gpu")


DAMAGES = {
    "newest base": (r"FROM python:\S+", "FROM python:latest", "DL3007"),
    "added file": (r"COPY configs configs", "ADD configs configs", "DL3020"),
    "root": (r"USER 1000", "USER root", "DL3002"),
    "cache": (r"pip install --no-cache-dir", "pip install", "DL3042"),
    "any compiler": (r"g\+\+=\S+", "g++", "DL3008"),
    "package lists": (r"\\\n && rm -rf /var/lib/apt/lists/\*", "", "DL3009"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_image_is_found_by_the_linter(name, damage):
    old, new, rule = DAMAGES[damage]
    text, hurt = re.subn(old, new, read(name))
    assert hurt
    assert rule in linter_faults(text)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (r"USER 1000\n", "", "it runs as root"),
        (r"USER 1000", "USER 0:0", "it runs as root"),
        (r"python:[\d.]+-slim", "python:3-slim", "not pinned"),
        (r"--constraint docker/constraints-cpu.txt ", "", "not constrained"),
        (r"torch==[\d.]+", "torch==2.0.0", "not a tried version"),
        (r"==2.60.0", "", "ray or torch is not pinned"),
        (r"COPY configs configs", "ADD https://example.org/configs.zip configs", "fetched without a check"),
        (r"ENTRYPOINT .*", "", "dreamer-ray is not what it runs"),
    ],
)
def test_a_damaged_image_is_found(name, old, new, fault):
    text, hurt = re.subn(old, new, read(name))
    assert hurt
    assert fault in {found.split(":")[0] for found in faults(text)}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_install_steps_of_the_cpu_image_make_a_working_environment(tmp_path):
    environment, context = tmp_path / "environment", tmp_path / "dreamer_ray"
    context.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["PATH"] = f"{environment / 'bin'}:{variables['PATH']}"
    done = []
    for word, rest in instructions(read("cpu")):
        if word == "COPY" and "--from" not in rest:  # both stages work in one folder here, so that these find what they name
            *sources, place = rest.split()
            for source in sources:
                target = context / place if len(sources) == 1 and not place.endswith("/") else context / place / Path(source).name
                target.parent.mkdir(exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, target, dirs_exist_ok=True)
                else:
                    shutil.copy(ROOT / source, target)
        if word == "RUN" and rest.startswith("pip "):
            step = subprocess.run(["bash", "-c", rest], cwd=context, env=variables, capture_output=True, text=True, check=False)
            assert step.returncode == 0, f"{rest}\n{step.stdout[-2000:]}\n{step.stderr[-2000:]}"
            done.append(rest.split()[1])
    assert done == ["wheel", "install", "install"]
    shutil.rmtree(context / "dreamer_ray")  # what the image does not hold
    for line in (["pip", "check"], ["dreamer-ray", "run", "configs/crafter/tiny.yaml", "--dry-run", "--runs", str(tmp_path / "runs")]):
        tried = subprocess.run(line, cwd=context, env=variables, capture_output=True, text=True, check=False)
        assert tried.returncode == 0, tried.stdout + tried.stderr
