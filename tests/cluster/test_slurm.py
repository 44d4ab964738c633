"""The Slurm script: read by bash and ShellCheck."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dreamer_ray.cluster_section import REPLICA_RESOURCE

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sh"


def shell_faults(text: str) -> str:
    """What bash and ShellCheck say against a script; empty where nothing."""
    parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, "--severity=style", "--format=gcc", "-"], input=text, capture_output=True, text=True, check=False)
    return parsed.stderr + checked.stdout + checked.stderr


def faults(text: str) -> list[str]:
    """What is wrong with the clusters that a script starts."""
    body = "\n".join(line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#"))
    found = [] if re.search(r"^export .*RAY_AUTH_MODE=token\b", body, re.MULTILINE) else ["no token is asked for"]
    starts = re.findall(r"^.*\bray start\b.*$", body, re.MULTILINE)
    found += [] if len(starts) == 2 else ["not one head and one group of workers are started"]
    found += [f"not started by srun: {start}" for start in starts if not start.lstrip().startswith("srun ")]
    found += [f"open dashboard: {start}" for start in starts if "--head" in start and "--dashboard-host=127.0.0.1" not in start]
    named = re.findall(r'--resources="((?:[^"\\]|\\.)*)"', body)
    resources = {name for text in named for name in json.loads(re.sub(r"\$\w+", "1", text.replace('\\"', '"')))}
    return found + [f"nobody asks for the resource {name}" for name in sorted(resources - {REPLICA_RESOURCE})]


def test_shell_and_linter_find_nothing():
    assert shell_faults(SCRIPT.read_text()) == ""


def test_the_script_is_without_fault():
    assert faults(SCRIPT.read_text()) == []


DAMAGES = [
    ("if ((others > 0)); then", "if ((others > 0))", "syntax error"),
    ('"$recipe" "$@"', "$recipe $@", "SC2086"),
    ("export RAY_AUTH_TOKEN\n", "export RAY_AUTH_TOKE\n", "SC2034"),
]


@pytest.mark.parametrize(("old", "new", "message"), DAMAGES, ids=[message for *_, message in DAMAGES])
def test_a_damaged_script_is_found_by_its_linters(old, new, message):
    text = SCRIPT.read_text()
    assert old in text
    assert message in shell_faults(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "no token is asked for"),
        (" --dashboard-host=127.0.0.1", "", "open dashboard"),
        ('replica\\":', 'dream\\":', "nobody asks for the resource dream"),
        ("srun --nodes=1", "--nodes=1", "not started by srun"),
    ],
)
def test_a_damaged_cluster_is_found(old, new, fault):
    text = SCRIPT.read_text()
    assert old in text
    assert [found.split(":")[0] for found in faults(text.replace(old, new))] == [fault]
