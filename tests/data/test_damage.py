"""Sets that are damaged, foreign or hostile: every one ends in a ``UserError`` that names the place and a remedy."""

import copy
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamer_ray.data.coding import Coded, decode_frames, encode_png
from dreamer_ray.data.ingest import ingest_plan, make_file
from dreamer_ray.data.open_source import open_source
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.data.shards import Origin, ShardFile, commit_manifest, open_shards, write_shard
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.errors import UserError


@pytest.fixture
def folder(tmp_path, sets):
    sets.make(tmp_path, [5, 6, 7], events={0: [(2, 1)]})
    return tmp_path


def change(folder, *place, to):
    """Sets what stands at ``place`` in the manifest."""
    path = folder / "manifest.json"
    values = inner = json.loads(path.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = to
    path.write_text(json.dumps(values))


def test_no_manifest(tmp_path, sets):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"no manifest\.json.*run it first"):
            open_shards(folder)


def test_no_episode(tmp_path, sets):
    commit_manifest(tmp_path, sets.schema, [], made_by={}, parents={})
    with pytest.raises(UserError, match="holds no episode"):
        open_shards(tmp_path)
    commit_manifest(tmp_path, sets.schema, [write_shard(tmp_path, "a.parquet", [], sets.schema)], made_by={}, parents={})
    with pytest.raises(UserError, match="holds no episode"):
        open_shards(tmp_path)


@pytest.mark.parametrize("found", [0, 2, "1", None, [1], 10**400])
def test_another_format(folder, found):
    change(folder, "format", to=found)
    with pytest.raises(UserError, match=r"format .*this version reads 1.*--from"):
        open_shards(folder)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100, b'{"format": 1}', b'{"format": 1' + b" " * 50]
)
def test_a_manifest_that_is_none(folder, text):
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        open_shards(folder)


def test_a_manifest_that_is_a_folder(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        open_shards(folder)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "sub/part-000.parquet", "./part-000.parquet", "..", ".", "", "a\0b", "x" * 5000]
)
def test_file_names_do_not_lead_out_of_the_folder(folder, name):
    (folder.parent / "x").write_bytes((folder / "part-000.parquet").read_bytes())
    (folder / "sub").mkdir()
    (folder / "sub" / "part-000.parquet").write_bytes((folder / "part-000.parquet").read_bytes())
    change(folder, "files", 0, "name", to=name)
    with pytest.raises(UserError, match=r"leads out of the folder|is missing|at most 200 characters"):
        open_shards(folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("files",), {}),
        (("files",), [7]),
        (("files", 0, "name"), 7),
        (("files", 0, "sha256"), None),
        (("files", 0, "episodes"), "abc"),
        (("files", 0, "episodes", 0, "length"), "5"),
        (("files", 0, "episodes", 0, "length"), 5.5),
        (("files", 0, "episodes", 0, "length"), 0),
        (("files", 0, "episodes", 0, "length"), -1),
        (("files", 0, "episodes", 0, "length"), 2**31),
        (("files", 0, "episodes", 0, "length"), 10**400),
        (("files", 0, "episodes", 0, "info"), {"a": [1]}),
        (("files", 0, "episodes", 0, "extra"), 1),
        (("shard_schema",), None),
        (("shard_schema", "codec"), "pickle"),
        (("shard_schema", "frame_shape"), [4]),
        (("shard_schema", "frame_shape"), [-4, 6]),
        (("shard_schema", "frame_shape"), [2**40, 6]),
        (("shard_schema", "tasks"), [7]),
        (("shard_schema", "fps"), float("nan")),
        (("shard_schema", "action_space"), {"a": {"kind": "magic", "size": 3}}),
        (("shard_schema", "action_space"), {"a": {"kind": "binary", "size": -3}}),
        (("made_by",), []),
        (("parents",), {"tokenizer": 7}),
    ],
)
def test_values_that_no_manifest_has(folder, place, value):
    change(folder, *place, to=value)
    with pytest.raises(UserError, match=r"manifest\.json"):
        open_shards(folder)


