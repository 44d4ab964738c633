"""What a recipe is about, told from its sources without their data; what does not go together is refused before anything is fetched."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from dreamer_ray.config_file import load_config, parse_config
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.vpt_actions import KEYS, VPT_ACTIONS
from dreamer_ray.domain import domain_of
from dreamer_ray.envs.crafter import ACTION_SPACE, ACTIONS, LADDER, TASKS, CrafterConfig, CrafterWorlds
from dreamer_ray.errors import UserError
from dreamer_ray.evaluation.episodes import RandomPlayer, play
from dreamer_ray.recipe import Recipe
from dreamer_ray.run import recipe_stages
from dreamer_ray.stages import finetuning_of
from dreamer_ray.types import Binary, Categorical, Continuous

TOY = Path(__file__).parents[1] / "configs/crafter/toy.yaml"
VPT = {"kind": "vpt", "path": "nowhere", "tasks": {"dig_dirt": "mine_block:*dirt*", "dig_stone": "mine_block:*stone*"}}
LEROBOT = Path(__file__).parent / "data" / "lerobot_v3"
LAYOUT = {"shape": [36, 64]}


def recipe(sources: list[dict], *, drop: tuple[str, ...] = (), ladder: tuple[str, ...] = (), **cluster) -> Recipe:
    """The toy recipe on recordings instead of Crafter, without some of its sections."""
    values = {name: part for name, part in yaml.safe_load(TOY.read_text()).items() if name not in drop}
    values["data"] = {"recordings": {"sources": sources, "layout": LAYOUT, "episode_frames": 200, "ladder": list(ladder)}}
    values["cluster"] |= cluster
    return parse_config(Recipe, values, "test")


def videos(folder: Path, actions: dict | None = None) -> dict:
    folder.mkdir(exist_ok=True)
    if actions is not None:
        (folder / "actions.yaml").write_text(yaml.safe_dump(actions))
    return {"kind": "videos", "path": str(folder)}


def test_crafter_is_what_its_constants_say():
    domain = domain_of(load_config(Recipe, TOY))
    assert (domain.action_space, domain.tasks, domain.ladder) == (ACTION_SPACE, TASKS, LADDER)
    assert (domain.frame_shape, domain.tile) == ((72, 72), 8)
    assert domain.worlds == CrafterWorlds(CrafterConfig(size=72, length=40))
    assert domain.countable == {"action": ACTIONS}


def test_vpt_is_known_without_its_files():
    domain = domain_of(recipe([{"source": VPT}]))
    assert domain.action_space == VPT_ACTIONS
    assert domain.tasks == domain.ladder == ("dig_dirt", "dig_stone")
    assert (domain.frame_shape, domain.tile, domain.worlds) == ((36, 64), 4, None)
    assert domain.countable == {"keys": KEYS}, "121 cells of the mouse are not shown one by one"


def test_shards_know_what_their_sources_were():
    schema = ShardSchema(codec="png", frame_shape=(36, 64), action_space={"arm": Continuous(size=2)}, tasks=("reach",), fps=10.0)
    domain = domain_of(recipe([{"source": {"kind": "lerobot", "path": "nowhere"}}]), schema)
    assert (domain.action_space, domain.ladder) == ({"arm": Continuous(size=2)}, ("reach",))
    assert domain.countable == {}


def test_choices_of_several_components_carry_their_name():
    space = {"keys": Binary(size=2), "tool": Categorical(size=3)}
    schema = ShardSchema(codec="png", frame_shape=(36, 64), action_space=space, tasks=("win",), fps=10.0)
    domain = domain_of(recipe([{"source": VPT}]), schema)
    assert domain.countable == {"keys": ("keys 0", "keys 1"), "tool": ("tool 0", "tool 1", "tool 2")}


def test_keys_and_choices_of_a_set_have_the_names_of_those_who_made_them():
    entry = {"source": {"kind": "shards", "path": "nowhere"}}

    def found(space, tasks):
        return domain_of(recipe([entry]), ShardSchema(codec="png", frame_shape=(36, 64), action_space=space, tasks=tasks, fps=10.0))

    assert found(VPT_ACTIONS, ("dig",)).countable["keys"] == KEYS
    crafter = found(ACTION_SPACE, TASKS)
    assert (crafter.countable["action"], crafter.null_choices) == (ACTIONS, {"action": 0})
    assert found(ACTION_SPACE, ("dig",)).countable["action"][0] == "action 0"


def test_unlabelled_videos_have_neither_actions_nor_tasks(tmp_path):
    domain = domain_of(recipe([{"source": videos(tmp_path / "videos")}], drop=("agent", "imagination")))
    assert (domain.action_space, domain.tasks, domain.ladder) == ({}, (), ())


def test_unlabelled_videos_go_with_labelled_ones(tmp_path):
    domain = domain_of(recipe([{"source": videos(tmp_path / "videos")}, {"source": VPT}]))
    assert (domain.action_space, domain.tasks) == (VPT_ACTIONS, ("dig_dirt", "dig_stone"))


def test_a_path_takes_the_place_of_that_of_the_first_source(tmp_path):
    found = recipe([{"source": {"kind": "videos", "path": "nowhere"}}], drop=("agent", "imagination"))
    form = {"actions": {"stick": {"kind": "continuous", "columns": ["x", "y"]}}}
    recordings = found.data.recordings.model_copy(update={"path": videos(tmp_path / "videos", form)["path"]})
    there = found.model_copy(update={"data": found.data.model_copy(update={"recordings": recordings})})
    assert domain_of(found).action_space == {}
    assert domain_of(there).action_space == {"stick": Continuous(size=2)}


def test_sources_with_different_actions_are_refused_unless_one_loses_them():
    minerl = {"kind": "minerl", "path": "nowhere"}
    with pytest.raises(UserError, match=r"data\.recordings\.sources\.1: its actions are keys \(binary 8\).*labelled_fraction: 0"):
        domain_of(recipe([{"source": VPT}, {"source": minerl}]))
    assert domain_of(recipe([{"source": VPT}, {"source": minerl, "labelled_fraction": 0.0}])).action_space == VPT_ACTIONS


def test_one_number_is_one_action_in_all_sources(tmp_path):
    other = shutil.copytree(LEROBOT, tmp_path / "other")
    stats = json.loads((other / "meta/stats.json").read_text())
    size = len(stats["action"]["max"])
    stats["action"] |= {"min": [-4.0] * size, "max": [45.0] * size}
    (other / "meta/stats.json").write_text(json.dumps(stats))
    sources = [{"kind": "lerobot", "path": str(path), "camera": "observation.images.top"} for path in (LEROBOT, other)]
    with pytest.raises(
        UserError, match=r"sources\.1: its action of low: \[-4, .* of sources\.0 that of low: .*such as low: \[-4, -4"
    ) as refusal:
        domain_of(recipe([{"source": source} for source in sources]))
    remedy = yaml.safe_load("{" + str(refusal.value).partition("such as ")[2] + "}")
    assert remedy["high"] == [45.0] * size
    bounds = {key: [float(value) for value in values] for key, values in remedy.items()}
    assert domain_of(recipe([{"source": source | bounds} for source in sources])).action_space == {"action": Continuous(size=size)}
    assert domain_of(recipe([{"source": sources[0]}, {"source": sources[1], "labelled_fraction": 0.0}])).action_space
    assert domain_of(recipe([{"source": sources[0]}, {"source": sources[0] | {"kind": "lerobot"}}])).action_space


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ladder": ("dig_dirt", "fly")}, ("data.recordings.ladder", "fly", "dig_dirt, dig_stone")),
        ({"evaluators": 1}, ("cluster.evaluators = 1", "no world")),
    ],
)
def test_what_the_sources_have_not_is_refused(options, words):
    with pytest.raises(UserError) as refusal:
        domain_of(recipe([{"source": VPT}], **options))
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_an_agent_needs_actions_and_tasks(tmp_path):
    with pytest.raises(UserError, match=r"agent: .* no actions and no tasks; leave the sections agent and imagination out"):
        domain_of(recipe([{"source": videos(tmp_path / "videos")}]))


def weighed(entry, **finetuning):
    """The recipe of one source, with these keys of ``agent.finetuning``."""
    found = recipe([{"source": entry}])
    agent = found.agent.model_copy(update={"finetuning": found.agent.finetuning.model_copy(update=finetuning)})
    return found.model_copy(update={"agent": agent})


def test_what_does_nothing_is_known_of_vpt_and_crafter_and_may_be_said_of_others(tmp_path):
    assert finetuning_of(weighed(VPT, null_weight=0.5)).null_choices == {"mouse": 60}
    assert finetuning_of(load_config(Recipe, TOY, ["agent.finetuning.null_weight=0"])).null_choices == {"action": 0}
    form = {"actions": {"stick": {"kind": "categorical", "column": "stick", "values": ["up", "down", "rest"]}}, "events": {"win": "won"}}
    entry = videos(tmp_path / "videos", form)
    with pytest.raises(UserError, match=r"null_weight = 0\.5: which choice of stick does nothing\?.*null_choices.stick"):
        domain_of(weighed(entry, null_weight=0.5))
    with pytest.raises(UserError, match=r"its number 3 is none of 0 \.\. 2"):
        domain_of(weighed(entry, null_weight=0.5, null_choices={"stick": 3}))
    assert finetuning_of(weighed(entry, null_weight=0.5, null_choices={"stick": 2})).null_choices == {"stick": 2}
    with pytest.raises(UserError, match=r"agent\.finetuning\.null_choices: keys is no component with choices"):
        domain_of(weighed(VPT, null_weight=0.5, null_choices={"keys": 0}))


def test_imagination_needs_an_agent():
    with pytest.raises(UserError, match="there is none; add the section agent"):
        recipe([{"source": VPT}], drop=("agent",))


def test_stages_of_sections_that_are_not_there_do_not_exist():
    always = ["record", "tokenizer", "encode", "dynamics"]
    for drop, more in ((("imagination",), ["agent", "agent_scratch"]), (("agent", "imagination"), [])):
        names = [stage.name for stage in recipe_stages(recipe([{"source": VPT}], drop=drop))]
        assert names == [*always, *more, "evaluate", "report"]


def test_random_play_covers_every_kind_of_action():
    space = {"keys": Binary(size=3), "mouse": Categorical(size=5), "arm": Continuous(size=2)}
    player = RandomPlayer(space, torch.Generator().manual_seed(0))
    drawn = player.act(torch.zeros(500, 4, 4, 3, dtype=torch.uint8), torch.zeros(500, dtype=torch.long), first=torch.ones(500).bool())
    assert set(drawn["keys"].flatten().tolist()) == {0.0, 1.0}
    assert set(drawn["mouse"].tolist()) == set(range(5))
    assert drawn["arm"].shape == (500, 2)
    assert -1 <= float(drawn["arm"].min()) < -0.9 and 0.9 < float(drawn["arm"].max()) <= 1


class Counter:
    """A world of two tasks; what it is told is kept, and its second step is its last."""

    told: list = []  # noqa: RUF012

    def reset(self, seed):
        self.steps = 0
        return torch.zeros(4, 4, 3, dtype=torch.uint8).numpy(), {"events": [0, 0]}

    def step(self, action):
        self.told.append(action)
        self.steps += 1
        return torch.zeros(4, 4, 3, dtype=torch.uint8).numpy(), 0.0, self.steps == 2, False, {"events": [1, 0]}

    def make(self):
        return Counter()

    def prompt(self, counts):
        return int(counts[0] > 0)


@pytest.mark.parametrize(
    ("space", "kinds"),
    [
        ({"action": Categorical(size=4)}, int),
        ({"arm": Continuous(size=2)}, "float32"),
        ({"keys": Binary(size=2), "mouse": Categorical(size=4)}, dict),
    ],
)
def test_environments_take_a_number_an_array_or_parts_by_name(space, kinds):
    Counter.told.clear()
    [result] = play(RandomPlayer(space, torch.Generator().manual_seed(0)), [7], Counter())
    assert (result.counts, result.first_step, result.steps, result.died) == ([2, 0], [1, -1], 2, True)
    assert all(str(action.dtype) == kinds if isinstance(kinds, str) else isinstance(action, kinds) for action in Counter.told)


def test_the_recipe_of_recordings_without_worlds_needs_no_word_about_them():
    values = json.loads(recipe([{"source": VPT}], drop=("evaluation",)).model_dump_json())
    assert parse_config(Recipe, values, "test").evaluation.windows == 48
