"""The graph of stages: what is skipped, resumed, refused and done again, with executors that count their calls."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_ray.config import Config
from dreamer_ray.config_file import load_config
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.recipe import Recipe
from dreamer_ray.run import Stage, StageContext, decide, execute, plan, recipe_stages, sections
from dreamer_ray.run_folder import Record, discard, locked, read_record, write_json

TINY = Path(__file__).parents[1] / "configs" / "crafter" / "tiny.yaml"


class Fit(Config):
    steps: int = 3
    rate: float = 0.1


class Small(Config):
    """A recipe of four stages: a, then b and its sibling c from a, then d from b and c."""

    a: Fit = Fit()
    b: Fit = Fit()
    c: Fit = Fit()
    other: int = 0


STAGES = (Stage("a", (), ("a",)), Stage("b", ("a",), ("b",)), Stage("c", ("a",), ("c.steps",)), Stage("d", ("b", "c")))


class Work:
    """Executors that count their calls and add a line to a file a call; a stage in ``broken`` is cut off in the middle."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.broken = folder, [], set()

    def __call__(self, context: StageContext) -> dict:
        self.calls.append(context.stage)
        with (context.folder / "steps.txt").open("a") as file:
            file.write("x\n")
        if context.stage in self.broken:
            raise KeyboardInterrupt
        return {"steps": len((context.folder / "steps.txt").read_text().split())}

    def go(self, recipe: Config | None = None, **options) -> list[str]:
        """Does a run and returns the stages that were called."""
        self.calls = []
        execute(plan(STAGES, recipe or Small(), self.folder, **options), dict.fromkeys("abcd", self))
        return self.calls


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path / "run")


def actions(work: Work, recipe: Config | None = None, **options) -> dict[str, str]:
    return {d.stage.name: d.action for d in plan(STAGES, recipe or Small(), work.folder, **options).decisions}


def test_stages_are_done_once_in_order(work):
    assert work.go() == ["a", "b", "c", "d"]
    assert work.go() == []
    manifest = json.loads((work.folder / "b" / "manifest.json").read_text())
    assert manifest["stage"] == "b"
    assert manifest["figures"] == {"steps": 1}
    assert manifest["sections"] == {"b": {"steps": 3, "rate": 0.1}}
    assert manifest["parents"] == {"a": read_record(work.folder / "a").fingerprint}
    assert manifest["seconds"] >= 0
    assert manifest["finished_at"].endswith("+00:00")
    assert json.loads((work.folder / "recipe.json").read_text()) == Small().model_dump()


def test_figures_of_skipped_stages_are_read_back(work):
    work.go()
    assert execute(plan(STAGES, Small(), work.folder), {}) == {name: {"steps": 1} for name in "abcd"}


def test_a_stage_that_was_cut_off_is_resumed_where_it_was(work):
    work.broken = {"b"}
    with pytest.raises(KeyboardInterrupt):
        work.go()
    assert work.calls == ["a", "b"]
    assert actions(work) == {"a": "skip", "b": "resume", "c": "run", "d": "run"}
    started = work.folder / "b" / "started.json"
    assert json.loads(started.read_text())["seconds"] > 0
    started.write_text(json.dumps(json.loads(started.read_text()) | {"seconds": 1000.0}))
    work.broken = set()
    assert work.go() == ["b", "c", "d"]
    assert (work.folder / "b" / "steps.txt").read_text() == "x\nx\n"
    assert 1000 < read_record(work.folder / "b").seconds < 1100


def test_the_time_of_a_killed_attempt_counts_as_far_as_its_files_tell(work):
    work.broken = {"b"}
    with pytest.raises(KeyboardInterrupt):
        work.go()
    begun = time.time() - 1000
    os.utime(work.folder / "b" / "started.json", (begun, begun))
    os.utime(work.folder / "b" / "steps.txt", (begun + 300, begun + 300))
    os.utime(work.folder / "b", (begun, begun))
    work.broken = set()
    work.go()
    assert 300 < read_record(work.folder / "b").seconds < 310


