"""Runs as jobs of a cluster that is only known by the address of its dashboard: preflight, submit, follow, stop.

this shell --HTTP--> dashboard --> supervisor actor of the job --starts--> dreamer-ray run (the driver) --> its actors
         <--log, state, exit code--
"""

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn

import aiohttp
import requests
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_actors, list_nodes
from ray.util.state.exception import RayStateApiException

from dreamer_ray.distributed.authentication import refused, required_mode
from dreamer_ray.distributed.demand import demands, needs
from dreamer_ray.distributed.job_status import (
    ActorState,
    JobReport,
    JobState,
    groups,
    last_error,
    newest_round,
    progress,
    stages,
    with_replaced,
)
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.recipe import Recipe

log = logging.getLogger("dreamer_ray")

REQUEST_SECONDS = (10, 120)
"""To connect, and between two bytes of an answer; Ray's own client would wait for ever."""
MOST_ENTRIES = 10_000
"""Nodes or actors in one answer of Ray's state API."""
SILENCE_SECONDS = 30.0
"""Without a word of the job after which its log is asked for anew: a dead connection looks like a quiet job."""
OUTAGE_SECONDS = 120.0
"""Without an answer of the dashboard after which following ends."""
PENDING_SECONDS = 5.0
"""After which a job that was told to stop and has not begun is ended by killing its supervisor: Ray asks a supervisor that is not there."""
RESUMES = "if the head of the cluster was lost the job has ended with it: submitted again with the same --runs it goes on"
KILL_SUPERVISOR = "import sys, ray; ray.init(); ray.kill(ray.get_actor(sys.argv[1], namespace='SUPERVISOR_ACTOR_RAY_NAMESPACE'))"
STOPPED, LOST = 130, 1
OURS = re.compile(r"dreamer[-_]ray run ")


class NoAnswerError(UserError):
    """The dashboard cannot be reached, or all that answers is its own failure, or that of an ingress before it (status codes 5xx)."""


class Dashboard(JobSubmissionClient):
    """Ray's client of jobs; requests have a time limit, and their failures are errors of ours. Made by ``connect``."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        try:
            return super()._do_request(method, endpoint, **{"timeout": REQUEST_SECONDS, **options})
        except requests.RequestException as error:
            raise NoAnswerError(_no_answer(self.get_address(), error)) from error

    def _raise_error(self, r: requests.Response) -> NoReturn:
        """Called by all of Ray's client for an answer that is none."""
        lines, wanted = r.text.strip().splitlines(), f"{r.request.method} {r.request.path_url}"
        reason = r.reason if not lines or lines[0].startswith("<") else lines[-1][:200]  # a traceback ends with its error
        message = f"{self.get_address()}: answers {wanted} with status code {r.status_code} ({reason})"
        if r.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise NoAnswerError(f"{message}; try again, or look whether the head of the cluster is up")
        raise RunError(message)

    def job(self, name: str) -> JobDetails:
        """State of the job that was submitted as ``name``. Raises ``UserError`` where there is none."""
        try:
            found = self.get_job_info(name)
        except RunError as error:
            if "status code 404" not in str(error):
                raise
            raise UserError(
                f"job {name}: there is none at {self.get_address()}; `dreamer-ray status` lists those of dreamer_ray"
            ) from error
        if found.submission_id is None:
            raise UserError(f"job {name}: was not submitted but started in a shell; look at it and stop it there")
        return found

    def nodes(self) -> list[dict[str, float]]:
        """CPUs, GPUs and the like of each node that is up."""
        return [dict(node.resources_total) for node in self._listed(list_nodes, filters=[("state", "=", "ALIVE")])]

    def actors(self, job: JobDetails) -> list[ActorState]:
        """The actors of a job that has begun, also those that have ended."""
        found = self._listed(list_actors, filters=[("job_id", "=", job.job_id)], detail=True) if job.job_id else []
        return [ActorState(actor.name or actor.class_name, actor.state, int(actor.num_restarts or 0)) for actor in found]

    def is_fixed(self) -> bool:
        """Whether no autoscaler will ever add nodes, as far as can be told: the second autoscaler of Ray says nothing here."""
        answer = self._do_request("GET", "/api/cluster_status")
        if not answer.ok:
            self._raise_error(answer)
        status = answer.json()["data"]["clusterStatus"]
        types = ((status or {}).get("autoscalerReport") or {}).get("nodeTypeMapping") or {}
        return bool(types) and all(kind == f"node_{node}" for node, kind in types.items())

    def _listed(self, read: Callable[..., list[Any]], **options: Any) -> list[Any]:
        try:
            return read(address=self.get_address(), limit=MOST_ENTRIES, **options)
        except (RayStateApiException, requests.RequestException) as error:
            raise NoAnswerError(_no_answer(self.get_address(), error)) from error


