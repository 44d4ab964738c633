"""MineRL-v0 trajectories in the layout of minerl 0.4, made here, and such as nobody should."""

import hashlib
import json
import shutil
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_ray.data.minerl import CHOICES, KEYS, MINERL_ACTIONS, MinerlConfig, MinerlSource, player
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.vpt_actions import encode_mouse
from dreamer_ray.errors import RunError, UserError

ENVIRONMENT, STREAM = "MineRLObtainDiamond-v0", "v3_absolute_grape_changeling-6_36-2062"
STATES, SKIPPED = 12, 5


def arrays() -> dict[str, np.ndarray]:
    steps = STATES - 1
    made = {f"action${name}": np.zeros(steps, np.int64) for name in KEYS}
    made["action$attack"][2:6] = 1
    made["action$camera"] = np.tile(np.array([1.5, -30.0], np.float32), (steps, 1))
    made |= {f"action${name}": np.full(steps, "none") for name in CHOICES}
    made["action$craft"] = np.array(["none"] * 7 + ["planks"] + ["none"] * 3)
    log = np.zeros(STATES, np.int64)
    log[6:] = 2
    made |= {"observation$inventory$log": log, "observation$inventory$planks": np.repeat([0, 4], [8, 4])}
    made["observation$equipped_items$mainhand$type"] = np.full(STATES, "air")
    reward = np.zeros(steps, np.float32)
    reward[5], reward[7] = 1, 2
    return made | {"reward": reward}


