"""Rounds of play during training: what is counted, what stands in their file, who plays which version."""

import json
from pathlib import Path

import pytest

from dreamer_ray.envs.crafter import LADDER, TASKS
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.evaluation.intervals import success_rate
from dreamer_ray.evaluation.rounds import PLAYED, Claims, Round, append_round, read_rounds, summarized

RUNGS = {task: TASKS.index(task) for task in LADDER}


def episode(seed: int, **achieved: int) -> EpisodeResult:
    return EpisodeResult(seed, [achieved.get(task, 0) for task in TASKS], [-1] * len(TASKS), 10, died=False)


def a_round(version: int, wood: int = 1) -> Round:
    return summarized(version, [episode(7, collect_wood=wood), episode(8)], RUNGS, seconds=1.5)


def test_success_counts_worlds_and_ladder_events_count_events():
    episodes = [episode(7, collect_wood=5, place_table=1, wake_up=3), episode(8, collect_wood=1), episode(9), episode(10)]
    played = summarized(4, episodes, RUNGS, seconds=2.0)
    assert list(played.success) == list(LADDER)
    assert played.success["collect_wood"] == success_rate(2, 4)
    assert played.success["place_table"] == success_rate(1, 4)
    assert played.worlds == {7: 6, 8: 1, 9: 0, 10: 0}
    assert (played.ladder_events.value, played.ladder_events.n) == (1.75, 4)


def test_rounds_are_read_as_written_in_the_order_of_their_versions(tmp_path):
    rounds = [a_round(9), a_round(3, wood=0), a_round(12, wood=4)]
    for played in rounds:
        append_round(tmp_path, played)
    assert read_rounds(tmp_path) == [rounds[1], rounds[0], rounds[2]]
    assert [json.loads(line)["version"] for line in (tmp_path / PLAYED).read_text().splitlines()] == [9, 3, 12]


def test_a_line_that_a_kill_has_cut_costs_itself_only(tmp_path):
    append_round(tmp_path, a_round(3))
    content = (tmp_path / PLAYED).read_bytes()
    (tmp_path / PLAYED).write_bytes(content + content[:-9])
    append_round(tmp_path, a_round(5))
    assert read_rounds(tmp_path) == [a_round(3), a_round(5)]


def test_a_version_that_was_played_again_counts_once(tmp_path):
    append_round(tmp_path, a_round(3, wood=0))
    append_round(tmp_path, a_round(3, wood=2))
    assert read_rounds(tmp_path) == [a_round(3, wood=2)]


def test_without_a_file_there_are_no_rounds(tmp_path: Path):
    assert read_rounds(tmp_path) == []


def test_the_line_for_people_leaves_out_what_never_happened():
    assert a_round(3, wood=3).line() == "version 3 in 2 worlds  ladder_events 1.5  collect_wood 0.5"
    assert a_round(3, wood=0).line() == "version 3 in 2 worlds  ladder_events 0"


def test_a_version_is_played_once_and_an_older_one_never():
    claims = Claims(played=4)
    assert not claims.claim(0, 4)
    assert claims.claim(0, 6)
    assert not claims.claim(1, 6)
    assert not claims.claim(1, 5)
    assert claims.claim(1, 7)
    claims.release(1, played=True)
    claims.release(0, played=True)
    assert claims.played == 7


@pytest.mark.parametrize("lost", [6, 5])
def test_a_lost_round_may_be_played_again(lost):
    claims = Claims(played=4)
    assert claims.claim(0, lost)
    claims.release(0, played=False)
    claims.release(0, played=False)
    assert claims.played == 4
    assert claims.claim(1, lost)
