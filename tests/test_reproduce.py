"""A reproduction: seeds of training, results and their page, and a toy size from beginning to end, in one go and in pieces."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dreamer_ray.cli.reproduce import SEEDS, UNFINISHED, named, shipped_recipe
from dreamer_ray.config_file import load_config
from dreamer_ray.deadline import Deadline, OutOfTimeError
from dreamer_ray.domain import domain_of
from dreamer_ray.envs.crafter import LADDER, TASKS
from dreamer_ray.errors import UserError
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.recipe import FIRST_REPRODUCTION_WORLD, Recipe
from dreamer_ray.reproduce import Reproduction, Variant, check, collect, reproduce, seed_recipe, seed_stages
from dreamer_ray.reproduce_report import LEAST_SEEDS, PRIMARY, Compared, Outcomes, effects, verdict, write_results

TOY = {
    "data.crafter.episodes": 5,
    "data.crafter.holdout_episodes": 5,
    "data.crafter.length": 100,
    "data.crafter.noise": [0.0],
    "tokenizer.model.encoder.width": 32,
    "tokenizer.model.decoder.width": 32,
    "tokenizer.batches.batch_size": 4,
    "tokenizer.fit.steps": 6,
    "tokenizer.fit.checkpoint_every": 3,
    "dynamics.model.transformer.width": 32,
    "dynamics.model.transformer.layers": 2,
    "dynamics.batches.batch_size": 2,
    "dynamics.batches.long_batch_size": 1,
    "dynamics.fit.steps": 4,
    "dynamics.fit.checkpoint_every": 2,
    "agent.model.heads.hidden": 16,
    "agent.batches.batch_size": 4,
    "agent.fit.steps": 4,
    "agent.fit.checkpoint_every": 2,
    "imagination.contexts.batch_size": 4,
    "imagination.contexts.lookahead": 4,
    "imagination.dreams_per_call": 2,
    "imagination.horizon": 4,
    "imagination.fit.steps": 3,
    "imagination.fit.checkpoint_every": 1,
    "evaluation.worlds": 4,
    "evaluation.worlds_per_call": 2,
    "evaluation.length": 30,
    "evaluation.windows": 4,
    "evaluation.pictures": 16,
    "cluster.replicas": 1,
    "cluster.threads": 1,
    "cluster.gpus_per_worker": 0,
    "cluster.gpus_per_replica": 0,
    "cluster.dreaming": {},
}
OVERRIDES = [f"{key}={json.dumps(value)}" for key, value in TOY.items()]


def recipe(size: str, overrides: list[str] = OVERRIDES) -> Recipe:
    return load_config(Recipe, shipped_recipe("imagination", size), overrides)


@pytest.mark.parametrize("size", SEEDS)
def test_the_recipes_lie_in_the_package_and_have_all_variants(size):
    path = shipped_recipe("imagination", size)
    shipped = Path(__file__).parents[1] / "configs" / "crafter" / f"reproduce_{size}.yaml"
    assert path.read_bytes() == shipped.read_bytes()
    check(recipe(size, []))


def test_the_gpu_size_has_the_seeds_that_a_claim_needs():
    assert SEEDS["gpu"] >= LEAST_SEEDS > SEEDS["cpu"]


def test_a_recipe_without_imagination_is_refused():
    with pytest.raises(UserError, match="needs the sections agent and imagination"):
        check(recipe("cpu", ["imagination=null"]))


def test_phase_2_seeds_differ_in_all_that_phase_2_draws_and_in_nothing_else():
    whole = recipe("cpu", [])
    seeds = [seed_recipe(whole, number) for number in range(3)]
    assert seeds[0] == whole.model_copy(update={"name": "seed-0"})
    for part in ("data", "tokenizer", "dynamics", "evaluation", "cluster"):
        assert len({getattr(each, part).fingerprint() for each in seeds}) == 1
    drawn = [{each.agent.fit.seed, each.agent.batches.seed, each.imagination.fit.seed, each.imagination.contexts.seed} for each in seeds]
    assert not drawn[0] & drawn[1] and not drawn[1] & drawn[2] and not drawn[0] & drawn[2]


def episode(seed: int, **counts: int) -> EpisodeResult:
    rows = [counts.get(task, 0) for task in TASKS]
    return EpisodeResult(seed, rows, [10 + seed % 7 if count else -1 for count in rows], 300, died=False)


def outcomes(seeds: int, gain: int) -> Outcomes:
    worlds = [FIRST_REPRODUCTION_WORLD + i for i in range(12)]

    def played(skill: int) -> list[EpisodeResult]:
        return [episode(world, **dict.fromkeys(LADDER[: world % 3 + skill], 1)) for world in worlds]

    trained = {"agent_scratch": 0, "agent": 1, "imagination": 1 + gain}
    variants = {name: {seed: played(skill + (seed == 1)) for seed in range(seeds)} for name, skill in trained.items()}
    return Outcomes({"random": {0: played(0)}, **variants}, 300, distances={"missing": "no network"}, training={0: {"kl": 0.125}})


def test_the_effect_is_judged_by_tasks_of_the_ladder_and_few_seeds_only_show_a_direction():
    domain = domain_of(recipe("cpu"))
    few, many = (next(each for each in effects(outcomes(seeds, 1), domain) if PRIMARY in each.name) for seeds in (2, LEAST_SEEDS))
    assert many.name == f"after imagination - WM+BC: {PRIMARY}"
    assert (many.across.value, many.across.n, many.shown) == (1, LEAST_SEEDS, "above zero")
    assert verdict(many).endswith("over 8 phase-2 seeds: above zero")
    assert verdict(few).endswith("fewer than 8 show a direction, no more")
    single = next(each for each in effects(outcomes(1, 1), domain) if PRIMARY in each.name)
    assert verdict(single).endswith("one phase-2 seed shows a direction, no more")


def test_cloning_from_scratch_may_be_left_out(tmp_path):
    values, given = recipe("cpu", [*OVERRIDES, "agent.scratch=false"]), outcomes(LEAST_SEEDS, 1)
    check(values)
    assert "agent_scratch" not in {name for stage in seed_stages(values) for name in (stage.name, *stage.inputs)}
    without = replace(given, episodes={name: played for name, played in given.episodes.items() if name != "agent_scratch"})
    lines = write_results(tmp_path, values, domain_of(values), without)
    assert [line for line in lines if PRIMARY in line and " - " in line] == [
        f"after imagination - WM+BC: {PRIMARY}: +1.000 [+1.000, +1.000] over 8 phase-2 seeds: above zero"
    ]
    assert "BC, no world model" not in (tmp_path / "reproduce.html").read_text()


def claims(text: str) -> list[str]:
    """Words by which a result is claimed, in what a reader sees."""
    visible = re.sub(r"<(style|svg|script)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    return re.findall(r"\b(?:higher|lower|shown|above zero|below zero)\b", visible, flags=re.IGNORECASE)


def test_below_the_least_seeds_nothing_is_claimed_on_the_page_in_the_lines_or_in_the_file(tmp_path):
    values, domain = recipe("cpu"), domain_of(recipe("cpu"))
    for seeds in (1, LEAST_SEEDS - 1, LEAST_SEEDS):
        lines = write_results(tmp_path, values, domain, outcomes(seeds, 1))
        found = json.loads((tmp_path / "reproduce.json").read_text())["effects"]
        said = {each["shown"] for each in found}
        written = claims((tmp_path / "reproduce.html").read_text()) + claims("\n".join(lines))
        if seeds < LEAST_SEEDS:
            assert said == {"direction only"} and not written, (seeds, said, written)
        else:
            assert "above zero" in said and "above zero" in written


def test_beside_each_t_interval_within_a_seed_stands_the_bootstrap(tmp_path):
    values, domain = recipe("cpu"), domain_of(recipe("cpu"))
    write_results(tmp_path, values, domain, outcomes(3, 1))
    effects_found = json.loads((tmp_path / "reproduce.json").read_text())["effects"]
    page = (tmp_path / "reproduce.html").read_text()
    assert "95% interval (t)" in page and "95% interval (bootstrap)" in page
    within_seeds = [within for effect in effects_found for within in effect["within_seeds"].values()]
    assert all((each["n"], each["value"]) == (12, each["bootstrap"]["value"]) for each in within_seeds)
    wide = [each for each in within_seeds if each["low"] < each["high"]]
    assert wide
    for within in wide:
        assert within["low"] < within["bootstrap"]["low"] <= within["value"] <= within["bootstrap"]["high"] < within["high"]


def test_results_hold_every_world_so_that_intervals_can_be_computed_again(tmp_path):
    values, domain = recipe("cpu"), domain_of(recipe("cpu"))
    lines = write_results(tmp_path, values, domain, outcomes(3, 1))
    found = json.loads((tmp_path / "reproduce.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["primary"] == PRIMARY and found["step_limit"] == 300
    assert Recipe.model_validate_json(json.dumps(found["recipe"])) == values
    assert {"command", "machine", "versions"} <= found["environment"].keys()
    places = [found["tasks"].index(task) for task in found["ladder"]]
    ladder = {
        variant: [[sum(played["counts"][place] > 0 for place in places) for played in all_played] for all_played in by_seed.values()]
        for variant, by_seed in found["episodes"].items()
    }
    differences = [
        sum(a - b for a, b in zip(after, before, strict=True)) / len(after)
        for after, before in zip(ladder["imagination"], ladder["agent"], strict=True)
    ]
    effect = next(each for each in found["effects"] if each["name"].endswith(PRIMARY))
    assert effect["across_seeds"]["value"] == pytest.approx(sum(differences) / 3)
    assert {seed: each["value"] for seed, each in effect["within_seeds"].items()} == pytest.approx(
        dict(zip("012", differences, strict=True))
    )
    assert {played["seed"] for played in found["episodes"]["random"]["0"]} == {
        played["seed"] for played in found["episodes"]["imagination"]["2"]
    }
    assert lines[0].split("  ")[0] == "task" and "after imagination (n = 36)" in lines[0]
    page = (tmp_path / "reproduce.html").read_text()
    for words in (
        "seed 2",
        "all seeds",
        "3 phase-2 seeds: this shows a direction",
        "no network",
        "0.125 to 0.125 nats",
        "steps until collect",
    ):
        assert words in page, words


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["--seeds", "0"], {}, "--seeds 0: at least one"),
        (["--minutes", "-1"], {}, "--minutes -1: expected more than 0"),
        (["--variant", "imagination.horizon=3"], {}, "--variant imagination.horizon=3: expected NAME:path=value"),
        (["--variant", "a:imagination.horizon=3", "--variant", "a:imagination.horizon=4"], {}, "there is another variant a"),
        (["--variant", "a:dynamics.fit.steps=5"], {}, "variant a: dynamics differ; only keys of agent and imagination"),
        (["--variant", "a:imagination.horizon=15"], {}, "variant a: imagination.horizon=15 changes nothing"),
        (["imagination.horizn=3"], {}, "unknown key imagination.horizn; did you mean imagination.horizon?"),
    ],
)
def test_mistakes_of_the_command_are_one_message(arguments, variables, words, tmp_path):
    line = [sys.executable, "-m", "dreamer_ray", "reproduce", "imagination", "--out", str(tmp_path / "out"), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | variables, check=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_values_of_a_variant_may_be_lists():
    given = ["a:agent.fit.optimizer.betas=[0.9, 0.95],imagination.loss={gamma: 0.9, lam: 0.5}", "b:imagination.horizon=3"]
    assert named(given) == {
        "a": ["agent.fit.optimizer.betas=[0.9, 0.95]", "imagination.loss={gamma: 0.9, lam: 0.5}"],
        "b": ["imagination.horizon=3"],
    }


def test_a_variant_is_compared_with_the_recipe_as_it_is_over_the_seeds_that_both_have(tmp_path):
    values, domain, base = recipe("cpu"), domain_of(recipe("cpu")), outcomes(3, 1)
    twice = {
        seed: [replace(each, counts=[2 * count for count in each.counts]) for each in base.episodes["imagination"][seed]] for seed in (0, 2)
    }
    compared = {"keen": Compared("imagination.horizon=3", twice), "new": Compared("imagination.horizon=4", {})}
    lines = write_results(tmp_path, values, domain, replace(base, compared=compared))
    found = json.loads((tmp_path / "reproduce.json").read_text())
    by_name = {each["name"]: each for each in found["effects"] if each["name"].startswith("variant")}
    events = by_name["variant keen - as it is, both after imagination: ladder events an episode"]
    played = [sum(each.counts) for each in base.episodes["imagination"][2]]
    assert events["within_seeds"]["2"]["value"] == pytest.approx(sum(played) / len(played)) and events["across_seeds"]["n"] == 2
    assert by_name[f"variant keen - as it is, both after imagination: {PRIMARY}"]["across_seeds"]["value"] == 0
    assert not [name for name in by_name if "new" in name]
    assert found["variants"]["keen"]["changes"] == "imagination.horizon=3" and {*found["variants"]["keen"]["episodes"]} == {"0", "2"}
    assert any(line.startswith("variant keen - as it is") for line in lines)
    assert "Variant keen: imagination.horizon=3; phase-2 seeds 0, 2." in (tmp_path / "reproduce.html").read_text()


class Pieces:
    """A clock that ends every piece after a few looks."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def __call__(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 10.0


