"""One rank of test_parallel.py: python rank_worker.py FOLDER RANK WORLD. Rank 0 of 1 takes the whole batch.

Writes gradients and statistics to FOLDER/WORLD-RANK.safetensors. python rank_worker.py FOLDER "go on" resumes what stands there.
"""

import os
import shutil
import sys
import threading
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from dreamer_ray.errors import RunError
from dreamer_ray.models.actions import previous_actions
from dreamer_ray.models.agent import Agent, AgentConfig
from dreamer_ray.models.dynamics import Conditioning, Dynamics, DynamicsConfig, Noising
from dreamer_ray.models.heads import HeadsConfig
from dreamer_ray.nn.transformer import TransformerConfig
from dreamer_ray.numerics import masked_mean, reduce_sum
from dreamer_ray.phases.cloning import FinetuningConfig, head_terms
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.phases.imagination_training import WEIGHTS, Heads, ImaginationLossConfig, ImaginationTraining, Rehearsal, imagination_terms
from dreamer_ray.phases.phase import Phase
from dreamer_ray.training import loop
from dreamer_ray.training.loop import FitConfig, Place, fit
from dreamer_ray.training.optimizer import OptimizerConfig
from dreamer_ray.training.parallel import Tuning, data_parallel
from dreamer_ray.types import Annotations, Categorical, LatentClip, Trajectory

SHARES = (2, 6)
"""Rows of rank 0 and rank 1; unequal on purpose. The first rank's advantages are nearly all positive, the second's nearly all negative."""
ROWS, FRAMES, WIDTH, CHOICES = sum(SHARES), 5, 16, 4
CPU = torch.device("cpu")


def _agent() -> Agent:
    torch.manual_seed(0)
    transformer = TransformerConfig(width=WIDTH, layers=2, heads=2, kv_heads=1, time_every=2, context=3)
    config = DynamicsConfig(transformer=transformer, k_max=8)
    dynamics = Dynamics(config, latents=4, channels=2, action_space={"action": Categorical(size=CHOICES)})
    agent = Agent(AgentConfig(heads=HeadsConfig(hidden=16, layers=1, distance=2, bins=21)), dynamics, tasks=3)
    with torch.no_grad():
        for head in (agent.policy, agent.reward, agent.value, agent.continues):
            head.net.output.weight.normal_(std=0.3)
    return agent


def _rows(rank: int, world: int) -> slice:
    if world == 1:
        return slice(0, ROWS)
    start = sum(SHARES[:rank])
    return slice(start, start + SHARES[rank])


def _trajectory() -> Trajectory:
    draw = torch.Generator().manual_seed(1)
    rewards = torch.full((ROWS, FRAMES), -50.0)
    rewards[: SHARES[0]] = 50.0
    rewards[0, 0], rewards[-1, -1] = -500.0, 50.0
    return Trajectory(
        torch.randn(ROWS, FRAMES + 1, WIDTH, generator=draw),
        {"action": torch.randint(0, CHOICES, (ROWS, FRAMES), generator=draw)},
        rewards,
        torch.zeros(ROWS, FRAMES),
        torch.zeros(ROWS, dtype=torch.long),
        0,
    )


def _clip() -> LatentClip:
    draw = torch.Generator().manual_seed(2)
    labelled = torch.rand(ROWS, FRAMES, generator=draw) < 0.6
    relevant = torch.zeros(ROWS, dtype=torch.bool)
    relevant[[0, 3, 4, 5, 7]] = True
    notes = Annotations(
        {"action": torch.randint(0, CHOICES, (ROWS, FRAMES), generator=draw)},
        labelled,
        torch.rand(ROWS, FRAMES, generator=draw),
        (torch.rand(ROWS, FRAMES, generator=draw) < 0.8).float(),
        torch.randint(0, 3, (ROWS,), generator=draw),
        relevant,
    )
    return LatentClip(torch.rand(ROWS, FRAMES, 4, 2, generator=draw) * 2 - 1, notes)


class Cloning(Phase):
    """The masked heads of agent finetuning on given states: no noise is drawn, so that ranks and one process see the same."""

    def __init__(self, agent: Agent):
        super().__init__({"policy": 1.0, "reward": 1.0, "continue": 1.0})
        self.agent = agent

    def forward(self, batch, *, generator, progress):
        states = torch.tanh(batch.latents.flatten(2).repeat(1, 1, 2))
        return self.weigh(head_terms(self.agent, self.agent.policy, batch, states, FinetuningConfig()))