def _no_answer(address: str, error: BaseException) -> str:
    inner = error
    while inner.__context__ is not None:
        inner = inner.__context__
    reason = (str(inner).splitlines() or [repr(inner)])[0][:200]
    return f"{address}: no Ray dashboard answers there ({reason}); give its address with --address HOST:8265"


def connect(address: str) -> Dashboard:
    """The dashboard at ``address``. Raises ``UserError`` where it does not answer, or refuses the token."""
    required_mode()
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)  # Ray would prefer them to the address that it is given
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what Ray has to say of an upload stands in our own lines
    try:
        return Dashboard(address)
    except AuthenticationError as error:
        raise refused(address, error) from error
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise NoAnswerError(_no_answer(address, error)) from error


def shortages(wanted: Mapping[str, float], there: Mapping[str, float]) -> list[str]:
    """What of ``wanted`` a cluster with ``there`` lacks, in words."""
    return [f"{amount:g} {kind}s, there {there.get(kind, 0):g}" for kind, amount in wanted.items() if amount > there.get(kind, 0)]


def require_resources(dashboard: Dashboard, recipe: Recipe, *, only: str | None = None) -> None:
    """Raises ``UserError`` where the cluster lacks what the stages (or ``only`` one) want and will not grow; where it may grow a warning is
    given."""
    nodes, wanted = dashboard.nodes(), needs(recipe, only=only)
    there = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in wanted}
    if lacking := shortages(wanted, there):
        message = f"the recipe asks for {'; for '.join(lacking)} at {dashboard.get_address()}"
    elif found := [shortage.need for demand in demands(recipe, only=only).values() if (shortage := demand.shortage(nodes))]:
        message = f"{found[0]} at {dashboard.get_address()}"
    else:
        return
    if dashboard.is_fixed():
        keys = "cluster.workers, cluster.learners, cluster.replicas, cluster.evaluators"
        raise UserError(f"{message}, which has no autoscaler; lower {keys} or their gpus_per_, or add nodes")
    log.warning("%s now: the run waits or ends unless the autoscaler adds nodes", message)


def exit_code(job: JobDetails) -> int:
    """That of the job's own command, as a shell gives it; 130 for one that was stopped, 1 for one that never ran."""
    code = job.driver_exit_code
    if job.status == JobStatus.STOPPED:
        return STOPPED
    if code is None or (code == 0 and job.status == JobStatus.FAILED):
        return 0 if job.status == JobStatus.SUCCEEDED else LOST
    return code if code >= 0 else 128 - code


@dataclass
class _Unseen:
    """Passes on what of a log was not shown yet, though each connection sends it from its beginning."""

    show: Callable[[str], object]
    shown: int
    position: int = 0

    def take(self, text: str) -> None:
        fresh = text[max(0, self.shown - self.position) :]
        self.position += len(text)
        self.shown = max(self.shown, self.position)
        if fresh:
            self.show(fresh)


def require_new(dashboard: Dashboard, name: str) -> None:
    """Raises ``UserError`` where a job of this name is there, be it ended: Ray takes a name once."""
    for job in dashboard.list_jobs():
        if job.submission_id == name:
            raise UserError(
                f"--id {name}: there is a job of this name already ({job.status}); choose another: with the same --runs and name= in the "
                "recipe the run goes on where it was cut off"
            )


def jobs(dashboard: Dashboard) -> list[JobState]:
    """All jobs of dreamer_ray that were submitted, the oldest first."""
    found = [
        job for job in dashboard.list_jobs() if job.submission_id and ("dreamer_ray" in (job.metadata or {}) or OURS.search(job.entrypoint))
    ]
    return sorted(map(_state, found), key=lambda job: job.began)