def played(folder: Path) -> tuple[dict, dict]:
    found = json.loads((folder / "reproduce.json").read_text())
    return found["episodes"], found["effects"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    reproduce(Reproduction(recipe("gpu"), folder, 2), Deadline())
    return folder


@pytest.mark.slow
def test_a_toy_size_of_the_gpu_recipe_is_reproduced_here(whole):
    episodes, _ = played(whole)
    assert {name: len(by_seed) for name, by_seed in episodes.items()} == {"random": 1, "agent_scratch": 2, "agent": 2, "imagination": 2}
    for by_seed in episodes.values():
        for all_played in by_seed.values():
            assert [each["seed"] for each in all_played] == [FIRST_REPRODUCTION_WORLD + i for i in range(4)]
    manifests = [whole / f"seed-{seed}" / stage / "manifest.json" for seed in (0, 1) for stage in ("agent", "imagination")]
    assert len({json.loads(manifest.read_text())["figures"]["checkpoint"] for manifest in manifests}) == 4
    assert "all seeds" in (whole / "reproduce.html").read_text()


@pytest.mark.slow
def test_cut_in_pieces_it_has_the_same_result_as_in_one_go(whole, tmp_path):
    reproduction, pieces = Reproduction(recipe("gpu"), tmp_path, 2), 0
    while True:
        try:
            reproduce(reproduction, Deadline(1, Pieces(4)))
            break
        except OutOfTimeError:
            pieces += 1
    assert pieces > 5
    assert played(tmp_path) == played(whole)
    last = Path("seed-1/imagination/manifest.json")
    checkpoints = [json.loads((folder / last).read_text())["figures"]["checkpoint"] for folder in (tmp_path, whole)]
    assert checkpoints[0] == checkpoints[1], "bitwise, with all parents"


@pytest.mark.slow
def test_variants_share_phase_1_and_the_agent_where_it_is_the_same(whole):
    changes = {"short": "imagination.horizon=3", "cloned": "agent.finetuning.policy_weight=1.0"}
    variants = {name: Variant(recipe("gpu", [*OVERRIDES, change]), change) for name, change in changes.items()}
    before = {path: path.stat().st_mtime_ns for path in whole.glob("seed-?/*/manifest.json")}
    reproduce(Reproduction(recipe("gpu"), whole, 2, variants), Deadline())
    assert {path: path.stat().st_mtime_ns for path in whole.glob("seed-?/*/manifest.json")} == before
    assert (whole / "seed-1-short" / "agent").resolve() == whole / "seed-1" / "agent"
    assert not (whole / "seed-1-cloned" / "agent").is_symlink() and (whole / "seed-1-cloned" / "dynamics").is_symlink()
    found = json.loads((whole / "reproduce.json").read_text())
    for name in changes:
        assert {seed: [each["seed"] for each in played] for seed, played in found["variants"][name]["episodes"].items()} == {
            seed: [FIRST_REPRODUCTION_WORLD + i for i in range(4)] for seed in "01"
        }
        effect = next(each for each in found["effects"] if each["name"] == f"variant {name} - as it is, both after imagination: {PRIMARY}")
        assert {*effect["within_seeds"]} == {"0", "1"}
    change = "imagination.horizon=2"
    with pytest.raises(UserError, match=r"imagination.horizon was 3, now 2"):
        reproduce(Reproduction(recipe("gpu"), whole, 2, {"short": Variant(recipe("gpu", [*OVERRIDES, change]), change)}), Deadline())
    assert json.loads((whole / "reproduce.json").read_text()) == found, "nothing is written under a name of other values"


@pytest.mark.slow
def test_the_command_says_that_it_is_not_done_and_goes_on(tmp_path):
    line = [sys.executable, "-m", "dreamer_ray", "reproduce", "imagination", "--seeds", "1", "--out", str(tmp_path), *OVERRIDES]
    first = subprocess.run([*line, "--minutes", "0.01"], capture_output=True, text=True, check=False)
    assert first.returncode == UNFINISHED, first.stderr
    assert "give the same command again to go on" in first.stderr and "error" not in first.stderr
    second = subprocess.run([*line, "cluster.replicas=2"], capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "one phase-2 seed shows a direction, no more" in second.stderr
    assert "reproduce.html" in second.stderr and (tmp_path / "reproduce.html").exists()


@pytest.mark.slow
def test_a_later_run_adds_seeds_and_one_of_fewer_keeps_them(whole, tmp_path):
    folder = tmp_path / "grown"
    shutil.copytree(whole, folder, symlinks=True, ignore=shutil.ignore_patterns("seed-1*", "reproduce.*"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")}
    for seeds in (1, 2, 1):
        reproduce(Reproduction(recipe("gpu"), folder, seeds), Deadline())
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is done again"
    assert played(folder)[0] == played(whole)[0]


@pytest.mark.slow
def test_seeds_of_another_phase_1_or_without_a_player_are_left_out_and_said_to_be(whole, tmp_path, caplog):
    shutil.copytree(whole, tmp_path / "again", symlinks=True)
    reproduction = Reproduction(recipe("gpu"), tmp_path / "again", 1)
    assert {*collect(reproduction).episodes["agent"]} == {0, 1}
    manifest = tmp_path / "again" / "phase-1" / "dynamics" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"fingerprint": "0" * 16}))
    assert collect(reproduction) is None
    assert "seed-1 is left out, agent:" in caplog.text and "--seeds 2 does it again" in caplog.text
    shutil.copytree(whole, tmp_path / "short", symlinks=True, ignore=lambda _, names: {"reproduce.json", "agent_scratch"} & {*names})
    for number in (0, 1):
        played = tmp_path / "short" / f"seed-{number}" / "played"
        for result in played.glob("*agent_scratch*"):
            result.unlink()
    without = Reproduction(recipe("gpu", [*OVERRIDES, "agent.scratch=false"]), tmp_path / "short", 2)
    reproduce(without, Deadline())
    assert {*collect(without).episodes["agent"]} == {0, 1}
    reproduce(Reproduction(recipe("gpu"), tmp_path / "short", 1), Deadline())
    assert {name: {*seeds} for name, seeds in json.loads((tmp_path / "short" / "reproduce.json").read_text())["episodes"].items()} == {
        "random": {"0"},
        "agent_scratch": {"0"},
        "agent": {"0"},
        "imagination": {"0"},
    }


@pytest.mark.slow
def test_values_other_than_those_of_any_phase_or_seed_there_are_refused_before_anything_is_done(whole, tmp_path):
    other = Reproduction(recipe("gpu", [*OVERRIDES, "dynamics.fit.steps=5"]), whole, 2)
    with pytest.raises(UserError, match=r"dynamics.fit.steps was 4, now 5.*choose another --out"):
        reproduce(other, Deadline())
    shutil.copytree(whole, tmp_path / "second", symlinks=True, ignore=shutil.ignore_patterns("seed-0*"))
    steps = recipe("gpu").agent.fit.steps
    other = Reproduction(recipe("gpu", [*OVERRIDES, f"agent.fit.steps={steps + 1}"]), tmp_path / "second", 1)
    with pytest.raises(UserError, match=rf"agent.fit.steps was {steps}, now {steps + 1}.*choose another --out"):
        reproduce(other, Deadline())
    assert not (tmp_path / "second" / "seed-0").exists()
