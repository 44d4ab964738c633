"""Which side a recording is on, where a single one is divided, and whose labels are kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_ray.data.shards import EpisodeEntry, ShardFile
from dreamer_ray.data.splits import in_time, keep_labels, sides
from dreamer_ray.errors import UserError

GROUPS = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=30, unique=True)
LENGTHS = st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=5), min_size=1, max_size=12)


@settings(deadline=None)
@given(groups=GROUPS, heldout=st.floats(0.01, 0.99), seed=st.integers(0, 99), data=st.data())
def test_a_split_is_a_function_of_names_and_seed_with_both_sides_taken(groups, heldout, seed, data):
    found = sides(groups, heldout=heldout, seed=seed)
    assert set(found) == set(groups)
    assert set(found.values()) == {"train", "heldout"}
    assert sides(data.draw(st.permutations(groups)), heldout=heldout, seed=seed) == found


def test_groups_that_come_later_move_no_other():
    names = [f"player-{i}" for i in range(400)]
    few, all_of_them = sides(names[:200], heldout=0.2, seed=3), sides(names, heldout=0.2, seed=3)
    assert {name: all_of_them[name] for name in names[:200]} == few
    assert sum(side == "heldout" for side in all_of_them.values()) == pytest.approx(80, abs=20)
    assert sides(names, heldout=0.2, seed=4) != all_of_them


def test_the_only_group_is_trained_on_unless_its_place_says_otherwise():
    assert set(sides(["a"], heldout=1e-9, seed=0).values()) == {"train"}


@settings(deadline=None)
@given(frames=st.integers(4, 10_000), heldout=st.floats(0.01, 0.9), gap=st.integers(0, 300))
def test_the_end_of_a_recording_is_held_out_behind_a_gap(frames, heldout, gap):
    try:
        begin, end = (in_time(frames, part, heldout=heldout, gap=gap, name="x") for part in ("begin", "end"))
    except UserError:
        assert min(frames - round(heldout * frames) - gap, round(heldout * frames)) < 2
        return
    assert begin.start == 0
    assert end.stop == frames
    assert end.start - begin.stop == gap
    assert frames - end.start == round(heldout * frames)
    assert min(begin.stop, end.stop - end.start) >= 2


def test_a_recording_too_short_to_be_divided_is_named_with_the_remedy():
    with pytest.raises(
        UserError, match=r"recording walk: .*of its 100 frames heldout = 0\.1 and heldout_gap = 95 leave 0 to train on.*add"
    ):
        in_time(100, "end", heldout=0.1, gap=95, name="walk")
    assert in_time(1, "whole", heldout=0.1, gap=95, name="walk") == slice(0, 1)


def files_of(lengths: list[list[int]]) -> list[ShardFile]:
    return [
        ShardFile(name=f"{i}", sha256="", episodes=tuple(EpisodeEntry(name=f"{i}-{k}", length=n, info={}) for k, n in enumerate(each)))
        for i, each in enumerate(lengths)
    ]


@settings(deadline=None)
@given(lengths=LENGTHS, fraction=st.floats(0, 1), hours=st.none() | st.floats(0, 2))
def test_labels_are_those_of_the_first_episodes_within_both_budgets(lengths, fraction, hours):
    files = files_of(lengths)
    kept = keep_labels(files, fraction=fraction, hours=hours, fps=1.0)
    assert [[e.model_copy(update={"labelled": True}) for e in file.episodes] for file in kept] == [list(file.episodes) for file in files]
    flags = [episode.labelled for file in kept for episode in file.episodes]
    assert flags == sorted(flags, reverse=True), "the first ones, in the order of the data set"
    every = [n for each in lengths for n in each]
    budget = min(fraction * sum(every), np.inf if hours is None else hours * 3600)
    assert sum(every[: sum(flags)]) <= budget + 1e-6
    assert all(flags) or sum(every[: sum(flags) + 1]) > budget, "as many as fit"


def test_a_budget_of_hours_counts_episodes():
    kept = keep_labels(files_of([[1800, 1800], [3600], [3600]]), fraction=1.0, hours=1.5, fps=1.0)
    assert [[episode.labelled for episode in file.episodes] for file in kept] == [[True, True], [False], [False]]
    kept = keep_labels(files_of([[1800, 1800], [1800, 1800]]), fraction=0.5, hours=None, fps=1.0)
    assert [[episode.labelled for episode in file.episodes] for file in kept] == [[True, True], [False, False]]


def test_a_part_of_a_single_recording_can_be_labelled():
    (kept,) = keep_labels(files_of([[100] * 10]), fraction=0.35, hours=None, fps=1.0)
    assert [episode.labelled for episode in kept.episodes] == [True] * 3 + [False] * 7
