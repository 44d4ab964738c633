"""The one training loop. Top to bottom: restore, then for each step draw, differentiate, clip, update, average, log, commit."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from dreamer_ray.config import Config
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.numerics import world_size
from dreamer_ray.phases.phase import Phase
from dreamer_ray.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from dreamer_ray.training.metrics import MetricSink
from dreamer_ray.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from dreamer_ray.training.parallel import Tuning, averaging, data_parallel, is_first_rank, own, take, tune, whole
from dreamer_ray.types import Batch, Loss


class FitConfig(Config):
    """Length and bookkeeping of one phase."""

    steps: int = Field(gt=0)
    optimizer: OptimizerConfig
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average of the weights, which the next stage uses; 0 is off."""
    accumulate: int = Field(default=1, gt=0)
    """Parts of a batch that pass one after the other for one update, for less memory; each takes its losses' means by itself."""
    checkpoint_every: int = Field(default=100, gt=0)
    log_every: int = Field(default=10, gt=0)
    seed: int = 0


CPU = torch.device("cpu")
LOOKS, SECONDS_BETWEEN_LOOKS = 60, 1.0
"""At the newest checkpoint, until all ranks see the same; NFS may show an old folder for up to a minute."""


@dataclass(frozen=True)
class Place:
    """Where and how a fit runs: its folder of checkpoints, its device, its rank, who hears its figures, its switches for speed."""

    folder: Path
    sink: MetricSink
    device: torch.device = CPU
    rank: int = 0
    tuning: Tuning = field(default_factory=Tuning)


Batches = Callable[[int], Iterable[Any]]
"""From the first step that is wanted to the batches of that and all later steps."""


def fit(
    phase: Phase,
    batches: Batches,
    config: FitConfig,
    *,
    place: Place,
    made_by: dict[str, Any],
    after_step: Callable[[int], None] | None = None,
) -> Checkpoint:
    """Trains ``phase`` for ``config.steps`` updates and returns the last checkpoint; goes on from the newest one in ``place.folder``.

    Draws of step s on rank r come from a generator seeded with (seed, s, r) and batch s from ``batches``, so a run that was cut
    and resumed is the uninterrupted run, bitwise on a CPU. ``after_step(s)`` is called after update s (s steps are done).
    Raises ``RunError`` where loss or gradient is not finite.
    """
    tune(phase.to(place.device).train(), place.tuning)
    call = data_parallel(phase, place.device, sharded=place.tuning.sharded)
    optimizer = make_optimizer(phase, config.optimizer)
    average = {n: p.detach().clone() for n, p in phase.named_parameters() if p.requires_grad} if config.ema else {}
    phase.average = {} if isinstance(phase, FSDPModule) else average  # rows alone are no weights to compute with
    checkpoint = _newest(place)
    start = 0 if checkpoint is None else _restore(checkpoint, phase, optimizer, average, made_by)
    clock = _Clock(place.sink, config.log_every)
    for step, batch in _timed(batches, start, config.steps, clock):
        generator = torch.Generator().manual_seed(_seed(config.seed, step, place.rank))
        optimizer.zero_grad(set_to_none=True)
        loss = _differentiate(call, batch, config.accumulate, place, generator=generator, progress=step / config.steps)
        norm = whole(torch.nn.utils.clip_grad_norm_(phase.parameters(), config.optimizer.clip))
        _refuse_nonfinite(step, norm, loss.total, loss.metrics, place.folder)
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(step, config.steps, config.optimizer)
        optimizer.step()
        phase.updated()
        _average(average, phase, config.ema, step)
        done = step + 1
        clock.record(done, loss.metrics | {"loss": loss.total, "gradient_norm": norm}, last=done == config.steps)
        if after_step is not None:
            after_step(done)
        if done % config.checkpoint_every == 0 or done == config.steps:
            checkpoint = _commit(place.folder, done, phase, optimizer, average, made_by)
    assert checkpoint is not None
    return checkpoint


def _newest(place: Place) -> Checkpoint | None:
    """The newest checkpoint, once all ranks see the same: a file system may show some an old folder, and they would train apart."""
    step = 0
    for _ in range(LOOKS):
        checkpoint = latest_checkpoint(place.folder)
        step = 0 if checkpoint is None else checkpoint.step
        ends = torch.tensor([step, -step], device=place.device)
        if world_size() > 1:
            dist.all_reduce(ends, op=dist.ReduceOp.MAX)
        if not int(ends.sum()):
            return checkpoint
        time.sleep(SECONDS_BETWEEN_LOOKS)
    raise RunError(
        f"checkpoints {place.folder}: rank {place.rank} sees step {step} as the newest, others another, after {LOOKS} looks; run again to "
        "resume, and mount the shared folder so that every node soon sees what is there (NFS: actimeo=1)"
    )


def _differentiate(call: nn.Module, batch: Any, count: int, place: Place, *, generator: torch.Generator, progress: float) -> Loss:
    """Leaves in the parameters the mean of the gradients of ``count`` parts of ``batch``, and returns the mean of their losses."""
    parts, losses = _parts(batch, count) if count > 1 else [batch], []
    for part in parts:
        with averaging(call, part is parts[-1]):
            with place.tuning.autocast(place.device):
                loss = call(part.to(place.device), generator=generator, progress=progress)
            (loss.total / count).backward()
        losses.append(Loss(loss.total.detach(), loss.metrics))
    if count == 1:
        return losses[0]
    metrics = {name: torch.stack([loss.metrics[name] for loss in losses]).mean(0) for name in losses[0].metrics}
    return Loss(torch.stack([loss.total for loss in losses]).mean(), metrics)


