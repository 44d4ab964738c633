"""The house's rules as tests: lint, format, types, layers, sizes of files, reading closure, names of rooms, nothing private in the tree."""

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dreamer_ray"
ROOT_ENTRIES = {"dreamer_ray", "tests", "configs", "cluster", "docker", "pyproject.toml", "README.md", "LICENSE"}
LINES_OF_A_FILE = 300
CLOSURES = {"objectives": 600, "models": 1500, "phases": 3000}
FORBIDDEN_ROOMS = {"utils", "util", "common", "misc", "helpers", "helper", "tools"}
PRIVATE = re.compile(
    r"(?<![\w.])/(?:work|root|home|opt|Users|mnt)/\w|http://(?!localhost|127\.0\.0\.1|www\\?\.w3|www\.apache\.org|\{)[\w-]"
)
"""Paths of some machine, and addresses without TLS other than this machine's and those that are only names."""


def ignored() -> list[str]:
    return [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]


def files(*suffixes: str) -> list[Path]:
    """The files of the tree, without what git ignores."""
    entries = [ROOT / name for name in sorted(ROOT_ENTRIES)] + [path for path in ROOT.glob(".*") if path.name not in {".git", ".venv"}]
    found = [path for entry in entries for path in (entry.rglob("*") if entry.is_dir() else [entry]) if path.is_file()]
    hidden = ignored()
    kept = [path for path in found if not any(fnmatch.fnmatch(part, rule) for part in path.relative_to(ROOT).parts for rule in hidden)]
    return [path for path in kept if not suffixes or path.suffix in suffixes]


def modules() -> dict[str, Path]:
    """The modules of the package by dotted name."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere in it; ``from a import b`` gives both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def closure(start: str, graph: dict[str, set[str]]) -> set[str]:
    """``start`` and all modules of the package that must be open to read it."""
    found, waiting = set(), [start]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += graph[name]
    return found


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("arguments", [("check", "."), ("format", "--check", ".")], ids=["lint", "format"])
def test_ruff_finds_nothing(arguments):
    run("-m", "ruff", *arguments)


def test_types_fit():
    run("-m", "basedpyright", "--pythonpath", sys.executable)


def test_imports_keep_to_the_layers():
    run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")


def test_ray_is_imported_in_distributed_and_serve_only():
    rooms = {path.relative_to(PACKAGE).parts[0] for path in modules().values() if {n.split(".")[0] for n in imported(path)} & {"ray"}}
    assert rooms <= {"distributed", "serve"}


def test_the_core_imports_where_ray_is_absent():
    core = [name for name in modules() if name.split(".")[1:2] not in (["distributed"], ["serve"], ["__main__"])]
    script = f"import sys, importlib; sys.modules['ray'] = None; [importlib.import_module(name) for name in {core}]"
    run("-c", script)


def test_each_file_can_be_read_in_one_go():
    long = {str(path.relative_to(ROOT)): lines(path) for path in modules().values() if lines(path) > LINES_OF_A_FILE}
    assert long == {}


@pytest.mark.parametrize("room", CLOSURES)
def test_the_reading_closure_is_small(room):
    known = modules()
    graph = {name: imported(path) & known.keys() for name, path in known.items()}
    sizes = {name: sum(lines(known[part]) for part in closure(name, graph)) for name in known if name.startswith(f"dreamer_ray.{room}.")}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > CLOSURES[room]} == {}


def test_no_room_is_called_utils():
    names = {path.stem for path in files(".py")} | {path.parent.name for path in files(".py")}
    assert names & FORBIDDEN_ROOMS == set()


def test_the_root_holds_nothing_else():
    present = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    left = {name for name in present - ROOT_ENTRIES if not any(fnmatch.fnmatch(name, rule) for rule in ignored())}
    assert left == set()


def test_tests_mirror_the_package():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()} | {"bench", "cluster", "data"}
    assert {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"} <= rooms


def test_every_module_of_the_package_says_what_it_is():
    assert [name for name, path in modules().items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_nothing_points_to_some_machine():
    found = {}
    for path in files():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if hits := PRIVATE.findall(text):
            found[str(path.relative_to(ROOT))] = hits
    assert found == {}


def test_the_tried_versions_cover_every_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {re.split(r"[\[<>=~!]", line)[0].lower().replace("_", "-") for line in wanted}
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "docker" / "constraints-cpu.txt").read_text().splitlines()}
    assert names <= pinned


def test_shapes_in_signatures_are_checked_here(tiny):
    tokenizer = tiny.tokenizer()
    tokenizer.encode(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(TypeCheckError, match="frames"):
        tokenizer.encode(torch.zeros(1, 1, 8, 8, 3))