def film(path: Path, count: int):
    """Picture i is grey ``10 i``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20, options={"crf": "8"})
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        for i in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * i, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


def trajectory(folder: Path, *, environment: str = ENVIRONMENT, stream: str = STREAM, **changes) -> Path:
    place = folder / environment / stream
    place.mkdir(parents=True)
    np.savez_compressed(place / "rendered.npz", **(arrays() | changes))
    film(place / "recording.mp4", STATES + SKIPPED)
    metadata = {"success": True, "duration_steps": STATES - 1, "total_reward": 3.0, "stream_name": stream}
    (place / "metadata.json").write_text(json.dumps(metadata | {"true_video_frame_count": STATES + SKIPPED}))
    return place


def source(folder: Path, **options) -> MinerlSource:
    return MinerlSource(MinerlConfig.model_validate({"kind": "minerl", "path": str(folder)} | options))


@pytest.fixture
def place(tmp_path) -> Path:
    return trajectory(tmp_path / "data")


@pytest.fixture
def found(place) -> MinerlSource:
    return source(place.parents[1])


def test_a_trajectory_is_one_take_behind_the_pictures_before_it(found):
    (recording,) = found.index()
    assert (recording.name, recording.group) == (f"{ENVIRONMENT}-{STREAM}", "absolute_grape_changeling")
    reading = found.read(recording)
    (take,) = reading.takes
    assert take.first == SKIPPED
    assert reading.dropped["pictures before the first state"] == SKIPPED
    shown = [picture.mean() for picture in reading.pictures]
    np.testing.assert_allclose(shown, [10.0 * i for i in range(16)] + [150.0], atol=2)  # the last repeats the one before


def test_actions_are_keys_the_mouse_and_choices(found):
    take = found.read(found.index()[0]).takes[0]
    assert take.actions.keys() == MINERL_ACTIONS.keys()
    assert np.flatnonzero(take.actions["keys"][:, KEYS.index("attack")]).tolist() == [2, 3, 4, 5]
    turn, still = encode_mouse(np.array([1.5, -30.0])), encode_mouse(np.zeros(2))
    assert take.actions["mouse"].tolist() == [turn] * 11 + [still]
    assert take.actions["craft"].tolist() == [0] * 7 + [CHOICES["craft"].index("planks")] + [0] * 4
    assert take.labelled.tolist() == [True] * 11 + [False]


def test_what_is_got_and_rewards_arrive_with_the_next_picture(found):
    take = found.read(found.index()[0]).takes[0]
    names = found.tasks
    happened = {(int(t), names[i]) for t, i in np.argwhere(take.events)}
    assert happened == {(6, "log"), (8, "planks"), (6, "reward"), (8, "reward")}
    assert take.events.shape == (STATES, len(names)) and names[-1] == "reward"


@pytest.mark.parametrize(("success", "last"), [(True, 0.0), (False, 1.0)])
def test_only_success_is_terminal_and_only_at_the_end(place, found, success, last):
    metadata = json.loads((place / "metadata.json").read_text())
    (place / "metadata.json").write_text(json.dumps(metadata | {"success": success}))
    assert found.read(found.index()[0]).takes[0].continues.tolist() == [1.0] * 11 + [last]


def test_choices_may_be_numbers_and_an_environment_may_have_none(tmp_path):
    place = trajectory(tmp_path, **{"action$craft": np.full(STATES - 1, 3)})
    with np.load(place / "rendered.npz") as file:
        kept = {name: file[name] for name in file.files if name not in ("action$place", "observation$inventory$planks")}
    np.savez_compressed(place / "rendered.npz", **kept)
    take = source(tmp_path).read(source(tmp_path).index()[0]).takes[0]
    assert take.actions["craft"].tolist() == [3] * 11 + [0]
    assert not take.actions["place"].any()
    assert not take.events[:, source(tmp_path).tasks.index("planks")].any()


def test_a_choice_that_is_not_known_is_not_labelled_and_counted(tmp_path):
    trajectory(tmp_path, **{"action$equip": np.array(["bow"] * 3 + ["none"] * 8)})
    reading = source(tmp_path).read(source(tmp_path).index()[0])
    assert reading.takes[0].labelled.tolist() == [False] * 3 + [True] * 8 + [False]
    assert reading.dropped["actions whose equip is unknown"] == 3


def test_environments_and_trajectories_are_chosen(tmp_path):
    trajectory(tmp_path)
    trajectory(tmp_path, environment="MineRLTreechop-v0", stream="v3_villainous_black_eyed_peas-2_95-97")
    assert len(source(tmp_path).index()) == 2
    (chosen,) = source(tmp_path, environments=("MineRLTreechop-v0",)).index()
    assert chosen.group == "villainous_black_eyed_peas"
    (kept,) = source(tmp_path, leave_out=(STREAM,)).index()
    assert kept.name == chosen.name
    with pytest.raises(UserError, match="there are 2 that environments leaves out"):
        source(tmp_path, environments=("MineRLNavigate-v0",)).index()


def test_an_empty_folder_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="download: true fetches them from Zenodo"):
        source(tmp_path).index()


def test_who_played():
    assert {player(f"v3_able_ant-{i}_{i}-99") for i in range(3)} == {"able_ant"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.zeros(40, np.float32)}, "41 states, its video has 17 pictures"),
        ({"reward": np.zeros((11, 2), np.float32)}, "array reward is float32 of shape (11, 2)"),
        ({"reward": np.full(11, np.nan)}, "array reward is not finite in row 0"),
        ({"reward": np.array(["a"] * 11)}, "array reward is <U1"),
        ({"action$attack": np.zeros(10)}, "array action$attack is float64 of shape (10,), wanted 11 rows"),
        ({"action$camera": np.zeros((11, 3))}, "array action$camera has 3 columns, wanted 2"),
        ({"action$camera": np.full((11, 2), np.inf)}, "array action$camera is not finite"),
        ({"action$craft": np.zeros((11, 2))}, "action$craft is float64 of shape (11, 2)"),
        ({"action$vector": np.zeros((11, 64))}, "obfuscated vectors"),
        ({"action$craft": np.array([{}] * 11)}, "allow_pickle"),
    ],
)
def test_arrays_that_nobody_should_write_cost_the_trajectory(tmp_path, changes, message):
    trajectory(tmp_path, **changes)
    found = source(tmp_path)
    with pytest.raises(BadRecordingError, match=r"rendered\.npz") as caught:
        found.read(found.index()[0])
    assert message in str(caught.value)


@pytest.mark.parametrize("count", [0, -1, 10**30, "17", None, 3.5])
def test_a_frame_count_that_is_none(place, found, count):
    (place / "metadata.json").write_text(json.dumps({"true_video_frame_count": count}))
    with pytest.raises(BadRecordingError, match=r"metadata\.json: true_video_frame_count"):
        found.read(found.index()[0])


@pytest.mark.parametrize("name", ["recording.mp4", "metadata.json", "rendered.npz"])
def test_a_file_that_leads_out_of_the_folder(place, found, name, tmp_path):
    (place / name).rename(tmp_path / name)
    (place / name).symlink_to(tmp_path / name)
    with pytest.raises(BadRecordingError, match="is a link that leads out of"):
        found.read(found.index()[0])


def test_a_video_that_is_shorter_than_it_says(place, found):
    film(place / "recording.mp4", 9)
    pictures = found.read(found.index()[0]).pictures
    with pytest.raises(BadRecordingError, match=r"has 9 pictures, its metadata\.json says 17"):
        list(pictures)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return trajectory(tmp_path_factory.mktemp("minerl"))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_damage_of_the_arrays_crashes_the_reader(scratch, data):
    damage(scratch, data, "rendered.npz")


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(st.data())
def test_no_damage_of_the_arrays_crashes_the_reader_at_length(scratch, data):
    damage(scratch, data, "rendered.npz")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_damage_of_the_notes_crashes_the_reader(scratch, data):
    damage(scratch, data, "metadata.json")


def damage(place: Path, data: st.DataObject, name: str):
    """A file with some bytes changed or its end cut off: it is read, or refused by name."""
    whole = (place / name).read_bytes()
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        broken[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del broken[data.draw(st.integers(len(whole) // 2, len(whole))) :]
    (place / name).write_bytes(broken)
    found = source(place.parents[1])
    try:
        assert len(found.read(found.index()[0]).takes[0].labelled) <= STATES + SKIPPED
    except BadRecordingError as error:
        refusal = str(error)
    else:
        return
    finally:
        (place / name).write_bytes(whole)
    assert name in refusal


def test_what_is_missing_is_fetched_from_the_record(tmp_path):
    """A local server stands in for Zenodo."""
    trajectory(tmp_path / "packed")
    served = tmp_path / "served"
    served.mkdir()
    archive = served / f"{ENVIRONMENT}.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted((tmp_path / "packed").rglob("*.*")):
            if path.is_file():
                packed.write(path, path.relative_to(tmp_path / "packed"))
    shutil.rmtree(tmp_path / "packed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/"
        content = archive.read_bytes()
        listed = {"key": archive.name, "size": len(content), "checksum": f"md5:{hashlib.md5(content).hexdigest()}"}
        (served / "12659939").write_text(json.dumps({"files": [listed | {"links": {"self": address + archive.name}}]}))
        options = {"download": True, "records": address}
        (recording,) = source(tmp_path / "data", environments=(ENVIRONMENT,), **options).index()
        assert len(list(source(tmp_path / "data").read(recording).pictures)) == STATES + SKIPPED
        assert [path.name for path in (tmp_path / "data").iterdir()] == [ENVIRONMENT]
        with pytest.raises(UserError, match="MineRLNavigate-v0 is not on Zenodo; there are MineRLObtainDiamond-v0"):
            source(tmp_path / "data", environments=("MineRLNavigate-v0",), **options).index()
        assert len(source(tmp_path / "all", **options).index()) == 1
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert len(source(tmp_path / "data", environments=(ENVIRONMENT,), **options).index()) == 1, "nobody is asked where nothing is missing"
    assert len(source(tmp_path / "all", **options).index()) == 1
    shutil.rmtree(tmp_path / "all" / ENVIRONMENT)
    for folder in ("all", "data"):
        with pytest.raises(RunError, match="cannot be asked"):
            source(tmp_path / folder, **options).index()