HOSTILE = (
    *(
        None,
        True,
        -1,
        0,
        1.5,
        2**31,
        2**63,
        10**400,
        1e308,
        float("nan"),
        "",
        "..",
        "../../x",
        "/etc/passwd",
        "a\0b",
        "\ud800",
        "x" * 10**5,
    ),
    *([], {}, [[]], {"a": {"b": []}}, ["/etc/passwd"], {"../x": 1}, {"kind": "binary", "size": 10**12}, ["a"] * 1000),
)


@pytest.mark.parametrize("kind", ["png", "h264", "link"])
def test_no_value_in_a_manifest_or_in_the_rows_does_more_than_end_in_an_error_that_names_the_place(tmp_path, sets, videos, kind):
    """A value of another kind, too large, or a path, at places chosen at random; what is accepted must then be readable or refused."""
    values = RecordingsConfig.model_validate_json(json.dumps(recordings(tmp_path, videos, kind)))
    plan = ingest_plan(values)
    source, folder = open_source(values.entries()[0].source), tmp_path / "set"
    files = [made for job in plan.jobs if isinstance(made := make_file(values, source, plan.schema, job, folder), ShardFile)]
    commit_manifest(folder, plan.schema, files, made_by={"a": [1]}, parents={"b": "c"}, origin=Origin(layout=values.layout, notes=("n",)))
    whole, before = (folder / "manifest.json").read_text(), snapshot(tmp_path)
    rng, refused = random.Random(kind), list[str]()
    for _ in range(1200):
        (folder / "manifest.json").write_text(mutated(whole, rng))
        try:
            found = open_shards(folder)
            found.verify()
            found.event_frames()
            for index in range(len(found.episodes)):
                found.read_episode(index)
        except UserError as error:
            refused.append(str(error))
    (folder / "manifest.json").write_text(whole)
    assert len(refused) > 800
    assert all(str(folder) in reason for reason in refused)
    assert snapshot(tmp_path) == before


def recordings(folder, videos, kind) -> dict:
    (folder / "in").mkdir()
    for name in ("a.mp4", "b.mp4"):
        videos.write(folder / "in" / name, 6)
    source = {"source": {"kind": "videos", "path": str(folder / "in")}}
    return {"sources": [source], "layout": {"shape": [48, 64]}, "codec": {"kind": kind}}


def mutated(text: str, rng: random.Random) -> str:
    """``text``, JSON, with one to three values at random places replaced by hostile ones, or taken away."""
    values = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        inner, depth = values, rng.randint(1, 8)
        while isinstance(inner, dict | list) and inner:
            key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            depth -= 1
            if not depth or not isinstance(inner[key], dict | list) or not inner[key]:
                if rng.random() < 0.1:
                    del inner[key]
                else:
                    inner[key] = copy.deepcopy(rng.choice(HOSTILE))
                break
            inner = inner[key]
    return json.dumps(values)


def snapshot(folder) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def test_a_file_that_is_not_there(folder):
    (folder / "part-001.parquet").unlink()
    with pytest.raises(UserError, match=r"part-001\.parquet is missing.*--from"):
        open_shards(folder)


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_a_file_cut_short(folder, keep):
    path = folder / "part-000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    found = open_shards(folder)
    with pytest.raises(UserError, match=r"part-000\.parquet: cannot be read.*--from"):
        found.read_episode(1)
    with pytest.raises(UserError, match=r"part-000\.parquet.*--from"):
        found.event_frames()
    with pytest.raises(UserError, match=r"part-000\.parquet: SHA-256"):
        found.verify()
    assert len(found.read_episode(2).frames) == 7