def test_from_does_the_stage_and_what_follows_again_but_not_its_siblings(work):
    work.go()
    assert actions(work, start="b") == {"a": "skip", "b": "run", "c": "skip", "d": "run"}
    assert work.go(start="b") == ["b", "d"]
    assert (work.folder / "b" / "steps.txt").read_text() == "x\n"
    assert work.go() == []


def test_a_plan_alone_changes_nothing(work):
    work.go()
    before = {path: path.stat().st_mtime_ns for path in work.folder.rglob("*")}
    plan(STAGES, Small(), work.folder, start="a")
    assert {path: path.stat().st_mtime_ns for path in work.folder.rglob("*")} == before
    plan(STAGES, Small(), work.folder / "elsewhere")
    assert not (work.folder / "elsewhere").exists()


def test_what_was_made_from_an_input_that_was_redone_alone_is_redone(work):
    work.go()
    assert work.go(only="b", start="b") == ["b"]
    assert actions(work) == {"a": "skip", "b": "skip", "c": "skip", "d": "run"}


def test_what_builds_on_something_outdated_is_redone_with_it(work):
    work.go()
    assert work.go(only="a", start="a") == ["a"]
    assert actions(work) == {"a": "skip", "b": "run", "c": "run", "d": "run"}


def test_a_redo_that_is_cut_off_leaves_later_stages_to_be_redone(work):
    work.go()
    work.broken = {"b"}
    with pytest.raises(KeyboardInterrupt):
        work.go(start="b")
    work.broken = set()
    assert actions(work) == {"a": "skip", "b": "resume", "c": "skip", "d": "run"}
    assert work.go() == ["b", "d"]


def test_a_partial_stage_whose_input_changed_begins_anew(work):
    work.broken = {"d"}
    with pytest.raises(KeyboardInterrupt):
        work.go()
    work.broken = set()
    work.go(only="b", start="b")
    assert actions(work)["d"] == "run"
    work.go()
    assert (work.folder / "d" / "steps.txt").read_text() == "x\n"


@pytest.mark.parametrize("broken", [set(), {"b"}])
def test_a_changed_recipe_is_refused_with_keys_values_and_remedies(work, broken):
    work.broken = broken
    if broken:
        with pytest.raises(KeyboardInterrupt):
            work.go()
    else:
        work.go()
    with pytest.raises(UserError) as caught:
        work.go(Small(b=Fit(steps=7)))
    assert "stage b was made with other values: b.steps was 3, now 7" in str(caught.value)
    assert "--from b" in str(caught.value)
    assert "name=" in str(caught.value)
    assert work.calls == []
    work.broken = set()
    assert work.go(Small(b=Fit(steps=7)), start="b") == (["b", "c", "d"] if broken else ["b", "d"])


def test_a_change_that_no_stage_depends_on_is_no_change(work):
    work.go()
    assert work.go(Small(other=5, c=Fit(rate=0.9))) == []


def test_a_key_that_is_newer_than_the_record_counts_with_its_default(work):
    work.go()
    for path in work.folder.glob("*/manifest.json"):
        values = json.loads(path.read_text())
        for section in values["sections"].values():
            if isinstance(section, dict):
                del section["rate"]
        path.write_text(json.dumps(values))
    assert actions(work)["a"] == "skip"
    with pytest.raises(UserError, match=r"a\.rate was 0\.1, now 0\.5"):
        work.go(Small(a=Fit(rate=0.5)))


def test_a_change_in_an_earlier_stage_is_refused_even_with_a_later_from(work):
    work.go()
    with pytest.raises(UserError, match="stage a was made"):
        work.go(Small(a=Fit(steps=1)), start="b")


def test_a_finished_stage_is_kept_where_an_input_is_damaged(work):
    seen = []

    def check(folder, stages):
        seen.append((folder, *stages))
        raise UserError("damaged")

    execute(plan(STAGES, Small(), work.folder), dict.fromkeys("abcd", work), check)
    assert seen == []  # nothing is lost where nothing was finished
    with pytest.raises(UserError, match="damaged"):
        execute(plan(STAGES, Small(), work.folder, start="d"), dict.fromkeys("abcd", work), check)
    assert seen == [(work.folder, "b", "c")]
    assert set(actions(work).values()) == {"skip"}


