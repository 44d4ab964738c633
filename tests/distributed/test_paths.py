"""Relative paths of recordings on workers of a cluster that was started in another folder; no Ray runs here."""

import json
from pathlib import Path

import yaml

from dreamer_ray.config_file import parse_config
from dreamer_ray.data.ingest import ingest_plan
from dreamer_ray.data.minari_sets import MinariSource
from dreamer_ray.data.open_source import open_sources
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.distributed import run as ray_run
from dreamer_ray.recipe import Recipe
from dreamer_ray.run import StageContext, recipe_stages, sections

CRAFTER = Path(__file__).parents[2] / "configs" / "crafter" / "toy.yaml"
LEROBOT = Path(__file__).parents[1] / "data" / "lerobot_v3"


def recordings(**values) -> dict:
    return {
        "layout": {"shape": [48, 64]},
        "sources": [{"source": {"kind": "lerobot", "path": "arm", "camera": "observation.images.top"}}],
    } | values


def recipe() -> Recipe:
    values = yaml.safe_load(CRAFTER.read_text())
    return parse_config(Recipe, values | {"data": {"recordings": recordings(path="arm", sources=_two_sources())}}, "test")


def _two_sources() -> list[dict]:
    return [
        {"source": {"kind": "lerobot", "path": "elsewhere"}},
        {"source": {"kind": "vpt", "path": ["a.json", "s3://bucket/b.json"], "base": "segments"}, "labelled_fraction": 0.0},
    ]


def test_stages_on_ray_know_absolute_paths_and_the_run_folder_those_of_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known: list[Recipe] = []
    monkeypatch.setattr(ray_run, "report", lambda context: known.append(context.recipe) or {})
    ray_run.ray_executors()["report"](StageContext(recipe(), tmp_path, "report"))
    (found,) = (each.data.recordings for each in known)
    assert found is not None and found.path is None
    first, second = (entry.source.model_dump() for entry in found.sources)
    assert first["path"] == str(tmp_path / "arm")
    assert (second["path"], second["base"]) == ((str(tmp_path / "a.json"), "s3://bucket/b.json"), str(tmp_path / "segments"))
    recorded = sections(recipe_stages(recipe())[0], recipe())["data"]["recordings"]
    assert recorded["path"] == "arm" and recorded["sources"][1]["source"]["base"] == "segments"


def test_what_is_planned_in_one_folder_can_be_read_from_another(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    (home / "arm").symlink_to(LEROBOT)
    monkeypatch.chdir(home)
    config = RecordingsConfig.model_validate_json(json.dumps(recordings())).absolute()
    job = ingest_plan(config).jobs[0]
    monkeypatch.chdir(elsewhere)
    (source,) = open_sources(RecordingsConfig.model_validate_json(config.model_dump_json()))
    assert len(source.read(job.recording).takes[0].labelled) > 1


def test_the_folder_of_minari_sets_is_that_of_the_process_that_was_started(tmp_path, monkeypatch):
    values = recordings(sources=[{"source": {"kind": "minari", "dataset": "a/b-v0", "fps": 10.0}}])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    config = RecordingsConfig.model_validate_json(json.dumps(values)).absolute()
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    (source,) = open_sources(config)
    assert isinstance(source, MinariSource) and source.folder == tmp_path / "sets/a/b-v0/data"


def test_a_recipe_without_recordings_stays_as_it_is():
    crafter = parse_config(Recipe, yaml.safe_load(CRAFTER.read_text()), "test")
    assert crafter.absolute() is crafter
