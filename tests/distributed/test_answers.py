"""A dashboard that fails, for a while or for good: a server that answers what each test says, asked through the verbs of jobs."""

import argparse
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dreamer_ray.cli import status, stop
from dreamer_ray.distributed.jobs import connect
from dreamer_ray.errors import DreamerError, RunError, UserError

INGRESS = "<html>\n<title>of an ingress</title>\n</html>"
JOB = {"type": "SUBMISSION", "submission_id": "x", "entrypoint": ""}


@dataclass
class Answering:
    """Status code and text (or values) for a path, one after the other; the last one for good."""

    address: str
    answers: dict[str, list[tuple[int, object]]] = field(default_factory=lambda: {"/api/version": [(200, {"ray_version": "2.60.0"})]})

    def next(self, path: str) -> tuple[int, bytes]:
        found = self.answers.get(path, [(404, "there is none")])
        code, said = found.pop(0) if len(found) > 1 else found[0]
        return code, (said if isinstance(said, str) else json.dumps(said)).encode()


@pytest.fixture
def dashboard() -> Iterator[Answering]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            code, said = answering.next(self.path)
            self.send_response(code)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = answer  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_) -> None:
            """Not on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        answering = Answering(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield answering
        server.shutdown()


def act(dashboard: Answering, *words: str) -> object:
    verbs = (parser := argparse.ArgumentParser()).add_subparsers()
    for verb in (status, stop):
        verb.add_parser(verbs)
    options = parser.parse_args([*words, "--address", dashboard.address])
    return options.act(options)


def test_following_outlasts_a_dashboard_that_fails_for_a_while(dashboard):
    """Also before the first answer: between a submission and the first look at it."""
    running, ended = JOB | {"status": "RUNNING"}, JOB | {"status": "FAILED", "driver_exit_code": 3}
    dashboard.answers |= {
        "/api/jobs/x/logs": [(200, {"logs": ""})],
        "/api/jobs/x": [(502, INGRESS), (200, running), (500, "Traceback:\nRpcError: lost"), (503, ""), (200, ended)],
    }
    assert act(dashboard, "status", "x", "--follow") == 3


@pytest.mark.parametrize(
    ("words", "answers", "kind", "message"),
    [
        (["status"], {"/api/jobs/": (503, "")}, UserError, r"GET /api/jobs/ with status code 503 \(Service Unavailable\); try again"),
        (["status", "x"], {"/api/jobs/x": (502, INGRESS)}, UserError, r"GET /api/jobs/x with status code 502 \(Bad Gateway\); try again"),
        (
            ["stop", "x"],
            {"/api/jobs/x/stop": (500, "Traceback:\nRpcError: lost")},
            UserError,
            r"POST /api/jobs/x/stop .* 500 \(RpcError: lost\)",
        ),
        (
            ["status", "x"],
            {"/api/jobs/x/logs": (400, "Can only get logs of")},
            RunError,
            r"GET /api/jobs/x/logs .* 400 \(Can only get logs of\)$",
        ),
    ],
    ids=["jobs", "job", "stop", "log"],
)
def test_an_answer_that_is_none_is_one_message_with_what_was_asked_for(dashboard, words, answers, kind, message):
    dashboard.answers["/api/jobs/x"] = [(200, JOB | {"status": "RUNNING"})]
    dashboard.answers |= {path: [answer] for path, answer in answers.items()}
    with pytest.raises(DreamerError, match=f"^{dashboard.address}: answers {message}") as raised:
        act(dashboard, *words)
    assert isinstance(raised.value, kind)


def test_a_cluster_whose_state_is_not_told_is_no_surprise(dashboard):
    dashboard.answers["/api/cluster_status"] = [(502, INGRESS)]
    with pytest.raises(UserError, match="answers GET /api/cluster_status with status code 502"):
        connect(dashboard.address).is_fixed()
