"""The stage record of recordings, done again with other values: what is still right stays, what is not is never used."""

import json
import shutil
from pathlib import Path

import pytest

import dreamer_ray.cli.run as cli
from dreamer_ray.config_file import load_config
from dreamer_ray.data import ingest
from dreamer_ray.data.ingest import ingest_plan, make_file
from dreamer_ray.data.ingest_report import Tally
from dreamer_ray.data.open_source import open_sources
from dreamer_ray.data.shards import open_shards
from dreamer_ray.errors import UserError
from dreamer_ray.recipe import Recipe
from dreamer_ray.run import StageContext, execute, plan, recipe_stages, refuse_itself

VIDEOS = Path(__file__).parents[2] / "configs" / "videos" / "tiny.yaml"
ROBOT = VIDEOS.parents[1] / "robot" / "sample.yaml"
COUNT = 6
OTHER = "data.recordings.codec.crf=40"


class Run:
    """A run in a folder, whose first stage is real; the others leave a file that says they were done."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder, self.made, self.calls = folder, list[str](), list[str]()
        self.cut, real = 10**9, ingest.ingest_recording

        def counted(*rest):
            if len(self.made) >= self.cut:
                raise KeyboardInterrupt
            self.made.append(rest[3].recording.name)
            return real(*rest)

        monkeypatch.setattr(ingest, "ingest_recording", counted)

    def go(self, *changes: str, cut: int = 10**9, **options) -> list[str]:
        """The recordings of which a file was made; ends like one that is killed after ``cut`` of them."""
        self.made, self.calls, self.cut = [], [], cut
        place = f"data.recordings.path={self.folder / 'in'}"
        recipe = load_config(Recipe, VIDEOS, [place, "data.recordings.layout.shape=[48,64]", *changes])
        executors = dict.fromkeys([stage.name for stage in recipe_stages(recipe)], self._other) | {"record": self._record}
        execute(plan(recipe_stages(recipe), recipe, self.folder / "run", **options), executors)
        return sorted(self.made)

    def _other(self, context: StageContext) -> dict:
        self.calls.append(context.stage)
        return {}

    def _record(self, context: StageContext) -> dict:
        self.calls.append("record")
        config = context.recipe.data.recordings
        assert config is not None
        work, sources = ingest_plan(config), open_sources(config)
        tally = Tally(work)
        for number, job in enumerate(work.jobs):
            tally.add(number, make_file(config, sources[job.source], work.schema, job, context.folder / job.split))
        tally.commit(config, context.folder)
        return {"recordings": work.recordings}

    def grown(self) -> list[str]:
        recipe = load_config(Recipe, VIDEOS, [f"data.recordings.path={self.folder / 'in'}", "data.recordings.layout.shape=[48,64]"])
        return cli._grown(plan(recipe_stages(recipe), recipe, self.folder / "run"))

    def found(self, split: str = "train"):
        return open_shards(self.folder / "run" / "record" / split)

    def files(self) -> set[str]:
        return {path.name for path in (self.folder / "run" / "record").rglob("*") if path.is_file() and not path.name.endswith(".json")}


@pytest.fixture
def run(tmp_path, videos, monkeypatch) -> Run:
    (tmp_path / "in").mkdir()
    for number in range(COUNT):
        videos.write(tmp_path / "in" / f"{number}.mp4", 20)
    return Run(tmp_path, monkeypatch)


EVERY = [f"{number}.mp4" for number in range(COUNT)]


def test_values_that_change_no_file_cost_no_file(run):
    assert run.go() == EVERY
    with pytest.raises(UserError, match=r"sources\.0\.labelled_fraction was 1\.0, now 0\.0.*--from record \(files of it that come out"):
        run.go("data.recordings.sources.0.labelled_fraction=0.0")
    before = run.found().fingerprint
    assert run.go("data.recordings.sources.0.labelled_fraction=0.0", start="record") == []
    assert run.calls[:2] == ["record", "tokenizer"], "what builds on it is done again"
    assert run.found().fingerprint != before
    assert not any(episode.labelled for episode in run.found().episodes)


def test_an_ingest_that_was_cut_off_goes_on_with_other_values(run):
    with pytest.raises(KeyboardInterrupt):
        run.go(cut=4)
    done = sorted(run.made)
    assert run.go("data.recordings.sources.0.labelled_fraction=0.5", start="record") == [name for name in EVERY if name not in done]


def test_how_many_may_be_bad_is_no_matter_of_what_is_made(run):
    with pytest.raises(KeyboardInterrupt):
        run.go(cut=4)
    assert len(run.go("data.recordings.max_bad_fraction=0.9")) == COUNT - 4
    assert run.go("data.recordings.max_bad_fraction=0.3") == []
    assert run.calls == []


def test_the_ladder_is_a_matter_of_those_who_play_it(tmp_path):
    """And of the batches of those that prefer clips with its tasks."""
    recipe = load_config(Recipe, ROBOT)

    def done(*changes: str) -> list[str]:
        recipe, called = load_config(Recipe, ROBOT, changes), []
        executors = {stage.name: lambda context: called.append(context.stage) or {} for stage in recipe_stages(recipe)}
        execute(plan(recipe_stages(recipe), recipe, tmp_path / "run", start="agent"), executors)
        return called

    assert recipe.data.recordings is not None
    assert done()[:2] == ["record", "tokenizer"]
    again = done("data.recordings.ladder=[upright]")
    assert again[0] == "agent"
    assert {"record", "tokenizer", "encode", "dynamics"}.isdisjoint(again)
    changed = load_config(Recipe, ROBOT, ["data.recordings.ladder=[upright]", "dynamics.batches.relevant_fraction=0.5"])
    with pytest.raises(UserError, match=r"stage dynamics .*ladder"):
        plan(recipe_stages(changed), changed, tmp_path / "run", start="agent")


def test_files_of_other_values_are_made_again_and_what_is_not_wanted_is_deleted(run):
    run.go()
    names, folder = run.files(), run.folder / "run" / "record"
    before = {path.name: path.read_bytes() for path in folder.glob("*/*.parquet")}
    (run.folder / "in" / "0.mp4").unlink()
    (folder / "train" / ".s0-9.mp4.parquet.partial").write_bytes(b"killed")
    assert run.go(OTHER, start="record") == EVERY[1:]
    assert run.files() == names - {"s0-0.mp4.parquet"}
    assert all(path.read_bytes() != before[path.name] for path in folder.glob("*/*.parquet"))
    run.found().verify()


def test_a_video_that_was_added_is_all_that_is_made(run, videos):
    run.go()
    videos.write(run.folder / "in" / "more.mp4", 20)
    assert run.go() == []
    assert run.grown() == [f"sources[0], {run.folder / 'in'}: 7 recordings lie there now, the data set was made when there were 6"]
    assert run.go(start="record") == ["more.mp4"]
    assert run.grown() == []
    shutil.rmtree(run.folder / "in")
    assert run.grown() == []


def test_a_run_is_no_source_of_itself(run):
    run.go()
    before, source = run.files(), "data.recordings.sources.0.source={kind: shards, path: PATH}"
    for name, refused in (("run/record", True), ("run", True), ("run/record/train", True), ("runs/other/record", False)):
        recipe = load_config(Recipe, VIDEOS, [source.replace("PATH", str(run.folder / name))])
        if refused:
            with pytest.raises(UserError, match=r"sources\[0\]: .* is of this run itself; give this run another name="):
                refuse_itself(recipe, run.folder / "run")
        else:
            refuse_itself(recipe, run.folder / "run")
    assert run.files() == before


def test_a_damaged_file_is_not_taken_over(run):
    run.go()
    file = run.folder / "run" / "record" / "train" / run.found().files[0].name
    data = bytearray(file.read_bytes())
    data[data.index(run.found().rows(0).coded.payload[3]) + 5] ^= 1
    file.write_bytes(data)
    assert len(run.go(start="record")) == 1
    run.found().verify()


@pytest.mark.parametrize("cut", [0, 2])
def test_a_set_of_other_values_is_no_result_while_the_stage_is_not_done(run, cut):
    run.go()
    with pytest.raises(KeyboardInterrupt):
        run.go(OTHER, start="record", cut=cut)
    for split in ("train", "heldout"):
        with pytest.raises(UserError, match=r"has no manifest\.json"):
            run.found(split)
    with pytest.raises(UserError, match=r"codec\.crf was 18, now 40|codec\.crf was 40, now 18"):
        run.go()
    assert len(run.go(OTHER)) == COUNT - cut
    assert json.loads((run.folder / "run" / "record" / "train" / "manifest.json").read_text())["made_by"]["codec"]["crf"] == 40


def test_a_kill_while_records_are_removed_leaves_no_result(run, monkeypatch):
    run.go()
    gone, real = [], Path.unlink

    def killed(path: Path, **options) -> None:
        if len(gone) == kill:
            raise KeyboardInterrupt
        gone.append(path)
        real(path, **options)

    for kill in range(4):
        run.go(start="record")
        gone.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                run.go(start="record")
        record = run.folder / "run" / "record"
        assert kill == 0 or not (record / "manifest.json").exists()
        assert run.go() == [], "the files are all there"
        assert ("record" in run.calls) == (kill > 0)