def report(dashboard: Dashboard, name: str) -> JobReport:
    """What the job is doing, from its log and the states of its actors."""
    job = dashboard.job(name)
    written = dashboard.get_job_logs(name)
    names = (job.metadata or {}).get("stages", "").split()
    actors, done = with_replaced(groups(dashboard.actors(job)), written), stages(written, names)
    return JobReport(_state(job), done, progress(written), actors, last_error(written), newest_round(written))


def _state(job: JobDetails) -> JobState:
    ended, metadata = job.status.is_terminal(), job.metadata or {}
    began = (job.start_time or 0) / 1000
    return JobState(
        name=job.submission_id or "",
        status=str(job.status),
        began=began,
        seconds=(job.end_time / 1000 if ended and job.end_time else time.time()) - began,
        exit_code=exit_code(job) if ended else None,
        recipe=metadata.get("recipe", ""),
        run=metadata.get("run", ""),
        message=job.message or "",
    )


def follow(dashboard: Dashboard, name: str, show: Callable[[str], object], *, skip: int = 0) -> JobDetails:
    """Hands the log of a job to ``show`` (without its first ``skip`` characters) until the job has ended; returns its last state.

    A connection that breaks is made again. Raises ``RunError`` where the dashboard does not answer for two minutes.
    """
    unseen, job, silent = _Unseen(show, skip), None, None
    while True:
        ended = job is not None and job.status.is_terminal()
        whole = asyncio.run(_read(dashboard, name, unseen))
        try:
            job, silent = dashboard.job(name), None
        except NoAnswerError as error:
            silent = silent or time.monotonic()
            if time.monotonic() - silent > OUTAGE_SECONDS:
                raise RunError(f"{error}; {RESUMES}") from error
        except UserError as error:
            raise RunError(f"{error}; {RESUMES}") from error
        if job and job.status.is_terminal() and (whole or ended):  # a log that broke off is read once more after the end
            return job
        time.sleep(1)


async def _read(dashboard: Dashboard, name: str, unseen: _Unseen) -> bool:
    """Whether it was read to its end."""
    unseen.position = 0
    lines = dashboard.tail_job_logs(name)
    while True:
        try:
            unseen.take(await asyncio.wait_for(anext(lines), SILENCE_SECONDS))
        except StopAsyncIteration:
            return True
        except (aiohttp.ClientError, OSError, RuntimeError, TimeoutError) as error:
            log.debug("the log of job %s broke off (%r)", name, error)
            return False


def stop(dashboard: Dashboard, name: str, *, seconds: float) -> JobDetails:
    """Ends a job, waiting or running, and returns its last state; one that has ended is left as it is. Raises ``RunError`` when late.

    A running one gets SIGTERM, which ends a run so that it can be resumed, and SIGKILL a minute later.
    """
    job, asked, killed = dashboard.job(name), time.monotonic(), False
    if not job.status.is_terminal():
        dashboard.stop_job(name)
    while not job.status.is_terminal():
        waited = time.monotonic() - asked
        if waited > seconds:
            raise RunError(f"job {name}: still {job.status} {waited:.0f} s after it was told to stop; try again with more --seconds")
        if job.status == JobStatus.PENDING and waited > PENDING_SECONDS and not killed:
            killed = True
            _kill_supervisor(dashboard, name, seconds - waited)
        time.sleep(0.5)
        job = dashboard.job(name)
    return job


def _kill_supervisor(dashboard: Dashboard, name: str, seconds: float) -> None:
    """By a job of its own, which needs no CPU: only inside the cluster can the supervisor be named."""
    words = ["python", "-c", KILL_SUPERVISOR, f"_ray_internal_job_actor_{name}"]
    killer, begun = dashboard.submit_job(entrypoint=shlex.join(words)), time.monotonic()
    while not (job := dashboard.job(killer)).status.is_terminal():
        if time.monotonic() - begun > seconds:
            raise RunError(f"job {name}: waits, and the job {killer} that was to end it waits too; is the head node of the cluster full?")
        time.sleep(0.5)
    if job.status == JobStatus.FAILED and dashboard.job(name).status == JobStatus.PENDING:
        raise RunError(f"job {name}: waits, and the job {killer} that was to end it failed: {job.message}")
    dashboard.delete_job(killer)
