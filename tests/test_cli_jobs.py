"""What ``submit``, ``status`` and ``stop`` refuse before they ask any cluster, and where they look for one."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamer_ray.cli import status, stop, submit
from dreamer_ray.cli.main import main
from dreamer_ray.errors import UserError

TOY = Path(__file__).parents[1] / "configs/crafter/toy.yaml"
NOWHERE = ["--address", "127.0.0.1:1"]


def parsed(*words: object) -> argparse.Namespace:
    verbs = (parser := argparse.ArgumentParser()).add_subparsers()
    for verb in (submit, status, stop):
        verb.add_parser(verbs)
    return parser.parse_args([str(word) for word in words])


def act(*words: object) -> object:
    options = parsed(*words)
    return options.act(options)


@pytest.fixture
def project(tmp_path) -> Callable[..., list[object]]:
    shutil.copy(TOY, tmp_path / "recipe.yaml")
    return lambda *words: ["submit", tmp_path / "recipe.yaml", *words, "--working-dir", tmp_path, "--runs", "/shared/runs", *NOWHERE]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tokenizer.fit.stepz=3"], "unknown key tokenizer.fit.stepz; did you mean tokenizer.fit.steps"),
        (["--id", "a b"], "--id a b: expected letters"),
        (["--exclude", "recipe.yaml"], "recipe.yaml: not among the 0 files of"),
    ],
)
def test_a_mistake_in_the_command_is_found_before_anything_is_sent(project, words, message):
    with pytest.raises(UserError, match=message):
        act(*project(*words))


def test_the_folder_of_results_must_be_absolute(project):
    with pytest.raises(UserError, match="--runs runs: give the absolute path of a folder that all nodes of the cluster share"):
        act(*project(), "--runs", "runs")


def test_a_recipe_outside_the_working_directory_is_refused(project, tmp_path):
    (tmp_path / "inner").mkdir()
    with pytest.raises(UserError, match=r"recipe.yaml: not among the 0 files of .*inner that are uploaded; choose --working-dir DIR"):
        act(*project(), "--working-dir", tmp_path / "inner")


def test_too_much_to_upload_is_refused_before_anything_is_sent(project, tmp_path):
    with (tmp_path / "film.mp4").open("wb") as film:
        film.truncate(101 * 2**20)
    with pytest.raises(UserError, match=r"has 101 MiB in 2 files to upload, Ray takes less than 100; largest: film.mp4 101.0 MiB, recipe"):
        act(*project())
    with pytest.raises(UserError, match="no Ray dashboard answers"):
        act(*project("--exclude", "*.mp4"))


@pytest.mark.parametrize("verb", [["status"], ["status", "x"], ["stop", "x"]])
def test_an_address_where_nothing_answers_is_named(verb):
    with pytest.raises(UserError, match=r"^http://127.0.0.1:1: no Ray dashboard answers there \(\[Errno 111\] Connection refused\); give"):
        act(*verb, *NOWHERE)


def test_an_authentication_mode_that_is_not_set_is_refused(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(UserError, match="RAY_AUTH_MODE is not set: RAY_AUTH_MODE=token"):
        act("status", *NOWHERE)


def test_following_needs_a_job():
    with pytest.raises(UserError, match="--follow: shows the log of one JOB"):
        act("status", "--follow")


def test_a_word_too_many_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["stop", "one", "two"])
    assert end.value.code == 2
    assert "unknown argument two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "words", "address"),
    [
        (None, [], "http://127.0.0.1:8265"),
        ("auto", [], "http://127.0.0.1:8265"),
        ("10.0.0.7:6379", [], "http://127.0.0.1:8265"),
        ("https://127.0.0.2:8265", [], "https://127.0.0.2:8265"),
        ("https://127.0.0.2:8265", ["--address", "127.0.0.1:80/"], "http://127.0.0.1:80"),
    ],
)
def test_the_address_is_that_of_a_dashboard(monkeypatch, environment, words, address):
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert parsed("status", *words).address == address