def test_changed_bytes_of_a_picture_are_found_where_it_is_read(folder):
    """What is changed stands among the pictures: it is no error of the format, and would train."""
    path, found = folder / "part-000.parquet", open_shards(folder)
    raw, payload = path.read_bytes(), bytes(found.rows(0).coded.payload[2])
    where = raw.index(payload)
    path.write_bytes(raw[: where + 20] + bytes([raw[where + 20] ^ 1]) + raw[where + 21 :])
    with pytest.raises(UserError, match=r"part-000\.parquet: cannot be read .*--from"):
        open_shards(folder).read_episode(0)


def test_one_changed_byte_is_found(folder):
    path = folder / "part-001.parquet"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    open_shards(folder).verify()
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"part-001\.parquet: SHA-256 [0-9a-f]{12}\.\., its manifest says [0-9a-f]{12}\.\.; .*--from"):
        open_shards(folder).verify()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("files", 0, "episodes", 1, "length"), 7),
        (("files", 1, "episodes"), [{"name": n, "length": 7, "info": {}} for n in "ab"]),
        (("shard_schema", "action_space"), {"other": {"kind": "binary", "size": 3}}),
        (("shard_schema", "action_space"), {"keys": {"kind": "binary", "size": 4}}),
        (("shard_schema", "action_space"), {"keys": {"kind": "categorical", "size": 4}}),
        (("shard_schema", "action_space"), {"mouse": {"kind": "continuous", "size": 1}}),
        (("shard_schema", "tasks"), ["a", "b", "c", "d"]),
        (("shard_schema", "frame_shape"), [6, 4]),
        (("shard_schema", "codec"), "float16"),
    ],
)
def test_a_manifest_and_files_that_do_not_fit(folder, place, value):
    change(folder, *place, to=value)
    found = open_shards(folder)
    with pytest.raises(UserError, match="--from"):
        [found.read_episode(index) for index in range(len(found.episodes))]


def test_events_that_do_not_fit_the_manifest(folder):
    change(folder, "files", 0, "episodes", 1, "length", to=7)
    with pytest.raises(UserError, match=r"part-000\.parquet: its rows.*--from"):
        open_shards(folder).event_frames()


def test_a_frame_that_is_none():
    picture = encode_png(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))
    grey = encode_png(np.zeros((4, 6), np.uint8))
    broken = picture[:50] + bytes(20) + picture[70:]
    for codec in ("png", "jpeg", "h264"):
        for payload in (b"", b"\x89PNG", picture[: len(picture) // 2], broken, grey, b"GIF89a"):
            with pytest.raises(BadRecordingError):
                list(decode_frames(Coded([payload], np.ones(1, bool)), [0], codec=codec, shape=(4, 6)))
    for payload in (b"", bytes(47), bytes(50)):
        with pytest.raises(BadRecordingError):
            list(decode_frames(Coded([payload], np.ones(1, bool)), [0], codec="float16", shape=(4, 6)))


def test_a_frame_that_is_none_is_named_by_file_episode_and_number(folder):
    """Its page is whole, so only the decoder can tell."""
    path = folder / "part-000.parquet"
    table = pq.read_table(path)
    payload = table["payload"].to_pylist()
    payload[5 + 4] = b"GIF89a"
    changed = table.set_column(table.schema.get_field_index("payload"), "payload", pa.array(payload, pa.binary()))
    with pq.ParquetWriter(path, changed.schema, write_page_checksum=True) as writer:
        for start, length in ((0, 5), (5, 6)):
            writer.write_table(changed.slice(start, length), row_group_size=length)
    found = open_shards(folder)
    assert len(found.read_episode(0).frames) == 5
    assert len(found.frames(1, slice(0, 4))) == 4
    with pytest.raises(UserError, match=r"part-000\.parquet, episode train-000001, frame 4: .* no png .*--from"):
        found.frames(1, slice(3, 6))


@pytest.mark.parametrize("column", ["payload", "events", "labelled", "action.mouse"])
def test_a_value_that_is_missing(folder, column):
    path = folder / "part-001.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[3] = None
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type)), path)
    found = open_shards(folder)
    with pytest.raises(UserError, match=r"part-001\.parquet: its rows or columns.*--from"):
        found.read_episode(2)
