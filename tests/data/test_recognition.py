"""What lies at a path is told from names and heads of files, or refused with what was looked for."""

import json
from pathlib import Path

import pytest

from dreamer_ray.data.recognition import found_at, recognise
from dreamer_ray.errors import UserError

VPT_LINE = json.dumps({"mouse": {"dx": 0, "dy": 0, "buttons": []}, "keyboard": {"keys": []}})


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"a.mp4": "", "a.jsonl": VPT_LINE}, "vpt"),
        ({"10.0/a.mp4": "", "10.0/a.jsonl": f"broken\n{VPT_LINE}"}, "vpt"),
        ({"a.mp4": "", "a.jsonl": '{"left": 1}'}, "videos"),
        ({"deep/er/a.MKV": ""}, "videos"),
        ({"actions.yaml": "", "a.mp4": "", "a.jsonl": VPT_LINE}, "videos"),
        ({"E-v0/s/rendered.npz": "", "E-v0/s/recording.mp4": ""}, "minerl"),
        ({"meta/info.json": "", "videos/a.mp4": ""}, "lerobot"),
        ({"data/metadata.json": ""}, "minari"),
        ({"manifest.json": '{"shard_schema": {"codec": "png"}}'}, "shards"),
        ({"manifest.json": '{"shard_schema": {"codec": "float16"}}'}, "latents"),
        ({"manifest.json": "{"}, "shards"),
        ({"manifest.json": '{"sections": {}}', "train/manifest.json": ""}, "run"),
        ({"record/started.json": ""}, "run"),
    ],
)
def test_a_folder_is_recognised_by_what_lies_there(tmp_path, files, kind):
    assert recognise(str(write(tmp_path, files))) == kind


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [("i.json", "", "vpt"), ("i.json.gz", "", "vpt"), ("a.jsonl", VPT_LINE, "vpt"), ("a.webm", "", "videos"), ("a.MP4", "", "videos")],
)
def test_a_file_is_recognised_by_its_name_and_head(tmp_path, file, text, kind):
    assert recognise(str(write(tmp_path, {file: text}) / file)) == kind


@pytest.mark.parametrize("files", [{}, {"notes.txt": ""}, {".hidden/a.mp4": ""}, {"a.jsonl": '{"x": 1}'}, {"manifest.json": "[]"}])
def test_what_cannot_be_recognised_says_what_was_looked_for(tmp_path, files):
    with pytest.raises(UserError, match=r"not recognised; looked for a VPT index .*rendered\.npz.*meta/info\.json.*--kind vpt\|"):
        recognise(str(write(tmp_path, files)))


@pytest.mark.parametrize("path", ["{}/none", "{}/none\0", "s3://somewhere/folder"])
def test_a_path_where_nothing_can_lie_is_refused_by_name(tmp_path, path):
    with pytest.raises(UserError, match=r"is not there|cannot be read|a URL can be"):
        recognise(path.format(tmp_path))


def test_a_kind_that_is_forced_is_taken(tmp_path):
    write(tmp_path, {"a.mp4": "", "a.jsonl": VPT_LINE})
    ((_, found),) = found_at(str(tmp_path), "videos", {"fps": 20.0})
    assert (found.kind, [recording.name for recording in found.source.index()]) == ("videos", ["a.mp4"])


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("videos", {"fsp": 20}, "unknown key fsp; did you mean fps"),
        ("videos", {"fps": "fast"}, "fps = 'fast'"),
        ("lerobot", {"path": 3}, "path = 3"),
        ("shards", {"fps": 3}, "fps: shards have no such values"),
        ("run", {}, "has no finished set of recordings"),
        ("shards", {}, "has no manifest.json"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(tmp_path, kind, values, message):
    with pytest.raises(UserError, match=message):
        list(found_at(str(tmp_path), kind, values))
