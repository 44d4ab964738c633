"""The command line in processes of its own: messages, exit codes, run.log, and stopping."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from dreamer_ray.cli.main import main
from dreamer_ray.errors import RunError

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "crafter" / "tiny.yaml"
SIZES = yaml.safe_load(TINY.read_text())

STAGES = ["record", "tokenizer", "encode", "dynamics", "agent", "agent_scratch", "imagination", "evaluate", "report"]


def command(*arguments: object) -> subprocess.CompletedProcess:
    """``dreamer-ray`` in an interpreter of its own."""
    line = [sys.executable, "-m", "dreamer_ray", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)


class Command:
    """``dreamer-ray run`` of the tiny recipe in a forked process, with executors that only do ``work`` (no Ray is started)."""

    def __init__(self, runs: Path, *arguments: object, work: Callable[[], object] = bool) -> None:
        self.files = [tempfile.TemporaryFile("w+") for _ in range(2)]
        self.pid = os.fork()
        if self.pid == 0:
            for number, file in enumerate(self.files, start=1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)
            _pretend_ray(work, arguments)
            code = 1
            try:
                main(["run", str(TINY), "--runs", str(runs), *map(str, arguments)])
            except SystemExit as end:
                code = end.code
            except BaseException:  # noqa: BLE001 - as the interpreter does at its end
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)

    def end(self) -> subprocess.CompletedProcess:
        """Waits for it."""
        _, status = os.waitpid(self.pid, 0)
        return subprocess.CompletedProcess([], os.waitstatus_to_exitcode(status), *map(self.text, range(2)))

    def text(self, number: int) -> str:
        """What it has written to stdout (0) or stderr (1)."""
        return os.pread(self.files[number].fileno(), 1 << 20, 0).decode()

    def await_begin(self) -> None:
        """Waits until its first stage has begun."""
        while "begun" not in self.text(0):
            time.sleep(0.01)


def _pretend_ray(work: Callable[[], object], arguments: tuple[object, ...]) -> None:
    def executor(context):
        print("begun", context.stage, flush=True)
        work()
        return {}

    cluster, run, stages = (types.ModuleType(name) for name in ("cluster", "run", "stages"))
    cluster.cluster = lambda recipe, stages: nullcontext()
    run.ray_executors = lambda: dict.fromkeys(STAGES, executor)
    stages.check_inputs = lambda folder, names: None  # these executors leave no results
    sys.modules |= {"dreamer_ray.distributed.cluster": cluster, "dreamer_ray.distributed.run": run}
    if "--dry-run" not in arguments:
        sys.modules["dreamer_ray.stages"] = stages


def run(runs: Path, *arguments: object, work: Callable[[], object] = bool) -> subprocess.CompletedProcess:
    return Command(runs, *arguments, work=work).end()


def sleep() -> None:
    time.sleep(60)


def fail() -> None:
    raise RunError("loss is NaN at step 3")


def surprise() -> None:
    raise KeyError("record")


def assert_one_message(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dynamics.fit.stepz=3"], ["unknown key dynamics.fit.stepz; did you mean dynamics.fit.steps?"]),
        (["tokenizer.model.patch=eight"], ["tokenizer.model.patch = 'eight'", "valid integer"]),
        (["--only", "dreaming"], ["--only dreaming: no such stage; this recipe has record, tokenizer"]),
        (["--from", "tokenizer", "name=x", "agent.fit.steps=yes"], ["agent.fit.steps"]),
    ],
)
def test_a_mistake_in_the_command_is_one_message_and_exit_code_2(tmp_path, arguments, words):
    assert_one_message(run(tmp_path, *arguments), 2, *words)
    assert list(tmp_path.rglob("manifest.json")) == []


def test_a_missing_recipe_is_one_message_without_traceback_unless_debug():
    assert_one_message(command("run", "none.yaml"), 2, "recipe none.yaml: cannot be read (No such file")
    done = command("run", "none.yaml", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_words_that_argparse_does_not_know_are_refused(tmp_path):
    done = run(tmp_path, "--from", "tokenizer", "--quick")
    assert done.returncode == 2
    assert "--quick" in done.stderr
    assert command().returncode == 2


def test_the_version_is_that_of_the_package():
    assert re.fullmatch(r"dreamer-ray \d+\.\d+\.\d+\n", command("--version").stdout)


def test_a_dry_run_shows_stages_and_needs_and_writes_nothing(tmp_path):
    done = run(tmp_path / "runs", "--dry-run", "agent.scratch=false")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(rows)[2:-1] == [stage for stage in STAGES if stage != "agent_scratch"]
    assert f"{SIZES['tokenizer']['fit']['steps']:,} steps" in rows["tokenizer"]
    assert all("run " in rows[stage] for stage in ("record", "report"))
    assert re.search(r"about \d+:\d\d:\d\d of work", done.stdout)
    assert not (tmp_path / "runs").exists()


def test_all_stages_run_once_and_run_log_has_what_the_console_showed(tmp_path):
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.split()[1::2] == STAGES
    log = (tmp_path / "crafter-tiny" / "run.log").read_text()
    shown = [line.split("  ", 1)[1] for line in first.stderr.splitlines()]
    assert len(shown) > 10
    assert all(line in log for line in shown)
    again = run(tmp_path)
    assert (again.returncode, again.stdout) == (0, "")
    assert "all done already" in again.stderr


def test_a_log_file_on_a_full_disk_says_nothing_of_its_own(tmp_path):
    folder = tmp_path / "crafter-tiny"
    folder.mkdir()
    (folder / "run.log").symlink_to("/dev/full")
    assert_one_message(run(tmp_path, work=fail), 1, "loss is NaN at step 3")


def test_a_changed_recipe_is_refused(tmp_path):
    run(tmp_path)
    manifest = tmp_path / "crafter-tiny" / "dynamics" / "manifest.json"
    before = manifest.read_bytes()
    done = run(tmp_path, "dynamics.fit.steps=7")
    steps = SIZES["dynamics"]["fit"]["steps"]
    assert_one_message(
        done, 2, f"stage dynamics was made with other values: dynamics.fit.steps was {steps}, now 7", "--from dynamics", "name="
    )
    assert manifest.read_bytes() == before
    assert json.loads(before)["sections"]["dynamics"]["fit"]["steps"] == steps
    redone = run(tmp_path, "--from", "dynamics", "dynamics.fit.steps=7")
    assert redone.stdout.split()[1::2] == ["dynamics", "agent", "imagination", "evaluate", "report"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_and_the_same_command_resumes_it(tmp_path, number):
    running = Command(tmp_path, work=sleep)
    running.await_begin()
    assert_one_message(run(tmp_path), 2, f"process {running.pid} on {socket.gethostname()} works in it")
    os.kill(running.pid, number)
    stopped = running.end()
    assert stopped.returncode == 130
    assert "stopped; the same command, without --from, goes on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "record        resume (was cut off)" in run(tmp_path).stderr


def test_a_stage_that_answers_the_signal_itself_is_stopped_all_the_same(tmp_path):
    """Ray Train puts its own handler there, which ends the process with 0."""

    def ends() -> None:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        os.kill(os.getpid(), signal.SIGINT)

    done = run(tmp_path, work=ends)
    assert (done.returncode, done.stdout) == (130, "begun record\n")
    assert "stopped; the same command, without --from, goes on" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_that_a_stage_leaves_behind_is_gone_in_the_next(tmp_path, number):
    def leaves() -> None:
        if any(tmp_path.rglob("manifest.json")):
            os.kill(os.getpid(), number)
        signal.signal(number, lambda *_: None)

    done = run(tmp_path, work=leaves)
    assert (done.returncode, done.stdout) == (130, "begun record\nbegun tokenizer\n")


def test_a_kill_leaves_no_lock(tmp_path):
    running = Command(tmp_path, work=sleep)
    running.await_begin()
    os.kill(running.pid, signal.SIGKILL)
    assert running.end().returncode == -signal.SIGKILL
    assert run(tmp_path).returncode == 0


def test_a_failed_run_is_one_message_and_exit_code_1(tmp_path):
    assert_one_message(run(tmp_path, work=fail), 1, "loss is NaN at step 3")
    assert "Traceback" in (tmp_path / "crafter-tiny" / "run.log").read_text()


def test_an_unforeseen_failure_names_its_kind_and_place_and_keeps_the_traceback_in_run_log(tmp_path):
    assert_one_message(run(tmp_path, work=surprise), 1, "unexpected KeyError: 'record'", ".py, line", "--debug")
    assert "Traceback" in (tmp_path / "crafter-tiny" / "run.log").read_text()
    shown = run(tmp_path, "--debug", work=surprise)
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_message(run(tmp_path / "file"), 2, "cannot be written", "--runs DIR")
