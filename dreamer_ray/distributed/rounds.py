"""Rounds of play while imagination trains: evaluators play the same worlds again and again, each round with the newest weights.

    WeightStore --newest weights--> RoundEvaluator x E <--take, play(worlds)-- a thread each in the driver --Round--> played.jsonl,
                                                       --episodes------------>                               log, TensorBoard, Prometheus

A round belongs to one evaluator; several take different versions. Training neither waits for them nor hears of them: a lost or hung one
costs its round and is started again, one that is lost again and again is given up. At the end the last version is played.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayError
from torch.utils.tensorboard import SummaryWriter

from dreamer_ray.distributed import ZERO_COPY_TENSORS, Actor
from dreamer_ray.distributed.failures import in_a_line
from dreamer_ray.distributed.telemetry import export_success, exporter
from dreamer_ray.distributed.weights import STORE, MissingWeightsError, ObjectStoreTransport
from dreamer_ray.domain import domain_of
from dreamer_ray.errors import DreamerError, RunError
from dreamer_ray.evaluation.episodes import EpisodeResult, play
from dreamer_ray.evaluation.rounds import Claims, append_round, read_rounds, summarized
from dreamer_ray.imagination.session import ActingSession
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import trained
from dreamer_ray.training.restore import build_agent, restore_tokenizer

log = logging.getLogger("dreamer_ray")

STAGE, VARIANT = "imagination", "in_training"
PAUSE = 1.0
"""Seconds between two looks for a newer version, and before a lost evaluator is started again."""
MOST_LOSSES = 3
"""In a row, after which an evaluator is given up."""
SECONDS_TO_END = 10.0


@ray.remote(num_cpus=1, max_restarts=0, runtime_env=ZERO_COPY_TENSORS)
class RoundEvaluator:
    """Holds the tokenizer and the newest agent of the run; one call plays one batch of worlds."""

    def __init__(self, recipe: str, run: str, made_by: dict[str, Any]):
        torch.set_num_threads(1)
        self.recipe, self.run, self.made_by = Recipe.model_validate_json(recipe), Path(run), made_by
        self.transport, self.session, self.version = ObjectStoreTransport(ray.get_actor(STORE)), "", -1
        self.models: tuple[Tokenizer, Agent] | None = None

    def ready(self) -> None:
        """Ends once it holds its models. Made here and not with the actor, whose errors would lose their type."""
        if self.models is None:
            device, agent = self.recipe.cluster.replica_device, build_agent(self.made_by)
            agent.load_state_dict(self.transport.frozen())
            tokenizer = restore_tokenizer(trained(self.run, "tokenizer"))
            self.models = tokenizer.to(device), agent.requires_grad_(False).eval().to(device)

    def take(self) -> int:
        """The version that it plays from now on, the newest. Raises ``MissingWeightsError``."""
        self.ready()
        assert self.models is not None
        if (newer := self.transport.fetch((self.session, self.version))) is not None:
            self.session, self.version, weights = newer
            self.models[1].load_weights(weights)
        return self.version

    def play(self, seeds: list[int]) -> list[EpisodeResult]:
        """One episode in each of the worlds ``seeds``, with sampled actions; their draws are the same in every round."""
        assert self.models is not None
        worlds = domain_of(self.recipe).worlds
        assert worlds is not None, "evaluators without a world to play in are refused before"
        return play(ActingSession(*self.models, seeds=seeds), seeds, worlds)

    def __repr__(self) -> str:
        return "RoundEvaluator"


def start_evaluator(number: int, recipe: Recipe, run: Path, made_by: dict[str, Any]) -> Actor:
    """An actor that starts as soon as the cluster has room for it; ``made_by`` is that of the agent's checkpoint."""
    options = {"name": f"round-evaluator-{number}", "num_gpus": recipe.cluster.gpus_per_replica}
    return RoundEvaluator.options(**options).remote(recipe.model_dump_json(), str(run), made_by)


@contextmanager
def rounds_played(recipe: Recipe, run: Path, start: Callable[[], Actor]) -> Iterator[None]:
    """Rounds are played while the ``with`` lasts, and at its good end one with the last version, for ``cluster.call_seconds`` at most.

    ``start`` gives an evaluator, also for each that was lost.
    """
    cluster = recipe.cluster
    if not cluster.evaluators:
        yield
        return
    rounds = _Rounds(recipe, run)
    players = [_Player(number, start, rounds) for number in range(cluster.evaluators)]
    try:
        yield
        rounds.last.set()
        log.info("%-13s trained; its last version is played, for cluster.call_seconds at most", STAGE)
        given_up = time.monotonic() + cluster.call_seconds
        for player in players:
            player.thread.join(max(0.0, given_up - time.monotonic()))
        if any(player.thread.is_alive() for player in players):
            log.warning("%s: the last version was not played within cluster.call_seconds = %g", STAGE, cluster.call_seconds)
    finally:
        rounds.stopped.set()
        for player in players:
            player.end()
        rounds.curves.close()


