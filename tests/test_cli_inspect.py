"""``dreamer-ray inspect`` as a user calls it: what it prints and writes, and how it refuses."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from dreamer_ray.cli import inspect
from dreamer_ray.data.recognition import Kind
from dreamer_ray.errors import UserError

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"


def act(*words: object) -> None:
    inspect.add_parser((parser := argparse.ArgumentParser()).add_subparsers())
    options = parser.parse_args(["inspect", *map(str, words)])
    options.act(options)


def command(*words: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "dreamer_ray", "inspect", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_lines_say_what_is_there_and_files_are_written(tmp_path):
    done = command("tests/data/luanti", "--sheet", tmp_path / "a.png", "--clip", tmp_path / "a.mp4", "--frames", 3)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if not line.startswith(" ")}
    assert rows["tests/data/luanti:"].endswith("vpt")
    for title, words in {"recordings": "1", "hours": "0:00:10", "pictures": "360 x 640", "video": "h264, 20", "bytes": "an hour"}.items():
        assert words in rows[title]
    assert "do nothing" in rows["labelled"] and "forward" in rows["actions"] and "never achieved: mine_log" in rows["tasks"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "a.mp4: 3 frames of luanti" in done.stderr


def test_the_same_as_json(capsys):
    act(DATA / "lerobot_v3", "camera=observation.images.top", "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["frames"], found["whole"]["recordings"]) == ("lerobot", 39, 3)
    assert sorted(found["tasks"]) == ["lift it", "push the block"]
    assert sum(found["actions"]["action"]["axes"]["a"]["histogram"]) == 39


def test_of_a_large_source_it_says_that_figures_are_of_some(capsys):
    act(DATA / "lerobot_v3", "camera=observation.images.top", "--recordings", 2)
    assert "recordings   3; what follows is of 2 of them, spread evenly" in capsys.readouterr().out


def test_names_that_would_move_the_cursor_are_made_harmless(tmp_path, capsys, sets_folder):
    manifest = sets_folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("novice", "\\u001b[2Jgone"))
    act(sets_folder)
    text = capsys.readouterr().out
    assert "?[2Jgone" in text
    assert "\x1b" not in text


@pytest.fixture
def sets_folder(tmp_path) -> Path:
    import numpy as np

    from dreamer_ray.data.rows import Episode, ShardSchema
    from dreamer_ray.data.shards import commit_manifest, write_shard

    schema = ShardSchema(codec="png", frame_shape=(4, 6), action_space={}, tasks=("chop",), fps=20.0)
    frames = np.zeros((5, 4, 6, 3), np.uint8)
    known = (np.zeros(5, bool), np.zeros((5, 1), np.uint8), np.ones(5, np.float32))
    files = [write_shard(tmp_path, "a.parquet", [Episode("train-0", frames, {}, *known, {"skill": "novice"})], schema)]
    commit_manifest(tmp_path, schema, files, made_by={}, parents={})
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tests/envs"], "not recognised; looked for"),
        (["none"], "none: is not there; wanted"),
        (["tests/data/luanti", "--clip", "a.avi"], r"--clip a.avi: expected the name of a .mp4 file"),
        (["tests/data/luanti", "--sheet", "none/a.png"], "there is no folder .*none"),
        (["tests/data/luanti", "--recording", "x"], "--recording x: chooses what --clip"),
        (["tests/data/luanti", "fps"], "'fps': expected key=value"),
        (["tests/data/luanti", "tasks=[1"], "not valid YAML"),
        (["tests/data/luanti", "task=x"], "unknown key task; did you mean tasks"),
        (["tests/data/luanti/README.md"], "not recognised"),
    ],
)
def test_a_mistake_is_named(words, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        act(*words)


def test_a_mistake_is_one_message_and_exit_code_2():
    done = command("tests/data/lerobot_v3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "choose with camera: observation.images.top | observation.images.wrist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_no_part_of_a_clip(tmp_path):
    line = [sys.executable, "-m", "dreamer_ray", "inspect", "tests/data/luanti", "--clip", str(tmp_path / "a.mp4")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not list(tmp_path.iterdir()) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "stopped; nothing was changed" in errors
    assert list(tmp_path.iterdir()) == []


def test_every_kind_can_be_forced():
    assert get_args(Kind) == inspect.KINDS