class Whole(Phase):
    """The terms of imagination training of all weights on given states: no noise is drawn here either."""

    def __init__(self, agent: Agent):
        super().__init__(WEIGHTS | FinetuningConfig().weights, normalized=("policy", "reward", "continue", "shortcut"))
        self.agent = agent

    def forward(self, batch, *, generator, progress):
        agent, dreamed = self.agent, batch.dreamed
        cloned = head_terms(
            agent, agent.policy, batch.recorded, torch.tanh(batch.recorded.latents.flatten(2).repeat(1, 1, 2)), FinetuningConfig()
        )
        states = agent.dynamics.transformer.norm(dreamed.states)
        heads = Heads(agent.policy, agent.value, agent.policy)
        terms, _ = imagination_terms(heads, states, dreamed, ImaginationLossConfig(), progress=progress)
        return self.weigh(cloned | terms | {"shortcut": masked_mean(states)})


def _gradients(phase: Phase, batch, out: dict, name: str) -> None:
    call = data_parallel(phase, CPU)
    for _ in range(2):
        phase.zero_grad()
        loss = call(batch, generator=torch.Generator().manual_seed(0), progress=0.5)
        loss.total.backward()
    for key, parameter in phase.named_parameters():
        if parameter.grad is not None:
            out[f"{name}|{key}"] = parameter.grad.clone()
    if phase.rms is not None:
        out[f"{name}|square"], out[f"{name}|weight"] = phase.rms.square.clone(), phase.rms.weight.clone()


class Mean(Phase):
    """The mean of all numbers of a batch of tokens under a linear map: parts and ranks of equal sizes give that of the whole."""

    def __init__(self):
        super().__init__({"mean": 1.0}, normalized=())
        torch.manual_seed(3)
        self.map = torch.nn.Linear(2, 3)

    def forward(self, batch, *, generator, progress):
        return self.weigh({"mean": self.map(batch.latents).square().mean()})


def _accumulated(folder: Path, rank: int, world: int, out: dict) -> None:
    """One step on rows that are shared equally, by ranks and then by two parts each."""
    phase, size = Mean(), ROWS // world
    fit(
        phase,
        lambda start: iter([_clip().rows(slice(rank * size, (rank + 1) * size))]),
        FitConfig(steps=1, optimizer=OptimizerConfig(learning_rate=0.01), accumulate=2),
        place=Place(folder / f"accumulated-{world}", lambda *_: None, rank=rank),
        made_by={},
    )
    out |= {f"accumulated|{key}": value.grad.clone() for key, value in phase.named_parameters()}


class Predicting(Phase):
    """The dynamics' error on clean frames: blocks as they are sharded, and no draws."""

    def __init__(self):
        super().__init__({"error": 1.0}, normalized=())  # the running size of parts of a batch depends on who has which rows
        self.dynamics = _agent().dynamics

    def forward(self, batch, *, generator, progress):
        shape = batch.latents.shape[:2]
        noising = Noising(torch.full(shape, 5), torch.full(shape, self.dynamics.config.finest))
        told = Conditioning(*previous_actions(batch.notes.actions, batch.notes.labelled))
        error = (self.dynamics(batch.latents, noising, told).latents - batch.latents).square()
        return self.weigh({"error": masked_mean(error)})


def predicting_fit(folder: Path, steps: int, rank: int = 0, world: int = 1) -> None:
    """Trains to ``steps`` on the batch, shared by ranks that hold a share of the weights each; goes on from what is in ``folder``."""
    size = ROWS // world
    fit(
        Predicting(),
        lambda start: iter([_clip().rows(slice(rank * size, (rank + 1) * size))] * (9 - start)),
        FitConfig(steps=steps, optimizer=OptimizerConfig(learning_rate=0.01, clip=0.1), accumulate=2, checkpoint_every=1, ema=0.5),
        place=Place(folder, lambda *_: None, rank=rank, tuning=Tuning(sharded=True, recompute=True)),
        made_by={},
    )


