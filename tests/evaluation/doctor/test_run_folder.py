"""The verb on run folders: what it prints and writes, what it says of stages that are not there, and what it refuses."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from dreamer_ray.cli.main import main
from dreamer_ray.doctor import admit, recipe_of, visit
from dreamer_ray.evaluation.doctor import CHECKS, Extent, examine
from dreamer_ray.recipe import FIRST_DOCTOR_WORLD, MOST_WORLDS
from dreamer_ray.stages import trained
from dreamer_ray.training.checkpoint import save_checkpoint

FEW = Extent(pictures=16, windows=12, long_windows=4, clips=16, dreams=8, worlds=8, warm_up=8)


@pytest.fixture(autouse=True)
def _little_is_looked_at(monkeypatch):
    monkeypatch.setattr("dreamer_ray.evaluation.doctor.QUICK", FEW)


def doctor(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *map(str, arguments)])
    return ended.value.code


def test_the_page_and_the_list_answer_every_question(hurried, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert doctor(hurried, "--quick", "--output", page) == 0
    shown, html = capsys.readouterr().out, page.read_text()
    for check in CHECKS:
        assert check.question in shown and check.question in html
    assert re.search(r"\d+ to be mended, \d+ healthy, \d+ could not be told", shown)
    assert html.count("<svg") >= 8 and html.count("data:image/png") >= 2
    assert "http" not in re.sub(r'xmlns\S*="[^"]*"', "", html), "one page that needs nothing else"
    assert not (hurried / "doctor.html").exists()


def test_findings_are_the_same_for_the_same_seed_and_are_json_for_machines(hurried, tmp_path, capsys):
    assert doctor(hurried, "--quick", "--json", "--output", tmp_path / "a.html") == 0
    first = json.loads(capsys.readouterr().out)
    assert doctor(hurried, "--quick", "--json", "--output", tmp_path / "b.html") == 0
    assert json.loads(capsys.readouterr().out) == first
    assert [finding["name"] for finding in first] == [check.name for check in CHECKS]
    by_name = {finding["name"]: finding for finding in first}
    assert by_name["exploit"]["status"] == "unknown"
    assert "no world to play in" in by_name["exploit"]["says"]
    sick = [finding for finding in first if finding["status"] == "sick"]
    assert sick, "after four steps nothing can be well"
    assert all(finding["recipe_keys"] and finding["remedy"] for finding in sick)


def test_what_the_run_has_not_reached_is_unknown_and_never_healthy(hurried):
    found = {f.check.name: f for f in visit(hurried, FEW, stage="tokenizer", seed=0).findings}
    assert {finding.status for name, finding in found.items() if name not in ("blur", "collapse")} == {"unknown"}
    assert "--stage" in found["drift"].says and "--stage" in found["value"].says
    found = {f.check.name: f for f in visit(hurried, FEW, stage="agent", seed=0).findings}
    assert found["policy"].status == found["value"].status == "unknown"
    assert found["freeze"].figures and found["reward"].figures


def test_its_worlds_are_not_those_of_the_evaluation(hurried):
    recipe = recipe_of(hurried)
    patient, _ = admit(recipe, hurried, stage=None, seed=0)
    assert patient.seed == FIRST_DOCTOR_WORLD >= recipe.evaluation.seed + MOST_WORLDS
    assert Extent().worlds <= MOST_WORLDS


def test_a_stage_that_was_cut_off_or_not_begun_is_said_to_be_so(hurried, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(hurried, run)
    shutil.rmtree(run / "imagination")
    (run / "agent" / "manifest.json").unlink()
    found = {f.check.name: f for f in visit(run, FEW, stage=None, seed=0).findings}
    assert found["reward"].says == "The stage agent has begun and not ended."
    assert found["policy"].says == "The stage agent has begun and not ended."
    assert found["freeze"].status != "unknown" or found["freeze"].figures


def test_a_checkpoint_is_examined_as_it_is_while_its_stage_goes_on(hurried, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(hurried, run)
    before = trained(run, "tokenizer")
    weights = before.weights()
    for name in [name for name in weights if "bottleneck." in name]:
        weights[name][:] = 0
    later = save_checkpoint(before.path.parent, before.step + 1, made_by=before.made_by, tensors={"weights": weights})
    pages, latents = {}, {}
    for place in (before.path, later.path):
        assert doctor(place, "--quick", "--json") == 0
        pages[place] = (run / f"doctor-tokenizer-{int(place.name.removeprefix('step-'))}.html").read_text()
        found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
        latents[place] = found["collapse"]["figures"]
        assert found["freeze"]["status"] == "unknown" and "one of its checkpoints" in found["freeze"]["says"]
    assert latents[before.path] != latents[later.path]
    assert f"at step {later.step} of the stage tokenizer" in pages[later.path]
    shutil.rmtree(later.path)
    (run / "imagination" / "manifest.json").unlink()
    for stage, check in (("dynamics", "freeze"), ("agent", "reward"), ("imagination", "policy")):
        assert doctor(trained(run, stage).path, "--quick", "--json") == 0, "one that has begun rests on what is there"
        assert {f["name"]: f for f in json.loads(capsys.readouterr().out)}[check]["figures"]
    manifest = run / "tokenizer" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seconds": 1e9}))
    assert doctor(trained(run, "imagination").path) != 0
    assert "the stage imagination of the checkpoint was begun with other results of the stages before it" in capsys.readouterr().err


def test_stages_that_rest_on_a_tokenizer_which_was_trained_again_are_not_examined(hurried, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(hurried, run)
    manifest = run / "tokenizer" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seconds": 1e9}))
    found = {f.check.name: f for f in visit(run, FEW, stage=None, seed=0).findings}
    assert found["blur"].figures and not found["freeze"].figures
    assert "ended with other results of the stages before it" in found["freeze"].says


def test_short_recordings_are_said_to_be_too_short(hurried, monkeypatch):
    from dreamer_ray import doctor as visits

    admit = visits.admit

    def demanding(*arguments, **options):
        patient, reached = admit(*arguments, **options)
        return replace(patient, sizes=replace(patient.sizes, context=1000, clip=1000, start=1000)), reached

    monkeypatch.setattr(visits, "admit", demanding)
    found = {f.check.name: f for f in visit(hurried, FEW, stage=None, seed=0).findings}
    assert {name for name, finding in found.items() if finding.status == "unknown"} >= {check.name for check in CHECKS[2:]}
    assert re.search(r"longest held-out episode has \d+ frames, and 1007 are needed", found["actions"].says)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "has no recipe.json"),
        (["{run}", "--output", "none/page.html"], "there is no folder"),
        (["{begun}", "--stage", "imagination"], "--stage imagination: The stage imagination has not been run yet"),
        (["{bare}"], "its tokenizer is not trained yet"),
        (
            ["{run}/encode/checkpoints/step-1"],
            "of the stage encode; checkpoints of tokenizer, dynamics, agent, imagination can be examined",
        ),
        (["{run}/agent/checkpoints/step-1"], "step-1: its manifest.json cannot be read"),
        (["{run}/agent/checkpoints/step-1", "--stage", "dynamics"], "is a checkpoint of the stage agent; leave --stage out"),
    ],
)
def test_what_cannot_be_examined_is_refused(arguments, message, hurried, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun, bare = tmp_path / "begun", tmp_path / "bare"
    shutil.copytree(hurried, begun)
    shutil.rmtree(begun / "imagination")
    bare.mkdir()
    shutil.copy(hurried / "recipe.json", bare)
    code = doctor(*(argument.format(run=hurried, begun=begun, bare=bare) for argument in arguments))
    assert code == (1 if "bare" in arguments[0] else 2)
    assert message in capsys.readouterr().err


@pytest.mark.gpu
def test_on_a_gpu_the_findings_are_those_of_a_cpu(hurried):
    recipe = recipe_of(hurried)
    on_gpu = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"gpus_per_replica": 1.0})})
    patients = [admit(each, hurried, stage=None, seed=0)[0] for each in (recipe, on_gpu)]
    assert [next(patient.tokenizer.parameters()).is_cuda for patient in patients] == [False, True]
    here, there = (examine(patient, FEW, seed=0) for patient in patients)
    for finding, other in zip(here, there, strict=True):
        if finding.check.name in ("blur", "collapse", "reward", "continue", "policy"):  # none of which dreams: a GPU draws other noise
            assert other.figures == pytest.approx(finding.figures, abs=0.02, rel=0.02, nan_ok=True), finding.check.name
