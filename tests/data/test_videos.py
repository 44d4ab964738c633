"""A folder of videos, with tables of actions beside them or without, and such tables as nobody should write."""

import json
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.sources import BadRecordingError, Take
from dreamer_ray.data.videos import VideosConfig, VideosSource
from dreamer_ray.errors import UserError
from dreamer_ray.types import Binary, Categorical, Continuous

X264 = dict.fromkeys((".mp4", ".mov", ".mkv", ".m4v", ".3gp", ".ts", ".mts", ".m2ts", ".flv"), "libx264")
CODECS = X264 | {".avi": "mpeg4", ".webm": "libvpx", ".ogv": "libvpx", ".wmv": "wmv2", ".mpg": "mpeg2video", ".mpeg": "mpeg1video"}
COLUMNS = """
frame: frame
actions:
  keys: {kind: binary, columns: [left, jump]}
  weapon: {kind: categorical, column: weapon, values: [none, sword, bow]}
  mouse: {kind: continuous, columns: [dx, dy], low: -10, high: 30}
events: {coin: coins}
terminal: dead
"""
HEADER = "frame,left,jump,weapon,dx,dy,coins,dead"


def film(path: Path, greys: list[int], fps: int = 10, times: list[float] | None = None):
    """``times`` in seconds, one a picture, where they are not evenly spaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix.lower()], rate=fps)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 32, 48, "yuv420p", 10**6
        stream.codec_context.gop_size = 5
        for i, grey in enumerate(greys):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), grey, np.uint8), format="rgb24")
            frame.pts = i if times is None else round(times[i] * fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def source(folder: Path, **options) -> VideosSource:
    return VideosSource(VideosConfig.model_validate({"kind": "videos", "path": str(folder)} | options))


def takes(folder: Path, **options) -> tuple[Take, ...]:
    found = source(folder, **options)
    return found.read(found.index()[0]).takes


def write_table(folder: Path, rows: list[str], *, columns: str = COLUMNS, header: str = HEADER, pictures: int = 8):
    film(folder / "play.mp4", [20 * i for i in range(pictures)])
    (folder / "actions.yaml").write_text(columns)
    (folder / "play.csv").write_text("\n".join([header, *rows]) + "\n")


def row(frame: object, left=0, jump=0, weapon="none", dx: object = 0, dy=0, coins=0, dead=0) -> str:
    return f"{frame},{left},{jump},{weapon},{dx},{dy},{coins},{dead}"


ROWS = [row(0, left=1), row(1, jump=1, weapon="bow"), row(2, dx=30, dy=-10), row(3, coins=2), *(row(t) for t in range(4, 8))]


@pytest.mark.parametrize("suffix", [*CODECS, ".MP4"])
def test_videos_without_actions_are_unlabelled(tmp_path, suffix):
    fps = 25 if suffix.startswith(".mp") and suffix.endswith("g") else 10  # of the few rates that MPEG-1 and 2 know
    film(tmp_path / f"holiday{suffix}", [20 * i for i in range(8)], fps=fps)
    found = source(tmp_path)
    assert (found.action_space, found.tasks) == ({}, ())
    assert found.fps == pytest.approx(fps, rel=0.01)
    reading = found.read(found.index()[0])
    (take,) = reading.takes
    assert take.first == 0 and take.actions == {} and take.events.shape == (8, 0)
    assert not take.labelled.any() and take.continues.all()
    shown = list(reading.pictures)
    np.testing.assert_allclose([picture.mean() for picture in shown], [20.0 * i for i in range(8)], atol=8)
    assert shown[0].shape == (32, 48, 3)


def test_a_table_says_what_was_done(tmp_path):
    write_table(tmp_path, ROWS)
    found = source(tmp_path)
    assert found.action_space == {"keys": Binary(size=2), "weapon": Categorical(size=3), "mouse": Continuous(size=2)}
    assert found.tasks == ("coin",)
    (take,) = takes(tmp_path)
    assert take.labelled.all()
    assert take.actions["keys"].tolist() == [[1, 0], [0, 1]] + [[0, 0]] * 6
    assert take.actions["weapon"].tolist() == [0, 2] + [0] * 6
    np.testing.assert_allclose(take.actions["mouse"][2], [1, -1])
    np.testing.assert_allclose(Scaling.of_note(take.info["scaling.mouse"]).unscaled(take.actions["mouse"])[2], [30, -10])
    assert np.argwhere(take.events).tolist() == [[3, 0]] and take.events[3, 0] == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".npz"])
def test_the_three_formats_say_the_same(tmp_path, suffix):
    write_table(tmp_path, ROWS)
    (wanted,) = takes(tmp_path)
    names = HEADER.split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in ROWS]
    typed = [{name: cell if name == "weapon" else float(cell) for name, cell in each.items()} for each in rows]
    (tmp_path / "play.csv").unlink()
    if suffix == ".jsonl":
        (tmp_path / "play.jsonl").write_text("".join(json.dumps(each) + "\n\n" for each in typed))
    elif suffix == ".npz":
        np.savez(tmp_path / "play.npz", **{name: np.array([each[name] for each in typed]) for name in names})
    else:
        (tmp_path / "play.csv").write_text("\ufeff" + HEADER.replace(",", " , ") + "\r\n" + "\r\n\r\n".join(ROWS))
    (take,) = takes(tmp_path)
    for name, values in wanted.actions.items():
        np.testing.assert_array_equal(take.actions[name], values)
    np.testing.assert_array_equal(take.events, wanted.events)


def test_lists_and_arrays_of_two_dimensions_are_numbered_columns(tmp_path):
    columns = "actions:\n  arm: {kind: continuous, columns: [arm.0, arm.1]}\n"
    write_table(tmp_path, [], columns=columns)
    (tmp_path / "play.csv").unlink()
    values = np.linspace(-1, 1, 16, dtype=np.float32).reshape(8, 2)
    np.savez(tmp_path / "play.npz", arm=values)
    np.testing.assert_allclose(takes(tmp_path)[0].actions["arm"], values)
    (tmp_path / "play.npz").unlink()
    (tmp_path / "play.jsonl").write_text("".join(json.dumps({"arm": pair}) + "\n" for pair in values.tolist()))
    np.testing.assert_allclose(takes(tmp_path)[0].actions["arm"], values)


def test_a_picture_without_a_row_is_not_labelled_unless_rows_hold(tmp_path):
    rows = [row(1, left=1), row(4, jump=1)]
    write_table(tmp_path, rows)
    (take,) = takes(tmp_path)
    assert np.flatnonzero(take.labelled).tolist() == [1, 4]
    assert take.actions["keys"][4].tolist() == [0, 1]
    write_table(tmp_path, rows, columns=COLUMNS + "hold: true\n")
    (take,) = takes(tmp_path)
    assert np.flatnonzero(take.labelled).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert take.actions["keys"].tolist() == [[0, 0]] + [[1, 0]] * 3 + [[0, 1]] * 4


@pytest.mark.parametrize(("several", "wanted"), [("last", 4), ("sum", 7), ("mean", 3.5)])
def test_several_rows_of_one_picture_count_together(tmp_path, several, wanted):
    rows = [row(2, left=1, dx=3), row(2, dx=4, coins=1), row(3, dx=1), row(3, coins=1), row(3, coins=1)]
    write_table(tmp_path, rows, columns=COLUMNS.replace("high: 30", f"high: 10, several: {several}"))
    found = source(tmp_path)
    reading = found.read(found.index()[0])
    (take,) = reading.takes
    assert take.actions["mouse"][2, 0] == pytest.approx(wanted / 10)
    assert take.actions["keys"][2].tolist() == [1, 0]
    assert take.events[[2, 3], 0].tolist() == [1, 2]
    assert reading.dropped["rows beside another of the same picture"] == 3


def read_by_time(folder: Path, rows: list[str]):
    write_table(folder, rows, columns=COLUMNS.replace("frame: frame", "time: frame"))
    found = source(folder)
    return found.read(found.index()[0])


def test_actions_by_time_belong_to_the_last_picture_shown_by_then(tmp_path):
    reading = read_by_time(tmp_path, [row(seconds, left=1) for seconds in (-3.0, 0.04, 0.08, 0.26, 0.36, 0.5, 0.76, 99.0)])
    assert np.flatnonzero(reading.takes[0].labelled).tolist() == [0, 2, 3, 5, 7]
    assert reading.dropped["rows of no picture"] == 2


def test_events_by_time_arrive_with_the_first_picture_from_then_on(tmp_path):
    reading = read_by_time(tmp_path, [row(seconds, coins=1) for seconds in (-3.0, -0.05, 0.04, 0.08, 0.26, 0.5, 0.74, 99.0)])
    assert reading.takes[0].events[:, 0].tolist() == [1, 2, 0, 1, 0, 1, 0, 1]


def test_an_end_by_time_is_the_first_picture_from_then_on(tmp_path):
    reading = read_by_time(tmp_path, [row(0.0), row(0.32, dead=1), row(0.5), row(0.71, dead=1)])
    assert [take.first for take in reading.takes] == [0, 5]
    assert [take.continues[-1] for take in reading.takes] == [0, 0]


def test_times_rounded_to_hundredths_are_those_of_the_pictures(tmp_path):
    film(tmp_path / "play.mp4", [20 * i for i in range(8)], fps=30)
    (tmp_path / "actions.yaml").write_text(COLUMNS.replace("frame: frame", "time: frame"))
    (tmp_path / "play.csv").write_text("\n".join([HEADER, *(row(round(t / 30, 2), left=t % 2, coins=t % 2) for t in range(8))]) + "\n")
    (take,) = takes(tmp_path)
    assert take.actions["keys"][:, 0].tolist() == take.events[:, 0].tolist() == [0, 1] * 4


def test_rows_without_a_clock_are_one_a_picture_and_may_differ_by_two(tmp_path):
    columns = COLUMNS.replace("frame: frame\n", "")
    write_table(tmp_path, [row(0, left=1)] * 6, columns=columns)
    assert np.flatnonzero(takes(tmp_path)[0].labelled).tolist() == [0, 1, 2, 3, 4, 5]
    write_table(tmp_path, [row(0)] * 5, columns=columns)
    with pytest.raises(BadRecordingError, match=r"play\.csv: 5 rows, its video has 8 pictures; .*frame: or time:"):
        takes(tmp_path)


def test_an_end_cuts_the_recording_in_two(tmp_path):
    write_table(tmp_path, [row(t, dead=int(t == 4)) for t in range(8)])
    first, second = takes(tmp_path)
    assert (first.first, len(first.labelled), second.first, len(second.labelled)) == (0, 5, 5, 3)
    assert first.continues.tolist() == [1, 1, 1, 1, 0] and second.continues.all()


def test_a_jump_in_time_cuts_the_recording_in_two(tmp_path):
    film(tmp_path / "cut.mp4", [10] * 8, times=[0, 0.1, 0.2, 0.3, 1.5, 1.6, 1.7, 1.8])
    first, second = takes(tmp_path)
    assert (len(first.labelled), second.first, len(second.labelled)) == (4, 4, 4)


@pytest.mark.parametrize(("pause", "lengths"), [(0.15, [3, 1, 4]), (1.0, [8]), (3.0, [8])])
def test_only_a_pause_ends_a_take(tmp_path, pause, lengths):
    times = [0, 0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9]
    film(tmp_path / "phone.mp4", [10] * 8, times=times)
    found = takes(tmp_path, pause=pause)
    assert [len(take.labelled) for take in found] == lengths
    np.testing.assert_allclose(np.concatenate([take.times for take in found]), times, atol=1e-3)


def test_a_slow_film_has_no_pauses(tmp_path):
    film(tmp_path / "flower.mkv", [10] * 5, times=[0, 3, 6, 9, 12])
    (take,) = takes(tmp_path)
    assert len(take.labelled) == 5


def test_videos_of_several_rates_lie_in_one_folder(tmp_path):
    film(tmp_path / "a.mp4", [10] * 6)
    film(tmp_path / "b.mp4", [10] * 6, fps=25)
    found = source(tmp_path)
    assert found.fps == 10
    slow, fast = (found.read(recording).takes[0].times for recording in found.index())
    np.testing.assert_allclose([slow, fast], [np.arange(6) / 10, np.arange(6) / 25], atol=1e-3)


def test_a_given_rate_holds_whatever_the_video_says(tmp_path):
    film(tmp_path / "steps.mp4", [10] * 8, fps=30, times=[0, 1 / 30, 3 / 30, 4 / 30, 2, 3, 4, 5])
    found = source(tmp_path, fps=20)
    (take,) = found.read(found.index()[0]).takes
    assert found.fps == 20
    np.testing.assert_allclose(take.times, np.arange(8) / 20)


def test_one_video_of_a_folder_has_its_own_rate(tmp_path):
    film(tmp_path / "a.mp4", [10] * 6)
    film(tmp_path / "b.mp4", [10] * 6, fps=25)
    found = VideosSource(VideosConfig(kind="videos", path=str(tmp_path)), tmp_path / "b.mp4")
    assert found.fps == pytest.approx(25)
    assert [recording.name for recording in found.index()] == ["b.mp4"]


def test_names_are_plain_and_different(tmp_path):
    for name in ("a/b.mp4", "a-b.mp4", "Ünïcode (1).mp4", "_x.mp4", ".hidden.mp4", "a/.trash/c.mp4"):
        film(tmp_path / name, [10] * 3)
    names = [recording.name for recording in source(tmp_path).index()]
    assert len(set(names)) == 4
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") for name in names)
    assert names == [recording.name for recording in source(tmp_path).index()]


def test_a_folder_may_be_on_one_side_of_the_split(tmp_path):
    for name in ("one/a.mp4", "one/b.mp4", "two/a.mp4"):
        film(tmp_path / name, [10] * 3)
    assert len({recording.group for recording in source(tmp_path).index()}) == 3
    assert [recording.group for recording in source(tmp_path, group="folder").index()] == ["one", "one", "two"]


def test_a_video_without_a_table_is_unlabelled_among_others(tmp_path):
    write_table(tmp_path, ROWS)
    film(tmp_path / "watched.mp4", [10] * 5)
    found = source(tmp_path)
    (take,) = found.read(found.index()[1]).takes
    assert not take.labelled.any()
    assert {name: values.shape for name, values in take.actions.items()} == {"keys": (5, 2), "weapon": (5,), "mouse": (5, 2)}


def test_tables_that_nothing_reads_are_told_of(tmp_path):
    write_table(tmp_path, ROWS)
    assert source(tmp_path).doubts() == ()
    film(tmp_path / "watched.mp4", [10] * 5)
    (doubt,) = source(tmp_path).doubts()
    assert "1 of 2 videos, such as watched.mp4, have no table (.csv, .jsonl, .npz) of the same name, and are not labelled" in doubt
    assert source(tmp_path).read(source(tmp_path).index()[1]).dropped == {"actions of pictures whose video has no table": 5}
    (tmp_path / "watched_actions.csv").write_text(HEADER)
    assert "; 1 tables such as watched_actions.csv are of no video's name" in source(tmp_path).doubts()[0]
    (tmp_path / "actions.yaml").unlink()
    assert "1 tables such as play.csv lie beside videos, but no actions.yaml says what" in source(tmp_path).doubts()[0]
    (tmp_path / "play.csv").unlink()
    assert source(tmp_path).doubts() == ()


def test_an_action_file_of_another_name_is_refused(tmp_path):
    write_table(tmp_path, ROWS)
    (tmp_path / "actions.yaml").rename(tmp_path / "actions.yml")
    with pytest.raises(UserError, match=r"actions\.yml: is not read under this name; call it actions\.yaml"):
        source(tmp_path).index()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(0), row(1, left=2)], "play.csv, line 3, column left: '2' is neither 0 nor 1"),
        ([row(0, weapon="axe")], "play.csv, line 2, column weapon: 'axe' is none of none, sword, bow"),
        ([row(0, dx="fast")], "play.csv, line 2, column dx: 'fast' is no finite number"),
        ([row(0, dx="nan")], "column dx: 'nan' is no finite number"),
        ([row(0, dx="")], "column dx: '' is missing"),
        ([row(0, dx="1" * 400)], "column dx: '1111"),
        ([row(0, coins=-1)], "column coins: -1.0 is no count"),
        ([row(0, coins=0.5)], "column coins: 0.5 is no count"),
        ([row(0, dead="maybe")], "column dead: 'maybe'"),
        ([row("")], "column frame: '' is missing"),
        ([row(2.5)], "line 2, column frame: 2.5 is no number of a picture"),
        ([row(3), row(2)], "line 3, column frame: 2 comes after 3"),
        ([row(99)], "none of its 1 rows belongs to one of the 8 pictures"),
        ([row(0), "1,2"], "line 3: 2 cells, its first line names 8 columns"),
    ],
)
def test_a_cell_that_nobody_should_write_is_refused_by_file_line_column_and_value(tmp_path, rows, message):
    write_table(tmp_path, rows)
    with pytest.raises(BadRecordingError) as caught:
        takes(tmp_path)
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("play.csv", "", "is empty"),
        ("play.csv", "a,a\n1,2\n", "name each column once"),
        ("play.csv", "left,jump\n0,0\n", "has no column 'frame'; it has left, jump"),
        ("play.csv", "\ud800", "is not a csv file"),
        ("play.jsonl", "", "is empty"),
        ("play.jsonl", '{"frame": 0}\n[1]\n', "line 2: is list, wanted an object"),
        ("play.jsonl", '{"frame": 0}\n{"frame":\n', "line 2: is not JSON"),
        ("play.jsonl", '{"frame": NaN}', "line 1: is not JSON"),
        ("play.jsonl", '{"frame": ' + "9" * 400 + "}", "column frame"),
        ("play.jsonl", '{"frame": 0}', "has no column 'left'"),
        ("play.npz", "PK no", "play.npz"),
    ],
)
def test_a_table_that_is_none(tmp_path, name, content, message):
    write_table(tmp_path, [])
    (tmp_path / "play.csv").unlink()
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadRecordingError, match="play") as caught:
        takes(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"frame": np.arange(8), "left": np.zeros(3)}, "not of one length"),
        ({"frame": np.zeros((8, 2, 2))}, "wanted [rows] or [rows, columns]"),
        ({"frame": np.zeros((1, 5000))}, "wanted [rows] or [rows, columns]"),
        ({"frame": np.array([{}] * 8)}, "allow_pickle"),
        ({"frame": np.full(8, np.nan)}, "row 0, column frame"),
        ({"frame": np.zeros(0)}, "not of one length above 0"),
    ],
)
def test_arrays_that_nobody_should_write(tmp_path, arrays, message):
    write_table(tmp_path, [])
    (tmp_path / "play.csv").unlink()
    np.savez(tmp_path / "play.npz", **arrays)
    with pytest.raises(BadRecordingError) as caught:
        takes(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("", "holds NoneType"),
        ("[]", "holds list"),
        ("actions: {}", "actions = {}"),
        ("actions: &a [*a]", "alias"),
        ("[" * 50_000, "more than 1000 brackets"),
        ("[" * 900, "cannot be read as YAML"),
        ("actions: [", "YAML"),
        ("actions: {keys: {kind: binary, columns: [a]}, keys: {kind: binary, columns: [b]}}", "stands twice"),
        ("actions: {keys: {kind: binary, columns: []}}", "columns"),
        ("actions: {keys: {kind: bool, columns: [a]}}", "bool"),
        ("actions: {keys: {kind: binary, colums: [a]}}", "unknown key actions.keys.binary.colums"),
        ("actions: {'../k': {kind: binary, columns: [a]}}", "../k"),
        ("actions: {pick: {kind: categorical, column: a}}", "give either size"),
        ("actions: {pick: {kind: categorical, column: a, size: 3, values: [a, b]}}", "give either size"),
        ("actions: {pick: {kind: categorical, column: a, values: [a, a]}}", "two different"),
        ("actions: {pick: {kind: categorical, column: a, size: 99999999999999999999}}", "size"),
        ("actions: {arm: {kind: continuous, columns: [a], low: 1, high: 1}}", "low (1.0) must be below high"),
        ("actions: {arm: {kind: continuous, columns: [a], high: .inf}}", "high"),
        ("actions: {keys: {kind: binary, columns: [a]}}\nframe: f\ntime: t", "give frame or time"),
        ("actions: {keys: {kind: binary, columns: [a]}}\nhold: true", "wants a frame or time column"),
        ("actions: {keys: {kind: binary, columns: [a]}}\nterminl: dead", "did you mean terminal?"),
    ],
)
def test_columns_that_are_not_understood_stop_the_whole_folder(tmp_path, columns, message):
    write_table(tmp_path, ROWS, columns=columns)
    with pytest.raises(UserError, match=r"actions\.yaml") as caught:
        source(tmp_path).index()
    assert message in str(caught.value)


def test_two_tables_or_two_videos_of_one_name_are_ambiguous(tmp_path):
    write_table(tmp_path, ROWS)
    (tmp_path / "play.jsonl").write_text("{}")
    with pytest.raises(BadRecordingError, match=r"several tables, play\.csv and play\.jsonl"):
        takes(tmp_path)
    (tmp_path / "play.jsonl").unlink()
    film(tmp_path / "play.avi", [10] * 8)
    with pytest.raises(BadRecordingError, match=r"may belong to play\.avi or play\.mp4"):
        takes(tmp_path)


def test_links_that_lead_out_are_refused_by_name(tmp_path):
    film(tmp_path / "elsewhere/secret.mp4", [10] * 4)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "play.mp4").symlink_to(tmp_path / "elsewhere" / "secret.mp4")
    with pytest.raises(BadRecordingError, match=r"play\.mp4: is a link that leads out of .*or name the folder that holds the files"):
        source(tmp_path / "set", fps=10).read(source(tmp_path / "set").index()[0])


@pytest.mark.parametrize(("name", "message"), [("nowhere", "is not there"), ("empty", "holds no video")])
def test_a_folder_without_videos(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        source(tmp_path / name).index()


def test_a_folder_in_which_no_video_can_be_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"none of its 1 videos can be read; the first: .*a\.mp4"):
        _ = source(tmp_path).fps


def test_a_picture_is_no_video(tmp_path):
    film(tmp_path / "one.mp4", [10])
    with pytest.raises(BadRecordingError, match="has 1 picture"):
        takes(tmp_path, fps=10)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_table(folder, ROWS)
    return folder


CELL = st.sampled_from(["", "0", "1", "-1", "true", "nan", "1e999", "bow", '"', ",", "\n", "\x00", "9" * 30]) | st.text(max_size=5)


def try_table(folder: Path, content: bytes, suffix: str):
    """Whatever stands in the table: it is read, or refused by name."""
    for name in ("play.csv", "play.jsonl", "play.npz"):
        (folder / name).unlink(missing_ok=True)
    (folder / f"play{suffix}").write_bytes(content)
    try:
        assert sum(len(take.labelled) for take in takes(folder, fps=10)) == 8
    except BadRecordingError as error:
        refusal = str(error)
    else:
        return
    assert f"play{suffix}" in refusal


def csv_of(cells: list[list[str]]) -> bytes:
    return "\n".join([HEADER, *(",".join(line) for line in cells)]).encode("utf-8", "replace")


TABLES = st.tuples(st.lists(st.lists(CELL, min_size=8, max_size=8), max_size=10).map(csv_of), st.just(".csv"))
LINES = st.dictionaries(
    st.sampled_from(HEADER.split(",")), st.none() | st.booleans() | st.integers() | st.floats() | CELL | st.lists(st.integers(), max_size=2)
)
TABLES |= st.tuples(st.lists(LINES.map(json.dumps), max_size=6).map(lambda lines: "\n".join(lines).encode()), st.just(".jsonl"))
TABLES |= st.tuples(st.binary(max_size=300), st.sampled_from([".csv", ".jsonl", ".npz"]))


@settings(max_examples=100, deadline=None)
@given(TABLES)
def test_no_table_crashes_the_reader(scratch, table):
    try_table(scratch, *table)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(TABLES)
def test_no_table_crashes_the_reader_at_length(scratch, table):
    try_table(scratch, *table)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_of_a_video_crashes_the_reader(damaged, data):
    whole = (damaged / "whole").read_bytes()
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del broken[data.draw(st.integers(1, len(whole))) :]
    (damaged / "a.mp4").write_bytes(broken)
    found = source(damaged, fps=10)
    try:
        reading = found.read(found.index()[0])
        assert sum(1 for _ in reading.pictures) <= 20
    except BadRecordingError as error:
        refusal = str(error)
    else:
        return
    assert "a.mp4" in refusal


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    film(folder / "a.mp4", [20 * i for i in range(10)])
    (folder / "a.mp4").rename(folder / "whole")
    return folder


def test_a_source_travels_to_another_process(tmp_path):
    write_table(tmp_path, ROWS)
    found = source(tmp_path)
    (recording,) = found.index()
    assert found.fps == 10
    travelled = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(travelled.read(recording).takes[0].actions["keys"], found.read(recording).takes[0].actions["keys"])