def test_from_a_stage_also_does_later_ones_again_that_have_other_values(work):
    work.go()
    assert actions(work, Small(b=Fit(steps=1), c=Fit(steps=1)), start="b") == {"a": "skip", "b": "run", "c": "run", "d": "run"}
    assert work.go(Small(c=Fit(steps=2)), start="b") == ["b", "c", "d"]
    with pytest.raises(UserError, match="stage c was made"):
        work.go(Small(c=Fit(steps=3)), start="d")


def test_only_does_one_stage_and_asks_for_its_inputs(work):
    with pytest.raises(UserError, match="--only d: it builds on a, b, c"):
        work.go(only="d")
    assert work.go(only="a") == ["a"]
    assert work.go(only="b") == ["b"]
    assert work.go(only="b") == []
    assert work.go(Small(c=Fit(steps=9)), only="a") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": "x"}, "--only x: no such stage; this recipe has a, b, c, d"),
        ({"start": "x"}, "--from x: no such stage"),
        ({"only": "a", "start": "b"}, "--only a --from b"),
    ],
)
def test_wrong_stage_names_are_refused(work, options, words):
    with pytest.raises(UserError, match=words):
        work.go(**options)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 99}', "\xff"])
def test_a_damaged_manifest_is_named_and_can_be_redone(work, text):
    work.go()
    (work.folder / "b" / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"stage b: .*manifest.json .* --from b"):
        work.go()
    assert work.go(start="b") == ["b", "d"]


def test_a_manifest_of_another_format_is_refused(work):
    work.go()
    manifest = work.folder / "b" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match=r"has format 99, this version reads 1; do it again with --from b"):
        work.go()


def test_a_file_is_replaced_and_never_rewritten(tmp_path):
    path = tmp_path / "deep" / "figures.json"
    write_json(path, {"a": 1})
    with path.open() as old:
        write_json(path, {"a": 2})
        assert json.load(old) == {"a": 1}
    assert json.loads(path.read_text()) == {"a": 2}
    assert [file.name for file in path.parent.iterdir()] == ["figures.json"]


def test_a_folder_without_records_is_not_built_upon(work):
    (work.folder / "a").mkdir(parents=True)
    (work.folder / "a" / "steps.txt").write_text("old\n")
    work.go()
    assert (work.folder / "a" / "steps.txt").read_text() == "x\n"


def test_a_discarded_folder_that_a_kill_left_is_swept(work):
    (work.folder / ".discarded-a" / "deep").mkdir(parents=True)
    work.go()
    assert not list(work.folder.glob(".discarded*"))
    discard(work.folder / "a")
    assert not (work.folder / "a").exists()


def test_a_full_disk_is_one_clear_message(tmp_path):
    with pytest.raises(RunError, match=r"figures.json: not written \(No space left on device\); make room"):
        write_json(FullDisk(tmp_path / "figures.json"), {"a": 1})


