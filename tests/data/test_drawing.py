"""Pictures with what is known of them below: what lights up, where arrow and bars point, and that sheets and clips hold what they say."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dreamer_ray.data.action_names import EntryNames, action_names
from dreamer_ray.data.drawing import LIT, Moment, Panel, contact_sheet
from dreamer_ray.data.recognition import found_at
from dreamer_ray.data.rows import Episode
from dreamer_ray.data.shards import commit_manifest, write_shard
from dreamer_ray.data.showing import write_clip, write_sheet
from dreamer_ray.data.vpt_actions import VPT_ACTIONS, encode_mouse
from dreamer_ray.errors import UserError
from dreamer_ray.types import Binary, Categorical, Continuous

LUANTI = Path(__file__).parent / "luanti"
BLACK = np.zeros((32, 64, 3), np.uint8)
SPACE = {"keys": Binary(size=3), "tool": Categorical(size=2), "arm": Continuous(size=2)}
NAMES = {"keys": EntryNames(("left", "jump", "use")), "tool": EntryNames(("none", "sword"), 0), "arm": EntryNames(("x", "y"))}
NULL = {"keys": np.zeros(3), "tool": np.array(0), "arm": np.zeros(2)}


def lit(picture: np.ndarray) -> np.ndarray:
    """Rows and columns of the pixels that are lit, ``[n, 2]``."""
    return np.argwhere((picture == np.array(LIT)).all(axis=2))


def drawn(actions, *, space=SPACE, names=NAMES, events=()) -> np.ndarray:
    return Panel(space, names).draw(BLACK, Moment("a #0", actions, events))


def test_nothing_lights_up_where_nothing_is_done_or_known():
    assert len(set(lit(drawn(NULL))[:, 1])) == 1  # the middle of the two bars
    assert len(lit(drawn(None))) == 0
    assert drawn(None).shape == drawn(NULL).shape


def test_keys_that_are_held_light_up_in_their_order():
    places = []
    for key in range(3):
        changed = lit(drawn(NULL | {"keys": np.eye(3)[key]}))
        assert len(changed) > 200
        places.append(np.median(changed[:, 1]))
    assert places == sorted(places) and len(set(places)) == 3


def test_bars_go_to_the_side_of_their_sign_as_far_as_their_value():
    left, right, full = (lit(drawn(NULL | {"arm": np.array([x, 0.0])})) for x in (-0.5, 0.5, 7.0))
    middle = np.median(lit(drawn(NULL))[:, 1])
    assert left[:, 1].min() < middle < right[:, 1].max()
    assert abs((middle - left[:, 1].min()) - (right[:, 1].max() - middle)) <= 2
    assert full[:, 1].max() - middle == pytest.approx(2 * (right[:, 1].max() - middle), abs=3)
    assert full[:, 1].max() < drawn(NULL).shape[1]


def test_the_arrow_points_where_the_mouse_turns():
    names = {"keys": EntryNames(), "mouse": EntryNames(tuple(map(str, range(121))), 60, turns=True)}

    def arrow(pitch: float, yaw: float) -> np.ndarray:
        action = {"keys": np.zeros(23), "mouse": encode_mouse(np.array([pitch, yaw]))}
        marks = lit(drawn(action, space=VPT_ACTIONS, names=names))
        return marks[marks[:, 1] < 84].mean(axis=0)  # without the text beside it

    up, down, left, right = arrow(-5, 0), arrow(5, 0), arrow(0, -5), arrow(0, 5)
    assert up[0] < left[0] < down[0] and left[0] == pytest.approx(right[0], abs=1)
    assert left[1] < up[1] < right[1] and up[1] == pytest.approx(down[1], abs=1)


def test_a_choice_other_than_none_is_lit_text_and_events_are_shown():
    assert len(lit(drawn(NULL | {"tool": np.array(1)}))) > len(lit(drawn(NULL)))
    green = [int((np.diff(drawn(NULL, events=events).astype(int), axis=2)[..., 0] > 60).sum()) for events in ((), ("coin",))]
    assert green[0] == 0 < green[1]


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 64), (360, 640), (1080, 1920), (2000, 10), (10, 2000)])
def test_pictures_of_all_sizes_have_room_and_even_sides(shape):
    made = Panel(SPACE, NAMES).draw(np.full((*shape, 3), 255, np.uint8), Moment("\x1b[2J" * 200, NULL))
    assert made.shape[0] % 2 == made.shape[1] % 2 == 0
    assert max(made.shape) <= 2200
    assert contact_sheet([(np.zeros((*shape, 3), np.uint8), "x" * 900)], 4).size[0] < 1000


def shown(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_clip_holds_the_pictures_from_its_start_on(tmp_path):
    ((_, found),) = found_at(str(LUANTI), None, {})
    name, count = write_clip(found, tmp_path / "clip.mp4", recording=None, start=30, frames=4)
    assert (name, count) == (found.source.index()[0].name, 4)
    pictures = shown(tmp_path / "clip.mp4")
    assert len(pictures) == 4
    recorded = [picture for number, picture in zip(range(32), found.source.read(found.source.index()[0]).pictures, strict=False)][-1]
    assert np.abs(pictures[1][:360].astype(int) - recorded).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"recording": "nobody"}, "--recording nobody: is not in .*; there is luanti"), ({"start": 10_000}, "has no picture 10000; the last")],
)
def test_a_clip_of_what_is_not_there_is_refused(tmp_path, options, message):
    ((_, found),) = found_at(str(LUANTI), None, {})
    with pytest.raises(UserError, match=message):
        write_clip(found, tmp_path / "clip.mp4", **({"recording": None, "start": 0, "frames": 3} | options))
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_shows_pictures_of_recordings_at_even_distances(tmp_path, sets):
    sets.make(tmp_path / "train", [40] * 9)
    ((_, found),) = found_at(str(tmp_path / "train"), None, {})
    sheet = write_sheet(found, tmp_path / "sheet.png")
    assert (sheet.pictures, sheet.recordings, sheet.bad) == (24, 6, ())
    colors = np.unique(np.asarray(Image.open(tmp_path / "sheet.png")).reshape(-1, 3), axis=0)
    numbers = sorted(int(r) + 256 * int(g) for r, g, b in colors if b == 7)
    episodes = [0, 40, 120, 160, 240, 280]
    assert numbers == [first + frame for first in episodes for frame in (5, 15, 25, 35)]


def test_latents_have_no_sheet(tmp_path, sets):
    schema = sets.schema.model_copy(update={"codec": "float16"})
    episode = sets.episode("train-000000", 5)
    codes = np.zeros((5, *sets.schema.frame_shape), np.float16)
    latents = Episode(episode.name, codes, episode.actions, episode.labelled, episode.events, episode.continues, {})
    commit_manifest(tmp_path, schema, [write_shard(tmp_path, "a.parquet", [latents], schema)], made_by={}, parents={})
    ((_, found),) = found_at(str(tmp_path), None, {})
    with pytest.raises(UserError, match=r"no picture for a sheet: latents hold none \(name the folder of the shards\)"):
        write_sheet(found, tmp_path / "sheet.png")


def test_minecraft_and_crafter_have_names(tmp_path):
    ((_, found),) = found_at(str(LUANTI), None, {})
    names = action_names(found.source)
    assert names["keys"].of(11) == "forward"
    assert names["mouse"].of(60) == "still" and names["mouse"].null == 60
    assert names["mouse"].of(61) == "pitch +0.0 yaw +0.6"
