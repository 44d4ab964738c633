"""Events of a VPT recording: rises of statistics, and of the inventory where the recorder kept no statistics of crafting."""

import json
from collections import Counter

import numpy as np
import pytest

from dreamer_ray.data.vpt_events import DIAMOND_LADDER, read_events


def stats(gui=False, held=None, **counts) -> bytes:
    line: dict = {"isGuiOpen": gui, "stats": {name.replace("__", ":minecraft."): n for name, n in counts.items()}}
    line["stats"] = {f"minecraft.{name}": n for name, n in line["stats"].items()}
    if held is not None:
        line["inventory"] = [{"type": name, "quantity": n} for name, n in held]
    return json.dumps(line).encode()


def events(lines, **rules) -> list[list[int]]:
    return read_events(lines, {name: (rule,) if isinstance(rule, str) else rule for name, rule in rules.items()}).T.tolist()


def test_the_ladder_is_the_papers_twenty_tasks():
    assert len(DIAMOND_LADDER) == 20
    kinds = [name.partition("_")[0] for name in DIAMOND_LADDER]
    assert kinds == ["mine"] * 5 + ["craft"] * 8 + ["open"] * 2 + ["place"] * 2 + ["use"] * 3


def test_an_event_is_a_rise_and_the_first_line_has_none():
    lines = [stats(mine_block__oak_log=n) for n in (3, 3, 4, 6, 6)]
    assert events(lines, log="mine_block:*_log") == [[0, 0, 1, 2, 0]]


def test_a_statistic_that_appears_rises_from_nothing():
    lines = [stats(custom__jump=1), stats(custom__jump=1, mine_block__diamond_ore=1)]
    assert read_events(lines, DIAMOND_LADDER)[1].tolist() == [0, 0, 0, 0, 1] + [0] * 15


@pytest.mark.parametrize(
    ("statistic", "task"),
    [
        ("mine_block__birch_log", "mine_log"),
        ("mine_block__stone", "mine_cobblestone"),
        ("mine_block__iron_ore", "mine_iron_ore"),
        ("mine_block__coal_ore", "mine_coal"),
        ("craft_item__dark_oak_planks", "craft_planks"),
        ("craft_item__iron_ingot", "craft_iron_ingot"),
        ("custom__interact_with_furnace", "open_furnace"),
        ("use_item__crafting_table", "place_crafting_table"),
        ("use_item__stone_pickaxe", "use_stone_pickaxe"),
    ],
)
def test_each_statistic_is_the_event_of_one_task(statistic, task):
    happened = read_events([stats(), stats(**{statistic: 1})], DIAMOND_LADDER)[1]
    assert {name for name, count in zip(DIAMOND_LADDER, happened, strict=True) if count} == {task}


def test_a_new_world_begins_anew():
    lines = [stats(mine_block__stone=n) for n in (9, 0, 1)]
    assert events(lines, stone="mine_block:stone") == [[0, 0, 1]]


def test_lines_without_statistics_are_bridged():
    broken = [b'{"stats": {"minecraft.mine_block:minecraft.stone": "many"}}', b"{", b'{"stats": null}', b'{"stats": []}', b"{}"]
    lines = [stats(mine_block__stone=1), *broken, b"  ", stats(mine_block__stone=2)]
    assert events(lines, stone="mine_block:stone") == [[0] * 6 + [1]]


def test_many_at_once_are_kept_in_a_byte():
    assert events([stats(custom__walk_one_cm=n) for n in (0, 7000)], walk="custom:walk_one_cm") == [[0, 255]]


def test_a_task_may_have_several_rules():
    lines = [stats(), stats(mine_block__stone=1), stats(mine_block__stone=1, mine_block__cobblestone=1)]
    assert events(lines, stone=("mine_block:stone", "mine_block:cobblestone")) == [[0, 1, 1]]


def test_names_of_other_games_are_kept():
    lines = [b'{"stats": {}}', b'{"stats": {"minecraft.mine_block:luanti.default.dirt_with_grass": 1}}']
    assert events(lines, dirt="mine_block:luanti.default.dirt*", stone="mine_block:*stone") == [[0, 1], [0, 0]]


def test_crafting_is_read_off_the_inventory_where_no_statistic_tells():
    lines = [stats(held=[("oak_log", 1)]), stats(True, [("oak_log", 1)]), stats(True, []), stats(True, [("oak_planks", 4)])]
    assert events(lines, planks="craft_item:*_planks", log="mine_block:*_log") == [[0, 0, 0, 4], [0, 0, 0, 0]]


def test_statistics_of_crafting_are_trusted_where_there_are_any():
    lines = [
        stats(held=[]),
        stats(True, [("stick", 4)]),
        stats(True, [("stick", 4)], craft_item__stick=4),
    ]
    assert events(lines, stick="craft_item:stick") == [[0, 0, 4]]


def test_what_is_only_moved_within_a_gui_was_not_crafted():
    rows = [[("stick", 8)], [], [("stick", 3)], [("stick", 5), ("stick", 3)]]
    lines = [stats(held=rows[0]), *(stats(True, row) for row in rows), stats(False, rows[3])]
    assert events(lines, stick="craft_item:stick") == [[0] * 6]
    assert events([*lines, stats(True, [("stick", 9)])], stick="craft_item:stick")[0][-1] == 1


def test_what_comes_back_when_a_gui_closes_was_not_crafted():
    lines = [stats(held=[("stick", 2)]), stats(True, [("stick", 2)]), stats(True, []), stats(False, [("stick", 2)])]
    assert events(lines, stick="craft_item:stick") == [[0, 0, 0, 0]]


def test_what_is_picked_up_was_not_crafted_but_is_in_the_inventory():
    lines = [stats(held=[("stick", 2)]), stats(held=[("stick", 5)]), stats(held=[])]
    assert events(lines, craft="craft_item:stick", held="inventory:stick") == [[0, 0, 0], [0, 3, 0]]


@pytest.mark.parametrize("odd", ["stats", "inventory"])
def test_of_statistics_and_inventory_the_one_that_can_be_read_counts_and_the_other_is_counted(odd):
    values = {"stats": "7", "inventory": [{"type": "x"}]}
    lines = [json.dumps(json.loads(stats(held=[("dirt", n)], mine_block__stone=n)) | {odd: values[odd]}).encode() for n in (0, 1, 2)]
    dropped = Counter()
    stone, dirt = read_events(lines, {"stone": ["mine_block:stone"], "dirt": ["inventory:dirt"]}, dropped).T.tolist()
    assert (stone, dirt) == (([0, 0, 0], [0, 1, 1]) if odd == "stats" else ([0, 1, 1], [0, 0, 0]))
    assert dropped == {f"lines whose {odd} cannot be read, frames kept without its events": 3}


def test_without_state_there_are_no_events():
    lines = [b'{"mouse": {}, "keyboard": {}}'] * 3
    assert np.array_equal(read_events(lines, DIAMOND_LADDER), np.zeros((3, 20), np.uint8))
