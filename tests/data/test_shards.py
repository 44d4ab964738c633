"""Sets on disk: what is written is read again, bit for bit, and a set that is not whole is refused."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamer_ray.data import coding, shards
from dreamer_ray.data.clips import ClipRef, read_clip
from dreamer_ray.data.existing_shards import existing_shard
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.shards import ShardSet, commit_manifest, open_shards, write_shard
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.errors import UserError
from dreamer_ray.types import Binary, Categorical, Continuous

FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same(one, other):
    assert (one.name, one.info) == (other.name, other.info)
    assert {key: type(value) for key, value in one.info.items()} == {key: type(value) for key, value in other.info.items()}
    for field in ("frames", "labelled", "events", "continues"):
        a, b = getattr(one, field), getattr(other, field)
        assert a.dtype == b.dtype, field
        np.testing.assert_array_equal(a, b, err_msg=field)
    assert list(one.actions) == list(other.actions)
    for name in one.actions:
        assert one.actions[name].dtype == other.actions[name].dtype, name
        np.testing.assert_array_equal(one.actions[name], other.actions[name], err_msg=name)


@FEW
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    keys=st.integers(1, 4),
    arm=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    tasks=st.integers(1, 4),
    codec=st.sampled_from(["png", "float16"]),
    seed=st.integers(0, 99),
)
def test_what_is_written_is_read_again(tmp_path_factory, sets, lengths, keys, arm, shape, tasks, codec, seed):
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("set")
    space = {"keys": Binary(size=keys), "mouse": Categorical(size=7), "arm": Continuous(size=arm)}
    schema = ShardSchema(codec=codec, frame_shape=shape, action_space=space, tasks=tuple("abcd"[:tasks]), fps=20.0)

    def episode(i, length):
        pictures = rng.integers(0, 256, (length, *shape, 3), np.uint8)
        actions = {"keys": rng.integers(0, 2, (length, keys)), "mouse": rng.integers(0, 7, length)}
        return replace(
            sets.episode(f"e-{i}", length),
            frames=pictures if codec == "png" else rng.normal(size=(length, *shape)).astype(np.float16),
            actions=actions | {"arm": rng.normal(size=(length, arm)).astype(np.float32)},
            labelled=rng.random(length) < 0.5,
            events=rng.integers(0, 256, (length, tasks), np.uint8),
            continues=rng.integers(0, 2, length).astype(np.float32),
            info={"count": 3, "share": 1.0, "who": "somebody"},
        )

    episodes = [episode(i, length) for i, length in enumerate(lengths)]
    files = [write_shard(folder, "a.parquet", episodes[:2], schema)]
    files += [write_shard(folder, "b.parquet", episodes[2:], schema)] if episodes[2:] else []
    commit_manifest(folder, schema, files, made_by={}, parents={})
    found = open_shards(folder)
    assert found.lengths.tolist() == lengths
    assert found.schema == schema
    for i, written in enumerate(episodes):
        assert_same(found.read_episode(i), written)
    found.verify()


def numbered(sets, videos, name, length, schema):
    """Frame t shows ``t`` (of at most 256) as bars, which survive compression."""
    return replace(sets.episode(name, length), frames=np.stack([videos.picture(t, schema.frame_shape) for t in range(length)]))


@pytest.fixture(scope="module")
def compressed(tmp_path_factory, sets, videos):
    """A set of each lossy codec: episodes of 70, 1 and 33 frames."""
    made = {}
    for codec in ("jpeg", "h264"):
        folder = tmp_path_factory.mktemp(codec)
        schema = sets.schema.model_copy(update={"codec": codec, "frame_shape": (48, 64)})
        episodes = [numbered(sets, videos, f"e{i}", length, schema) for i, length in enumerate((70, 1, 33))]
        commit_manifest(folder, schema, [write_shard(folder, "a.parquet", episodes, schema)], made_by={}, parents={})
        made[codec] = open_shards(folder)
    return made


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
@pytest.mark.parametrize(
    "which",
    [slice(None), slice(0, 1), slice(31, 34), slice(69, 70), slice(40, 64), slice(None, None, 7), slice(3, 70, 40), slice(5, 5)],
    ids=str,
)
def test_compressed_frames_are_those_asked_for(compressed, videos, codec, which):
    shown = [videos.number(frame) for frame in compressed[codec].each_frame(0, which)]
    assert shown == list(range(70)[which])


def test_only_the_frames_from_the_keyframe_on_are_decoded(compressed, monkeypatch):
    decoded, real = [], coding.decode_span

    def counted(parameters, payloads, **options):
        decoded.append(len(list(real(parameters, payloads, **options | {"first": 0, "count": options["first"] + options["count"]}))))
        return real(parameters, payloads, **options)

    monkeypatch.setattr(coding, "decode_span", counted)
    compressed["h264"].frames(0, slice(33, 36))
    assert decoded == [4], "keyframes are at 0, 32 and 64"
    decoded.clear()
    compressed["h264"].frames(0, slice(1, 70, 34))
    assert decoded == [2, 4, 6]


def test_h264_is_smaller_than_jpeg(compressed):
    assert compressed["h264"].rows(0).bytes < compressed["jpeg"].rows(0).bytes / 2


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_a_damaged_compressed_frame_is_named_by_file_episode_and_number(compressed, codec):
    made = ShardSet(compressed[codec].folder, compressed[codec].manifest)
    made.rows(0).coded.payload[36] = made.rows(0).coded.payload[36][:9]
    assert len(made.frames(0, slice(32, 36))) == 4
    with pytest.raises(UserError, match=rf"a\.parquet, episode e0, frame 36: .* no {codec} of 48 x 64 .*--from"):
        made.frames(0, slice(34, 40))


@pytest.mark.parametrize("codec", ["png", "h264"])
def test_a_set_without_actions_and_tasks(tmp_path, sets, videos, codec):
    schema = sets.schema.model_copy(update={"codec": codec, "frame_shape": (48, 64), "action_space": {}, "tasks": ()})
    plain = replace(numbered(sets, videos, "e", 9, schema), actions={}, events=np.zeros((9, 0), np.uint8), labelled=np.zeros(9, bool))
    commit_manifest(tmp_path, schema, [write_shard(tmp_path, "a.parquet", [plain], schema)], made_by={}, parents={})
    found = open_shards(tmp_path)
    read = found.read_episode(0)
    assert (read.actions, read.events.shape) == ({}, (9, 0))
    assert [len(column) for column in found.event_frames()] == [0, 0, 0]
    clip = read_clip(found, [ClipRef(0, 2, 5, task=0, relevant=False, label=True)])
    assert [videos.number(frame) for frame in clip.frames[0].numpy()] == [2, 3, 4, 5, 6]
    assert clip.notes.actions == {} and not clip.notes.rewards.any() and not clip.notes.labelled.any()


def test_withheld_labels_are_not_read(tmp_path, sets):
    made = sets.make(tmp_path, [5, 7], events={0: [(2, 1)], 1: [(3, 0)]})
    (file,) = made.manifest.files
    shown, hidden = file.episodes
    changed = file.model_copy(update={"episodes": (shown, hidden.model_copy(update={"labelled": False}))})
    commit_manifest(tmp_path, made.schema, [changed], made_by={}, parents={})
    found = open_shards(tmp_path)
    assert_same(found.read_episode(0), made.read_episode(0))
    one, other = found.read_episode(1), made.read_episode(1)
    np.testing.assert_array_equal(one.frames, other.frames)
    assert other.labelled.any() and other.events.any()
    assert not one.labelled.any() and not one.events.any() and not any(values.any() for values in one.actions.values())
    assert [column.tolist() for column in found.event_frames()] == [[0], [2], [1]]


def test_what_was_dropped_is_kept_with_the_file(tmp_path, sets):
    dropped = Counter()

    def episodes():
        yield sets.episode("a", 3)
        dropped["frames of lag"] += 4

    written = write_shard(tmp_path, "x.parquet", episodes(), sets.schema, job="7", dropped=dropped)
    assert written.dropped == {"frames of lag": 4}
    assert existing_shard(tmp_path, "x.parquet", sets.schema, job="7") == written
    assert existing_shard(tmp_path, "x.parquet", sets.schema, ["a"], job="8") is None


def test_episodes_that_fail_leave_no_file(tmp_path, sets):
    def episodes():
        yield sets.episode("a", 3)
        raise BadRecordingError("damaged")

    with pytest.raises(BadRecordingError):
        write_shard(tmp_path, "x.parquet", episodes(), sets.schema)
    assert list(tmp_path.iterdir()) == []


def test_every_episode_is_its_own_row_group(tmp_path, sets):
    sets.make(tmp_path, [5, 3, 4])
    groups = [shards.pq.ParquetFile(tmp_path / name).metadata for name in ("part-000.parquet", "part-001.parquet")]
    assert [[g.row_group(i).num_rows for i in range(g.num_row_groups)] for g in groups] == [[5, 3], [4]]


def test_the_cache_keeps_to_its_bound_and_forgets_the_oldest_first(tmp_path, sets):
    made = sets.make(tmp_path, [10] * 8)
    one = made.rows(0).bytes
    small = ShardSet(tmp_path, made.manifest, cache_bytes=3 * one + one // 2)
    for index in [0, 1, 2, 0, 3, 4, 5, 6, 7, 1, 0]:
        first = small.rows(index)
        held = sum(rows.bytes for rows in small._cache.values())
        assert held == small._cached
        assert held <= small._cache_bytes
        assert small.rows(index) is first
    assert len(small._cache) == 3
    assert list(small._cache) == [7, 1, 0]


def test_reading_again_moves_an_episode_to_the_end_of_the_queue(tmp_path, sets):
    made = sets.make(tmp_path, [10] * 4)
    small = ShardSet(tmp_path, made.manifest, cache_bytes=2 * made.rows(0).bytes + 100)
    kept = small.rows(0)
    small.rows(1), small.rows(0), small.rows(2)
    assert small.rows(0) is kept
    assert 1 not in small._cache


def test_an_episode_larger_than_the_cache_is_still_read(tmp_path, sets):
    small = ShardSet(tmp_path, sets.make(tmp_path, [10, 10]).manifest, cache_bytes=1)
    assert [len(small.read_episode(i).frames) for i in (0, 1, 0)] == [10, 10, 10]
    assert len(small._cache) == 1


def test_event_frames_are_those_of_the_episodes(tmp_path, sets):
    events = {0: [(0, 1), (4, 0)], 1: [(0, 2)], 2: [(0, 1), (1, 2), (1, 0)], 3: [(5, 2), (5, 2)]}
    made = sets.make(tmp_path, [5, 7, 2, 6], events=events)
    found = set(zip(*(column.tolist() for column in made.event_frames()), strict=True))
    assert found == {(i, frame, task) for i, pairs in events.items() for frame, task in pairs}


def test_the_fingerprint_is_that_of_the_contents(tmp_path, sets):
    a, again, b = sets.make(tmp_path / "a", [3, 4]), sets.make(tmp_path / "again", [3, 4]), sets.make(tmp_path / "b", [3, 4], died=[1])
    assert a.fingerprint == again.fingerprint == open_shards(tmp_path / "a").fingerprint
    assert a.fingerprint != b.fingerprint


def test_existing_shard_gives_the_entry_that_writing_gave(tmp_path, sets):
    episodes = [sets.episode("a", 3), sets.episode("b", 4, first=3)]
    written = write_shard(tmp_path, "x.parquet", episodes, sets.schema)
    found = existing_shard(tmp_path, "x.parquet", sets.schema, ["a", "b"])
    assert found == written
    assert found.model_dump_json() == written.model_dump_json()


@pytest.mark.parametrize("names", [["a"], ["b", "a"], ["a", "c"], ["a", "b", "c"], []])
def test_existing_shard_wants_the_same_episodes(tmp_path, sets, names):
    write_shard(tmp_path, "x.parquet", [sets.episode("a", 3), sets.episode("b", 4)], sets.schema)
    assert existing_shard(tmp_path, "x.parquet", sets.schema, names) is None


@pytest.mark.parametrize("change", [{"fps": 10.0}, {"frame_shape": (6, 4)}, {"tasks": ("chop", "dig", "fly")}])
def test_existing_shard_wants_the_same_schema(tmp_path, sets, change):
    write_shard(tmp_path, "x.parquet", [sets.episode("a", 3)], sets.schema)
    assert existing_shard(tmp_path, "x.parquet", sets.schema.model_copy(update=change), ["a"]) is None
    assert existing_shard(tmp_path, "other.parquet", sets.schema, ["a"]) is None


@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.9, -1])
def test_a_file_cut_short_is_not_taken_for_a_finished_one(tmp_path, sets, keep):
    path = tmp_path / "x.parquet"
    write_shard(tmp_path, "x.parquet", [sets.episode("a", 30)], sets.schema)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    assert existing_shard(tmp_path, "x.parquet", sets.schema, ["a"]) is None


def test_a_file_of_somebody_else_is_not_taken_for_a_finished_one(tmp_path, sets):
    for name, metadata in (("none", {}), ("odd", {"dreamer_ray": "{"}), ("list", {"dreamer_ray": "[]"})):
        table = shards.pa.table({"a": [1]}).replace_schema_metadata(metadata)
        shards.pq.write_table(table, tmp_path / name)
        assert existing_shard(tmp_path, name, sets.schema, []) is None, name


def test_a_damaged_file_is_not_taken_for_a_finished_one_unless_nothing_that_is_read_is_damaged(tmp_path, sets):
    path = tmp_path / "x.parquet"
    entry = write_shard(tmp_path, "x.parquet", [sets.episode("a", 3), sets.episode("b", 4, events=[(1, 1)])], sets.schema)
    whole = path.read_bytes()

    def rows(file) -> list:
        commit_manifest(tmp_path, sets.schema, [file], made_by={}, parents={})
        return [open_shards(tmp_path).rows(index) for index in (0, 1)]

    wanted, taken = rows(entry), 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        if found := existing_shard(tmp_path, "x.parquet", sets.schema, ["a", "b"]):
            assert found.episodes == entry.episodes
            for one, other in zip(rows(found), wanted, strict=True):
                assert one.coded.payload == other.coded.payload
                assert (one.labelled == other.labelled).all() and (one.events == other.events).all()
                assert (one.continues == other.continues).all()
                assert all((one.actions[name] == other.actions[name]).all() for name in sets.space)
            taken += 1
    assert 0 < taken < len(whole) / 7 / 2, "statistics that nobody reads, and the like"


class Crash(BaseException):
    """Ends a writer at once, as a kill does."""


def crash(*_):
    raise Crash


def test_a_crash_before_the_rename_leaves_no_file(tmp_path, sets, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(Crash):
            write_shard(tmp_path, "x.parquet", [sets.episode("a", 3)], sets.schema)
    assert not (tmp_path / "x.parquet").exists()
    assert existing_shard(tmp_path, "x.parquet", sets.schema, ["a"]) is None
    entry = write_shard(tmp_path, "x.parquet", [sets.episode("a", 3)], sets.schema)
    assert existing_shard(tmp_path, "x.parquet", sets.schema, ["a"]) == entry
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_a_crash_while_writing_keeps_the_file_that_was_there(tmp_path, sets, monkeypatch):
    entry = write_shard(tmp_path, "x.parquet", [sets.episode("a", 3)], sets.schema)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "to_table", crash)
        with pytest.raises(Crash):
            write_shard(tmp_path, "x.parquet", [sets.episode("b", 5)], sets.schema)
    assert existing_shard(tmp_path, "x.parquet", sets.schema, ["a"]) == entry


def test_a_crash_before_the_manifest_stands_leaves_the_set_unfinished(tmp_path, sets, monkeypatch):
    files = sets.files(tmp_path, [3, 4])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(Crash):
            commit_manifest(tmp_path, sets.schema, files, made_by={}, parents={})
    with pytest.raises(shards.UserError, match=r"no manifest.json.*run it first"):
        open_shards(tmp_path)