class _Rounds:
    """What the threads share: who plays which version, and where results go."""

    def __init__(self, recipe: Recipe, run: Path):
        section, folder, self.domain = recipe.evaluation, run / STAGE, domain_of(recipe)
        seeds, size = list(section.round_seeds()), section.worlds_per_call
        self.batches = [seeds[i : i + size] for i in range(0, len(seeds), size)]
        self.seconds, self.folder = recipe.cluster.call_seconds, folder
        self.claims = Claims(max((played.version for played in read_rounds(folder)), default=-1))
        self.curves, self.export = SummaryWriter(str(folder / "tensorboard" / "played")), exporter(recipe.name, STAGE)
        self.last, self.stopped = threading.Event(), threading.Event()
        self.writing = threading.Lock()

    def write(self, version: int, episodes: list[EpisodeResult], seconds: float) -> None:
        played = summarized(version, episodes, self.domain.rungs, seconds=seconds)
        with self.writing:
            append_round(self.folder, played)
            for name, value in played.figures().items():
                self.curves.add_scalar(name, value, version)
            self.curves.flush()
            export_success(self.export, VARIANT, episodes, self.domain.tasks)
            self.export.add("episodes", len(episodes), variant=VARIANT)
            self.export.set("figure", played.ladder_events.value, figure="ladder_events")
            self.export.set("figure", version, figure="played_version")
            log.info("%-13s %s", STAGE, played.line())


@dataclass
class _Player:
    """One evaluator after the other, each in the place of a lost one, and the thread that asks them."""

    number: int
    start: Callable[[], Actor]
    rounds: _Rounds
    actor: Actor = None
    done: int = 0
    """Rounds so far."""
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Its thread ends with its actor."""
        given_up = time.monotonic() + SECONDS_TO_END
        while self.thread.is_alive() and time.monotonic() < given_up:
            if self.actor is not None:
                ray.kill(self.actor)
            self.thread.join(PAUSE)

    def _run(self) -> None:
        rounds, losses = self.rounds, 0
        while losses < MOST_LOSSES and not rounds.stopped.is_set():
            self.actor, before = self.start(), self.done
            try:
                self._play()
            except (RayError, OSError, DreamerError) as error:
                losses = 1 if self.done > before else losses + 1
                if not rounds.stopped.is_set():
                    self._tell(error, again=losses < MOST_LOSSES)
                    rounds.stopped.wait(PAUSE)
            else:
                return
            finally:
                rounds.claims.release(self.number, played=False)
                ray.kill(self.actor)

    def _play(self) -> None:
        """Round after round, until there is no newer version and none will come."""
        ray.get(self.actor.__ray_ready__.remote())  # without a deadline: until the cluster has room for it; ends with the actor
        self._answer(self.actor.ready.remote())
        while not self.rounds.stopped.is_set():
            last = self.rounds.last.is_set()
            version = self._newest()
            if self.rounds.claims.claim(self.number, version):
                begun = time.monotonic()
                episodes = [episode for seeds in self.rounds.batches for episode in self._answer(self.actor.play.remote(seeds))]
                self.rounds.write(version, episodes, time.monotonic() - begun)
                self.rounds.claims.release(self.number, played=True)
                self.done += 1
            elif last:
                return
            else:
                self.rounds.last.wait(PAUSE)

    def _newest(self) -> int:
        """The version that the evaluator holds now, -1 where the store has none."""
        try:
            return self._answer(self.actor.take.remote())
        except MissingWeightsError:
            return -1

    def _answer(self, reference: ObjectRef) -> Any:
        seconds = self.rounds.seconds
        try:
            return ray.get(reference, timeout=seconds)
        except GetTimeoutError as error:
            remedy = "raise this key or lower evaluation.worlds_per_call, if it is not hung but slow"
            raise RunError(f"no answer within cluster.call_seconds = {seconds:g}; {remedy}") from error

    def _tell(self, error: Exception, *, again: bool) -> None:
        if again:
            self.rounds.export.add("restarts", part="evaluator")
        what = "started again" if again else "given up, training goes on without it"
        log.warning("%s: evaluator %d is lost (%s); %s", STAGE, self.number, in_a_line(error), what)