class FullDisk(type(Path())):
    """A path on a disk without room: opening for writing gives /dev/full."""

    def open(self, mode="r", **options):
        return Path("/dev/full").open(mode, **options) if "w" in mode else super().open(mode, **options)


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path):
    hold = f"from dreamer_ray.run_folder import locked\nfrom pathlib import Path\nimport time\nwith locked(Path({str(tmp_path)!r})):\n"
    holder = subprocess.Popen([sys.executable, "-c", f"{hold}    print('held', flush=True)\n    time.sleep(60)"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on {socket.gethostname()} works in it"), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} on {socket.gethostname()}"


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* --runs DIR"), locked(tmp_path / "file" / "run"):
        pass


def slow_run(folder: Path, going: Event) -> None:
    """A run whose stages append one letter at a time and go on from what is there."""

    def slow(context: StageContext) -> dict:
        file = context.folder / "steps.txt"
        for _ in range(len(file.read_text()) if file.exists() else 0, 6):
            with file.open("a") as out:
                out.write("x")
            time.sleep(0.01)
        return {"steps": len(file.read_text())}

    with locked(folder):
        going.set()
        execute(plan(STAGES, Small(), folder), dict.fromkeys("abcd", slow))


def test_a_kill_at_any_moment_loses_no_finished_stage(tmp_path):
    """A process that is killed again and again ends with every stage done, and none did a step twice."""
    context = multiprocessing.get_context("fork")
    for delay in (0.01, 0.05, 0.07, 0.1, None):
        going = context.Event()
        process = context.Process(target=slow_run, args=(tmp_path / "run", going))
        process.start()
        assert going.wait(20)
        if delay is not None:
            time.sleep(delay)
            process.kill()
        process.join()
    assert process.exitcode == 0
    assert {name: read_record(tmp_path / "run" / name).figures for name in "abcd"} == {name: {"steps": 6} for name in "abcd"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_decision_leaves_the_graph_whole(data):
    """Whatever is there: a skipped stage has exactly the inputs that it was made from, and none of them is done again."""
    records = {}
    for stage in STAGES:
        state = data.draw(st.sampled_from(["absent", "begun", "done", "done", "stale"]))
        if state != "absent":
            parents = {name: f"{name}1" for name in stage.inputs} if state != "stale" else dict.fromkeys(stage.inputs, "old")
            records[stage.name] = Record(sections(stage, Small()), parents, 0.0, f"{stage.name}1" if state != "begun" else None)
    start = data.draw(st.sampled_from([None, *"abcd"]))
    found = {d.stage.name: d for d in decide(STAGES, Small(), {name: records.get(name) for name in "abcd"}, start=start)}
    for name, decision in found.items():
        if decision.action == "skip":
            assert records[name].fingerprint
            assert all(found[parent].action == "skip" for parent in decision.stage.inputs)
            assert records[name].parents == {parent: records[parent].fingerprint for parent in decision.stage.inputs}
        if decision.action == "resume":
            assert all(found[parent].action == "skip" for parent in decision.stage.inputs)
    if start:
        assert found[start].action == "run"


def test_the_stages_of_a_recipe_cover_every_key_that_changes_results():
    recipe = load_config(Recipe, TINY)
    free = ("name", "cluster", "agent.scratch")
    used = {path for stage in recipe_stages(recipe) for path in stage.sections}
    keys = [f"{top}.{key}" for top, part in recipe.model_dump().items() if isinstance(part, dict) for key in part] + ["name"]
    left = [key for key in keys if not any(key == path or key.startswith(f"{path}.") for path in (*used, *free))]
    assert left == []


def test_the_stages_stand_behind_their_inputs_and_scratch_is_optional():
    for flag in ("true", "false"):
        stages = recipe_stages(load_config(Recipe, TINY, [f"agent.scratch={flag}"]))
        names = [stage.name for stage in stages]
        assert ("agent_scratch" in names) == (flag == "true")
        assert [name for name in names if name != "agent_scratch"] == (
            ["record", "tokenizer", "encode", "dynamics", "agent", "imagination", "evaluate", "report"]
        )
        for stage in stages:
            assert all(names.index(parent) < names.index(stage.name) for parent in stage.inputs)


def test_an_agent_that_is_added_later_leaves_the_dynamics_as_they_are(tmp_path):
    """And one that is taken out again, whatever its sizes were."""
    values = load_config(Recipe, TINY)
    alone = values.model_copy(update={"agent": None, "imagination": None})

    def decided(recipe: Recipe) -> dict[str, str]:
        return {decision.stage.name: decision.action for decision in plan(recipe_stages(recipe), recipe, tmp_path / "run").decisions}

    done = dict.fromkeys([stage.name for stage in recipe_stages(values)], lambda _: {})
    execute(plan(recipe_stages(alone), alone, tmp_path / "run"), done)
    assert set(decided(alone).values()) == {"skip"}
    expected = dict.fromkeys(("record", "tokenizer", "encode", "dynamics"), "skip")
    expected |= dict.fromkeys(("agent", "agent_scratch", "imagination", "evaluate", "report"), "run")
    assert decided(values) == expected
    execute(plan(recipe_stages(values), values, tmp_path / "run"), done)
    assert decided(alone) == dict.fromkeys(("record", "tokenizer", "encode", "dynamics"), "skip") | {"evaluate": "run", "report": "run"}
