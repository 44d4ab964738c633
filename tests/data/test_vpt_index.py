"""The index files that OpenAI published, and such as nobody should."""

import gzip
import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamer_ray.data.splits import sides
from dreamer_ray.data.vpt import VptConfig, VptSource
from dreamer_ray.data.vpt_index import SEGMENT, read_index
from dreamer_ray.errors import UserError

PUBLISHED = Path(__file__).parent / "vpt_index"
GOOD = "data/10.0/cheeky-cornflower-setter-02e496ce4abb-20220421-092639.mp4"


def index(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("name", "segments", "aliases", "played"),
    [("all_7xx_Apr_6", 17886, 147, 2479), ("all_9xx_Jun_29", 8698, 21, 3499), ("all_10xx_Jun_29", 5661, 20, 1637)],
)
def test_published_indices(name, segments, aliases, played):
    found = read_index(PUBLISHED / f"{name}.json.gz")
    assert len(found.segments) == segments
    assert not found.dropped
    assert found.base.endswith("/minecraft-rl/")
    assert len({segment.alias for segment in found.segments}) == aliases
    assert len({(segment.alias, segment.recording) for segment in found.segments}) == played


def test_both_styles_of_path_are_one_segment(tmp_path):
    short = GOOD.removeprefix("data/").removesuffix(".mp4")
    segment, other = (read_index(index(tmp_path / "i.json", {"basedir": "b/", "relpaths": [p]})).segments[0] for p in (GOOD, short))
    assert segment.path == GOOD.removesuffix(".mp4")
    assert other.path == short
    assert (segment.version, segment.alias, segment.session) == ("10.0", "cheeky-cornflower-setter", "02e496ce4abb")
    assert (segment.day, segment.time) == ("20220421", "092639") == (other.day, other.time)


@pytest.mark.parametrize(
    "bad",
    [
        "../" + GOOD,
        "/" + GOOD,
        "data/10.0/../../etc/passwd-02e496ce4abb-20220421-092639.mp4",
        "data/10.0/a\n-02e496ce4abb-20220421-092639.mp4",
        "data/10.0/a\x00-02e496ce4abb-20220421-092639.mp4",
        GOOD + "\n",
        GOOD.replace("02e496ce4abb", "02e496ce4abz"),
        GOOD.replace("20220421", "\u0662\u0660\u0662\u0662\u0660\u0664\u0662\u0661"),
        "data/10.0/" + "a" * 10_000 + "-02e496ce4abb-20220421-092639.mp4",
        7,
        None,
        ["x"],
        "",
    ],
)
def test_a_path_of_another_form_is_left_out_and_counted(tmp_path, bad):
    found = read_index(index(tmp_path / "i.json", {"basedir": "b/", "relpaths": [bad, GOOD, GOOD]}))
    assert [segment.path for segment in found.segments] == [GOOD.removesuffix(".mp4")]
    assert found.dropped == {"not the path of a segment": 1, "listed twice": 1}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "the file: Invalid JSON"),
        ("[]", "the file: "),
        ({"relpaths": [GOOD]}, "basedir: Field required"),
        ({"basedir": 1, "relpaths": [GOOD]}, "basedir: "),
        ({"basedir": "b", "relpaths": GOOD}, "relpaths: "),
        ({"basedir": "b", "relpaths": []}, "relpaths: "),
        ({"basedir": "b", "relpaths": ["x" * 9999]}, "none of its 1 relpaths"),
    ],
)
def test_what_is_no_index_is_refused_by_key(tmp_path, value, words):
    with pytest.raises(UserError, match=f"index .*i.json: {words}") as caught:
        read_index(index(tmp_path / "i.json", value))
    assert len(str(caught.value)) < 500


def test_a_missing_or_cut_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read"):
        read_index(tmp_path / "nowhere.json")
    whole = (PUBLISHED / "all_10xx_Jun_29.json.gz").read_bytes()
    (tmp_path / "cut.json.gz").write_bytes(whole[:2000])
    with pytest.raises(UserError, match=r"cut\.json\.gz"):
        read_index(tmp_path / "cut.json.gz")


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=3)), max_size=4),
    cut=st.integers(1, 2000),
    packed=st.booleans(),
    inside=st.booleans(),
)
def test_a_damaged_index_is_read_as_far_as_it_is_one_or_refused_by_name(tmp_path, edits, cut, packed, inside):
    """Bytes are changed, put in and cut off, of the text or of what it was packed into."""
    paths = [GOOD.replace("10.0", version) for version in ("6.9", "6.10", "7.0", "8.0", "10.0")]
    content = json.dumps({"basedir": "https://example.org/", "relpaths": paths}).encode()
    path = tmp_path / ("i.json.gz" if packed else "i.json")
    content = gzip.compress(content, mtime=0) if packed and not inside else content
    for place, replacement in edits:
        content = content[:place] + replacement + content[place + 1 :]
    content = content[: cut if edits else len(content)]
    path.write_bytes(gzip.compress(content) if packed and inside else content)
    found, said = None, f"index {path}"
    try:
        found = read_index(path)
    except UserError as error:
        said = str(error)
    assert f"index {path}" in said
    assert len(said) < 1000
    for segment in found.segments if found else ():
        assert SEGMENT.fullmatch(f"{segment.path}.mp4")
        assert ".." not in segment.path.split("/")


def test_recordings_are_never_split():
    """By the split of an ingest, on a published index."""
    recordings = VptSource(VptConfig(path=str(PUBLISHED / "all_7xx_Apr_6.json.gz"))).index()
    side = sides(list(dict.fromkeys(recording.group for recording in recordings)), heldout=0.1, seed=0)
    parts = defaultdict(set)
    for recording in recordings:
        session, day, _ = recording.name.rsplit("-", 3)[1:]
        parts[session, day].add(side[recording.group])
    assert all(len(part) == 1 for part in parts.values())
    held_out = sum(part == {"heldout"} for part in parts.values()) / len(parts)
    assert 0.08 < held_out < 0.12


@pytest.mark.timeout(20)
def test_an_index_that_unpacks_to_a_gigabyte_is_refused_at_once(tmp_path):
    with gzip.open(tmp_path / "bomb.json.gz", "wb", compresslevel=9) as file:
        for _ in range(100):
            file.write(b" " * 2**20)
    with pytest.raises(UserError, match=r"bomb\.json\.gz: has more than 67108864 bytes, unpacked"):
        read_index(tmp_path / "bomb.json.gz")


def test_an_index_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "i.json")
    with pytest.raises(UserError, match="is not a plain file"):
        read_index(tmp_path / "i.json")
