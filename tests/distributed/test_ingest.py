"""The ingest on Ray: killed and started again, bad recordings, a rotten source."""

import json
import signal
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from dreamer_ray.data.shards import open_shards

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
TOY = Path(__file__).parents[2] / "configs/crafter/toy.yaml"
SIDE = 72


def film(path: Path, frames: int) -> None:
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(frames)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for _ in range(frames):
            shown = np.kron(rng.integers(0, 256, (9, 9, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A world model of a folder of videos, as large as the toy recipe."""
    values = yaml.safe_load(TOY.read_text())
    source = {"source": {"kind": "videos", "path": str(tmp_path / "videos")}}
    values["data"] = {"recordings": {"sources": [source], "layout": {"shape": [SIDE, SIDE]}, "episode_frames": 100, "heldout": 0.2}}
    del values["agent"], values["imagination"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values | {"name": "films"}))
    return path


@pytest.fixture
def ingest(recipe, begin, tmp_path):
    """Begins an ingest of the recipe."""
    line = [sys.executable, "-m", "dreamer_ray", "ingest", str(recipe), "--runs", str(tmp_path / "runs"), "cluster.dashboard=false"]
    return lambda *arguments: begin([*line, "cluster.cpus=3", "cluster.object_store_mb=100", *arguments])


def files_of(run: Path) -> dict[str, int]:
    """Time at which each file was written."""
    return {path.name: path.stat().st_mtime_ns for path in run.glob("record/*/s0-*.parquet")}


def test_an_ingest_that_is_killed_goes_on_where_it_was_and_bad_recordings_cost_themselves(tmp_path, ingest):
    for i in range(12):
        film(tmp_path / "videos" / f"{i:02}.mp4", 150 + i)
    broken = tmp_path / "videos" / "03.mp4"
    broken.write_bytes(broken.read_bytes()[:3000] + b"broken")
    run = tmp_path / "runs" / "films"
    first = ingest()
    first.wait(lambda: len(files_of(run)) >= 3)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    while [each for each in first.begun | first.look() if each.alive()]:
        pass
    before = files_of(run)
    assert 3 <= len(before) < 11
    said = ingest().end()
    after = files_of(run)
    assert before.items() <= after.items(), "what was there was not made again"
    assert len(after) == 11
    assert "03.mp4 cannot be used: " in said
    assert "12/12 files" in said
    report = json.loads((run / "record" / "report.json").read_text())
    assert (report["recordings"], report["files"], [entry["recording"] for entry in report["bad"]]) == (12, 11, ["03.mp4"])
    found = [open_shards(run / "record" / split) for split in ("train", "heldout")]
    assert sum(set_.lengths.sum() for set_ in found) == sum(150 + i for i in range(12) if i != 3) == report["frames"]
    assert sum(set_.manifest.origin.dropped.get("recordings that cannot be used", 0) for set_ in found) == 1
    assert not list(run.glob("record/*/.*.partial"))
    assert "all done already" in ingest().end()


def test_a_rotten_source_ends_the_ingest_with_the_reasons(tmp_path, ingest):
    for i in range(6):
        film(tmp_path / "videos" / f"{i}.mp4", 20)
    for i in range(3):
        (tmp_path / "videos" / f"{i}.mp4").write_bytes(b"rotten")
    said = ingest("data.recordings.max_bad_fraction=0.4").end(code=2)
    assert "error: 3 of " in said
    assert "max_bad_fraction = 0.4 of 6 are allowed" in said
    assert "mend the source" in said.splitlines()[-1]
    assert "Traceback" not in said
    report = json.loads((tmp_path / "runs/films/record/report.json").read_text())
    assert len(report["bad"]) == 3
    assert not (tmp_path / "runs/films/record/manifest.json").exists()


def test_a_recipe_whose_recordings_are_not_there(tmp_path, ingest):
    said = ingest().end(code=2)
    assert f"folder {tmp_path / 'videos'}: is not there" in said