def _bootstrapped(folder: Path, rank: int, world: int) -> None:
    """The real phase with one row a rank, a bootstrap row on one of them in half of the cases: ranks that share weights must not wait."""
    dynamics = _agent().dynamics
    forcing = ForcingConfig(bootstrap_fraction=0.5, bootstrap_after=0.0)
    fit(
        DynamicsPretraining(dynamics, forcing),
        lambda start: iter([_clip().rows(slice(rank, rank + 1))] * 9),
        FitConfig(steps=8, optimizer=OptimizerConfig(learning_rate=0.01), checkpoint_every=8),
        place=Place(folder / f"bootstrapped-{world}", lambda *_: None, rank=rank, tuning=Tuning(sharded=True)),
        made_by={},
    )


def _fitted(folder: Path, rank: int, world: int, out: dict) -> None:
    """Two steps of the loop, then a third after a resume: weights on all ranks, written by the first."""
    records = []
    for steps in (2, 3):
        phase = ImaginationTraining(_agent(), ImaginationLossConfig())
        fit(
            phase,
            lambda start: iter([_trajectory().rows(_rows(rank, world))] * (9 - start)),
            FitConfig(steps=steps, optimizer=OptimizerConfig(learning_rate=0.01), checkpoint_every=1),
            place=Place(folder / f"fit-{world}", lambda step, _: records.append(step), rank=rank),
            made_by={},
        )
        if world > 1:
            dist.barrier()
    out |= {f"fit|{key}": value.detach().clone() for key, value in phase.state_dict().items()}
    out["records"] = torch.tensor(records, dtype=torch.long)


def _apart(folder: Path, rank: int, world: int, out: dict) -> None:
    """Ranks that look into different folders, of which only the first's has a checkpoint, refuse to go on."""
    out["apart"], loop.LOOKS = torch.tensor(0), 2
    for steps in (1, 2) if world > 1 else ():
        try:
            fit(
                Mean(),
                lambda start: iter([_clip()] * 2),
                FitConfig(steps=steps, optimizer=OptimizerConfig(learning_rate=0.01)),
                place=Place(folder / f"apart-{rank}", lambda *_: None, rank=rank),
                made_by={},
            )
        except RunError as error:
            out["apart"] += steps == 2 and f"rank {rank} sees step {1 - rank} as the newest," in str(error)


def _late(folder: Path, rank: int, world: int, out: dict) -> None:
    """The second rank sees the checkpoint of the first only after a while, as through the cache of a file system."""
    mine, others = folder / f"late-{rank}", folder / "late-1"

    def show() -> None:
        shutil.copytree(mine, others.with_suffix(".partial"))
        others.with_suffix(".partial").rename(others)

    for steps in (1, 2) if world > 1 else ():
        if steps == 2 and rank == 0:
            threading.Timer(0.5, show).start()
        checkpoint = fit(
            Mean(),
            lambda start: iter([_clip()] * (2 - start)),
            FitConfig(steps=steps, optimizer=OptimizerConfig(learning_rate=0.01)),
            place=Place(mine, lambda *_: None, rank=rank),
            made_by={},
        )
        out["late"] = torch.tensor(checkpoint.step)


def main(folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
        )
    rows, out = _rows(rank, world), {}
    _gradients(ImaginationTraining(_agent(), ImaginationLossConfig()), _trajectory().rows(rows), out, "imagination")
    _gradients(Cloning(_agent()), _clip().rows(rows), out, "cloning")
    _gradients(Whole(_agent()), Rehearsal(_trajectory().rows(rows), _clip().rows(rows)), out, "whole")
    mask = _trajectory().rewards[rows] > 0
    out["good"] = mask.sum()
    terms = torch.arange(float(ROWS * FRAMES)).view(ROWS, FRAMES)[rows]
    out["mean"] = reduce_sum(masked_mean(terms, mask) / world)[0]
    out["empty"] = masked_mean(terms, torch.zeros_like(mask))
    _fitted(folder, rank, world, out)
    _accumulated(folder, rank, world, out)
    for steps in (2, 3):
        predicting_fit(folder / f"sharded-{world}", steps, rank, world)
    _bootstrapped(folder, rank, world)
    _late(folder, rank, world, out)
    _apart(folder, rank, world, out)
    save_file(out, folder / f"{world}-{rank}.safetensors")


if __name__ == "__main__":
    if sys.argv[2:] == ["go on"]:
        predicting_fit(Path(sys.argv[1]), 4)
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)  # a device mesh keeps the group alive, and a thread of it that wants Python while Python ends would abort the process
