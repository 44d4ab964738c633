"""Minari data sets, written by minari itself, and such as it would not write."""

import json
import sys
import tracemalloc
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from dreamer_ray.data import minari_episodes
from dreamer_ray.data.minari_sets import MinariConfig, MinariSource
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.stretches import at_rate
from dreamer_ray.errors import UserError
from dreamer_ray.types import Binary, Categorical, Continuous

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

PIXELS = spaces.Box(0, 255, (16, 24, 3), np.uint8)
ARM = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
LENGTHS = (5, 8)


def source(root: Path, **options) -> MinariSource:
    values = {"kind": "minari", "dataset": "made/here-v0", "root": str(root), "fps": 15.0}
    return MinariSource(MinariConfig.model_validate(values | options))


def pictures(episode: int, length: int, shape: tuple[int, ...] = (16, 24, 3)) -> list[np.ndarray]:
    return [np.full(shape, 100 * episode + 5 * t, np.uint8) for t in range(length + 1)]


def made(
    root: Path, monkeypatch, *, observation=PIXELS, action=ARM, observations=pictures, act=None, data_format="hdf5", jpeg=False
) -> Path:
    """A data set ``made/here-v0`` of two episodes; the second one ends in a terminal state, the first is cut."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    rng = np.random.default_rng(0)
    buffers = []
    for episode, length in enumerate(LENGTHS):
        taken = act(length) if act else [np.array([rng.uniform(-2, 2), rng.uniform(0, 10)], np.float32) for _ in range(length)]
        ended = [t == length - 1 for t in range(length)]
        buffers.append(
            EpisodeBuffer(
                id=episode,
                observations=observations(episode, length),
                actions=taken,
                rewards=[float(t in (2, 3)) for t in range(length)],
                terminations=[end and episode == 1 for end in ended],
                truncations=[end and episode == 0 for end in ended],
            )
        )
    minari.create_dataset_from_buffers(
        "made/here-v0", buffers, observation_space=observation, action_space=action, data_format=data_format, jpeg_encoding=jpeg
    )
    return root / "made" / "here-v0" / "data"


def test_a_set_that_was_written_again_is_made_from_something_else(tmp_path, monkeypatch):
    """The time of its folder tells nothing: the file in it is changed in place."""
    data = made(tmp_path, monkeypatch)
    before = [source(tmp_path).made_from(recording) for recording in source(tmp_path).index()]
    assert before == [source(tmp_path).made_from(recording) for recording in source(tmp_path).index()]
    with h5py.File(data / "main_data.hdf5", "r+") as file:
        file["episode_0"]["actions"][0] = 1.0
    assert all(source(tmp_path).made_from(recording) not in before for recording in source(tmp_path).index())


def test_pictures_actions_events_and_ends(tmp_path, monkeypatch):
    data = made(tmp_path, monkeypatch)
    found = source(tmp_path)
    assert (found.action_space, found.tasks, found.fps) == ({"action": Continuous(size=2)}, ("reward",), 15)
    with h5py.File(data / "main_data.hdf5") as file:
        written = [np.array(file[f"episode_{i}"]["actions"]) for i in range(2)]
    for episode, recording in enumerate(found.index()):
        reading = found.read(recording)
        (take,) = reading.takes
        length = LENGTHS[episode]
        np.testing.assert_array_equal(np.stack(list(reading.pictures)), np.stack(pictures(episode, length)))
        assert take.labelled.tolist() == [True] * length + [False]
        assert np.abs(take.actions["action"]).max() <= 1
        scaling = Scaling.of_note(take.info["scaling.action"])
        np.testing.assert_allclose(scaling.unscaled(take.actions["action"][:-1]), written[episode], atol=1e-5)
        assert np.argwhere(take.events).tolist() == [[3, 0]]
        assert take.continues.tolist() == [1.0] * length + [0.0 if episode == 1 else 1.0]


def test_grey_pictures_that_are_a_part_of_the_observation(tmp_path, monkeypatch):
    made(
        tmp_path,
        monkeypatch,
        observation=spaces.Dict({"camera": spaces.Dict({"front": spaces.Box(0, 255, (16, 24), np.uint8)}), "arm": ARM}),
        observations=lambda episode, length: {
            "camera": {"front": pictures(episode, length, (16, 24))},
            "arm": [np.zeros(2, np.float32)] * (length + 1),
        },
    )
    found = source(tmp_path)
    assert found.picture == "camera.front"
    shown = list(found.read(found.index()[1]).pictures)
    assert shown[0].shape == (16, 24, 3)
    assert [int(picture[0, 0, 0]) for picture in shown] == [100 + 5 * t for t in range(9)]


@pytest.mark.parametrize(
    ("space", "act", "component", "wanted"),
    [
        (spaces.Discrete(4, start=2), lambda n: [np.int64(2 + t % 4) for t in range(n)], Categorical(size=4), [0, 1, 2, 3, 0, 0]),
        (
            spaces.MultiBinary(2),
            lambda n: [np.array([t % 2, 1], np.int8) for t in range(n)],
            Binary(size=2),
            [[0, 1], [1, 1], [0, 1], [1, 1], [0, 1], [0, 0]],
        ),
    ],
    ids=["discrete", "binary"],
)
def test_other_spaces_of_actions(tmp_path, monkeypatch, space, act, component, wanted):
    made(tmp_path, monkeypatch, action=space, act=act)
    found = source(tmp_path)
    assert found.action_space == {"action": component}
    assert found.read(found.index()[0]).takes[0].actions["action"].tolist() == wanted


@pytest.mark.parametrize("several", ["last", "mean", "sum"])
def test_at_a_third_of_the_rate_numbers_are_what_the_config_says_and_choices_the_first(tmp_path, monkeypatch, several):
    act = lambda n: {"arm": [np.array([t / 8, t], np.float32) for t in range(n)], "tool": [np.int64(t % 3) for t in range(n)]}  # noqa: E731
    made(tmp_path, monkeypatch, action=spaces.Dict({"arm": ARM, "tool": spaces.Discrete(3)}), act=act)
    found = source(tmp_path, several=several)
    take = found.read(found.index()[1]).takes[0]
    slower = at_rate(take, found.action_space, source_fps=15.0, fps=5.0, name="x").actions
    arm = Scaling.between(ARM.low, ARM.high).unscaled(slower["arm"])
    np.testing.assert_allclose(arm[:2, 1], {"last": [2, 5], "mean": [1, 4], "sum": [3, 12]}[several], atol=1e-5)
    assert slower["tool"][:2].tolist() == [0, 0]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("jpeg", [False, True])
def test_pictures_deep_in_the_observation_are_those_that_minari_reads(tmp_path, monkeypatch, data_format, jpeg):
    space = spaces.Tuple((ARM, spaces.Dict({"eye": spaces.Box(0, 255, (40, 48, 3), np.uint8)})))
    rng = np.random.default_rng(0)
    seen = lambda _, n: ([ARM.low] * (n + 1), {"eye": list(rng.integers(0, 256, (n + 1, 40, 48, 3), np.uint8))})  # noqa: E731
    made(tmp_path, monkeypatch, observation=space, observations=seen, data_format=data_format, jpeg=jpeg)
    found = source(tmp_path)
    shown = np.stack(list(found.read(found.index()[1]).pictures))
    (episode,) = minari.load_dataset("made/here-v0").iterate_episodes([1])
    np.testing.assert_array_equal(shown, episode.observations[1]["eye"])


def test_a_long_episode_is_never_in_memory_whole(tmp_path, monkeypatch):
    count, space = 600, spaces.Dict({"eye": spaces.Box(0, 255, (64, 64, 3), np.uint8), "state": spaces.Box(-1, 1, (2000,))})
    monkeypatch.setattr(sys.modules[__name__], "LENGTHS", (4, count - 1))
    monkeypatch.setattr(minari_episodes, "MOST_BYTES", 2**18)
    seen = lambda _, n: {"eye": np.zeros((n + 1, 64, 64, 3), np.uint8), "state": np.zeros((n + 1, 2000), np.float32)}  # noqa: E731
    made(tmp_path, monkeypatch, observation=space, observations=seen)
    found = source(tmp_path)
    recording = found.index()[1]
    tracemalloc.start()
    reading = found.read(recording)
    assert sum(1 for _ in reading.pictures) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21, "of pictures of 7 MB, and beside them 5 MB that are no pictures"


def test_damaged_pictures_are_named_as_they_are_read(tmp_path, monkeypatch):
    space = spaces.Box(0, 255, (40, 48, 3), np.uint8)
    seen = lambda _, n: [np.full((40, 48, 3), t, np.uint8) for t in range(n + 1)]  # noqa: E731
    data = made(tmp_path, monkeypatch, observation=space, observations=seen, jpeg=True)
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_0/observations"][3] = np.zeros_like(file["episode_0/observations"][3])
    found = source(tmp_path)
    with pytest.raises(BadRecordingError, match=r"main_data\.hdf5: picture 3 of .*episode_0/observations cannot be read"):
        list(found.read(found.index()[0]).pictures)


def test_a_dictionary_of_actions_is_a_component_each(tmp_path, monkeypatch):
    made(
        tmp_path,
        monkeypatch,
        action=spaces.Dict({"arm": ARM, "grip": spaces.Discrete(2)}),
        act=lambda n: {"arm": [np.zeros(2, np.float32)] * n, "grip": [np.int64(t % 2) for t in range(n)]},
    )
    found = source(tmp_path)
    assert found.action_space == {"arm": Continuous(size=2), "grip": Categorical(size=2)}
    assert found.read(found.index()[0]).takes[0].actions["grip"].tolist() == [0, 1, 0, 1, 0, 0]


def test_observations_without_pictures_are_refused_with_what_they_are(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, observation=ARM, observations=lambda episode, length: [np.zeros(2, np.float32)] * (length + 1))
    with pytest.raises(UserError, match=r"has no pictures \(the observation is Box\(.*record the environment's render"):
        source(tmp_path).index()


def test_several_pictures_want_a_choice(tmp_path, monkeypatch):
    made(
        tmp_path,
        monkeypatch,
        observation=spaces.Dict({"left": PIXELS, "right": PIXELS}),
        observations=lambda episode, length: {"left": pictures(episode, length), "right": pictures(episode, length)},
    )
    with pytest.raises(UserError, match=r"choose with observation: left \| right"):
        source(tmp_path).index()
    assert len(source(tmp_path, observation="right").index()) == 2
    with pytest.raises(UserError, match="observation 'up' is no picture; there is left, right"):
        source(tmp_path, observation="up").index()


def test_actions_of_an_unknown_space_are_refused(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, action=spaces.Text(4), act=lambda n: ["up"] * n)
    with pytest.raises(UserError, match=r"action is Text.*no space of actions that is read here"):
        source(tmp_path).index()


def test_a_data_set_that_is_not_there_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="'minari download made/here-v0' fetches it"):
        source(tmp_path).index()


def test_without_minari_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r"run: pip install 'minari\[hdf5\]'"):
        source(tmp_path).index()


def test_metadata_does_not_make_an_environment(tmp_path, monkeypatch):
    """Without spaces minari would make the environment that the file names, whatever code that is."""
    data = made(tmp_path, monkeypatch)
    metadata = json.loads((data / "metadata.json").read_text())
    del metadata["action_space"]
    spec = gymnasium.envs.registration.EnvSpec("Evil-v0", entry_point="antigravity:Evil")
    (data / "metadata.json").write_text(json.dumps(metadata | {"env_spec": spec.to_json()}))
    with pytest.raises(UserError, match="action_space is missing"):
        source(tmp_path).index()
    assert "antigravity" not in sys.modules


def test_a_link_that_leads_out_is_refused(tmp_path, monkeypatch):
    data = made(tmp_path / "root", monkeypatch)
    (data / "main_data.hdf5").rename(tmp_path / "elsewhere.hdf5")
    (data / "main_data.hdf5").symlink_to(tmp_path / "elsewhere.hdf5")
    with pytest.raises(UserError, match="is a link that leads out of"):
        source(tmp_path / "root").index()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda group: group.__delitem__("actions"), "cannot be read"),
        (lambda group: replace(group, "rewards", np.zeros(4)), "4 rewards do not fit to its observations"),
        (lambda group: replace(group, "rewards", np.full(5, np.nan)), "reward of step 0 is not finite"),
        (lambda group: replace(group, "actions", np.full((5, 2), np.inf)), "action is float64, or not finite"),
        (lambda group: replace(group, "actions", np.zeros((5, 3))), "wanted 2 numbers a step"),
        (lambda group: replace(group, "actions", np.zeros((3, 2))), "do not fit to its action"),
        (lambda group: replace(group, "terminations", np.zeros(9)), "do not fit to its terminations"),
    ],
)
def test_an_episode_that_minari_would_not_write_costs_itself_only(tmp_path, monkeypatch, change, message):
    data = made(tmp_path, monkeypatch)
    with h5py.File(data / "main_data.hdf5", "a") as file:
        change(file["episode_0"])
    found = source(tmp_path)
    with pytest.raises(BadRecordingError, match="episode-000000") as caught:
        found.read(found.index()[0])
    assert message in str(caught.value)
    found.read(found.index()[1])


def replace(group, name: str, values: np.ndarray):
    del group[name]
    group[name] = values


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    root = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch:
        made(root, patch)
    return root


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["observation_space", "action_space", "data_format", "total_episodes", "total_steps", "minari_version", "dataset_id"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2),
)
def test_no_metadata_crashes_the_reader(scratch, key, value):
    path = scratch / "made" / "here-v0" / "data" / "metadata.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {key: value}))
    try:
        found = source(scratch)
        for recording in found.index()[:4]:
            found.read(recording)
    except (UserError, BadRecordingError) as error:
        refusal = str(error)
    else:
        return
    finally:
        path.write_text(whole)
    assert "here-v0" in refusal