def _parts(batch: Batch, count: int) -> list[Batch]:
    """Shares of the rows; a noun in a batch may have other rows than its neighbour."""
    if (rows := min(map(len, batch.tensors()))) < count:
        raise UserError(f"accumulate = {count}: {rows} rows of a rank cannot be shared by as many parts")

    def part(number: int) -> Batch:
        return batch.map(lambda tensor: tensor[len(tensor) * number // count : len(tensor) * (number + 1) // count])

    return [part(number) for number in range(count)]


def _timed(batches: Batches, start: int, steps: int, clock: "_Clock") -> Iterator[tuple[int, Any]]:
    source = iter(batches(start)) if start < steps else iter(())
    for step in range(start, steps):
        before = time.perf_counter()
        try:
            batch = next(source)
        except StopIteration:
            raise RunError(f"the data ended at step {step} of {steps}") from None
        clock.waited += time.perf_counter() - before
        yield step, batch


class _Clock:
    """Collects figures and reports them, with rates, every few steps."""

    def __init__(self, sink: MetricSink, every: int):
        self.sink, self.every = sink, every
        self.begun, self.waited, self.count = time.perf_counter(), 0.0, 0
        self.sums: dict[str, Tensor] = {}

    def record(self, done: int, figures: dict[str, Tensor], *, last: bool) -> None:
        self.count += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        if done % self.every and not last:
            return
        seconds = time.perf_counter() - self.begun
        report = {name: float(value) / self.count for name, value in self.sums.items()}
        if is_first_rank():
            self.sink(done, report | {"steps_per_second": self.count / seconds, "data_wait": self.waited / seconds})
        self.begun, self.waited, self.count, self.sums = time.perf_counter(), 0.0, 0, {}


def _seed(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 4_099 + rank


def _refuse_nonfinite(step: int, norm: Tensor, total: Tensor, metrics: dict[str, Tensor], folder: Path) -> None:
    if torch.isfinite(norm) and torch.isfinite(total):
        return
    terms = ", ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
    raise RunError(
        f"{folder.parent.name}, step {step}: the loss is {float(total):.4g} and its gradient norm {float(norm):.4g} ({terms}); "
        "nothing of this step was kept. Lower the stage's optimizer.learning_rate or its optimizer.clip, or look for broken data; "
        "the run resumes from the last checkpoint"
    )


@torch.no_grad()
def _average(average: dict[str, Tensor], phase: Phase, decay: float, step: int) -> None:
    if not average:
        return
    early = min(decay, (1 + step) / (10 + step))
    current = dict(phase.named_parameters())
    for name, value in average.items():
        value.lerp_(current[name], 1 - early)


def _commit(
    folder: Path, step: int, phase: Phase, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], made_by: dict[str, Any]
) -> Checkpoint | None:
    sharded = isinstance(phase, FSDPModule)
    if not (sharded or is_first_rank()):
        return Checkpoint(folder / f"step-{step:08d}", step, made_by, {})
    names = {id(p): n for n, p in phase.named_parameters()}
    moments = {f"{names[id(p)]}|{key}": value for p, state in optimizer.state.items() for key, value in state.items()}
    tensors = {"weights": phase.state_dict(), "optimizer": moments} | ({"ema": average} if average else {})
    mine = {name: _mine(values) for name, values in tensors.items()}
    return save_checkpoint(folder, step, made_by=made_by, tensors=mine, ranks=world_size() if sharded else 1)


def _mine(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """What this rank writes: its rows, the first rank also what is not shared."""
    return {key: own(value) for key, value in values.items() if (len(own(value)) if isinstance(value, DTensor) else is_first_rank())}


@torch.no_grad()
def _restore(
    checkpoint: Checkpoint, phase: Phase, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], made_by: dict[str, Any]
) -> int:
    if checkpoint.made_by != made_by:
        raise UserError(f"checkpoint {checkpoint.path}: made with another configuration or parents; redo the stage with --from")
    weights, parameters = phase.state_dict(), dict(phase.named_parameters())
    read = dict.fromkeys(weights, False)
    for name, value in checkpoint.each("weights"):
        if name not in read or value.shape != weights[name].shape:
            raise UserError(f"checkpoint {checkpoint.path}: {name} {list(value.shape)} is not in this version's {type(phase).__name__}")
        take(weights[name], value)
        read[name] = True
    if missing := [name for name, there in read.items() if not there]:
        raise UserError(f"checkpoint {checkpoint.path}: {missing[0]} is missing; it was written by another version")
    for key, value in checkpoint.each("optimizer"):
        name, kind = key.rsplit("|", 1)
        state, parameter = optimizer.state[parameters[name]], parameters[name]
        if kind == "step":
            state[kind] = value.to(parameter.device) if parameter.is_cuda else value
        else:
            take(state.setdefault(kind, torch.zeros_like(parameter)), value)
    for name, value in checkpoint.each("ema") if average else ():
        take(average[name], value)
    return checkpoint.step
