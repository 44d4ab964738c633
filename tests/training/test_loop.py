"""The loop: a cut and resumed run is the uninterrupted one bitwise, data arrives once and in order, failures are named."""

import errno
import itertools
import os
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from dreamer_ray.errors import RunError, UserError
from dreamer_ray.phases.agent_finetuning import AgentFinetuning, FinetuningConfig
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.phases.imagination_training import ImaginationLossConfig, ImaginationTraining
from dreamer_ray.phases.phase import Phase
from dreamer_ray.phases.tokenizer_pretraining import TokenizerPretraining
from dreamer_ray.training import checkpoint as checkpoints
from dreamer_ray.training.checkpoint import latest_checkpoint
from dreamer_ray.training.loop import FitConfig, Place, fit
from dreamer_ray.training.optimizer import OptimizerConfig
from dreamer_ray.types import Clip, Loss, Trajectory

STEPS, EVERY = 7, 2


class Crash(BaseException):
    """A killed process: nothing between the loop and the test catches it."""


def _config(**changes):
    optimizer = OptimizerConfig(learning_rate=0.01, warmup=2, decay=0.5)
    return FitConfig(**({"steps": STEPS, "optimizer": optimizer, "checkpoint_every": EVERY, "log_every": 3, "ema": 0.9} | changes))


def _place(folder, records=None, rank=0):
    return Place(folder, (lambda step, figures: None) if records is None else lambda *record: records.append(record), rank=rank)


def _trajectory(step):
    draw = torch.Generator().manual_seed(step)
    return Trajectory(
        torch.randn(3, 5, 16, generator=draw),
        {"keys": torch.ones(3, 4, 3), "mouse": torch.randint(0, 5, (3, 4), generator=draw), "arm": torch.randn(3, 4, 2, generator=draw)},
        torch.rand(3, 4, generator=draw),
        torch.ones(3, 4),
        torch.zeros(3, dtype=torch.long),
        0,
    )


def _clip(tiny, step):
    draw = torch.Generator().manual_seed(step)
    return Clip(torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8, generator=draw), tiny.clip(2, 3).notes)


PHASES = {
    "tokenizer": (lambda tiny: TokenizerPretraining(tiny.tokenizer(random_crop=1)), _clip),
    "dynamics": (
        lambda tiny: DynamicsPretraining(tiny.dynamics(), ForcingConfig(bootstrap_fraction=0.5)),
        lambda tiny, step: tiny.clip(4, 5, seed=step),
    ),
    "agent": (lambda tiny: AgentFinetuning(tiny.agent(), FinetuningConfig()), lambda tiny, step: tiny.clip(4, 5, seed=step)),
    "imagination": (
        lambda tiny: ImaginationTraining(tiny.agent(), ImaginationLossConfig(value_warmup=0.3)),
        lambda _, step: _trajectory(step),
    ),
}


def _fit(tiny, name, folder, *, after_step=None, records=None, **changes):
    make, batch = PHASES[name]
    phase = make(tiny)
    done = fit(
        phase,
        lambda start: (batch(tiny, step) for step in itertools.count(start)),
        _config(**changes),
        place=_place(folder, records),
        made_by={"name": name},
        after_step=after_step,
    )
    return phase, done


def _cut_after(step):
    def after_step(done):
        if done == step:
            raise Crash

    return after_step


@pytest.mark.parametrize("name", PHASES)
def test_a_run_cut_at_any_step_and_resumed_is_the_uninterrupted_run(tiny, tmp_path, name):
    _, whole = _fit(tiny, name, tmp_path / "whole")
    assert whole.step == STEPS
    # Steps 2, 4 and 6 fall on a checkpoint: the crash comes just before it is written.
    for cut in (1, 2, 3, 5, 6) if name == "dynamics" else (4,):
        folder = tmp_path / f"cut-{cut}"
        with pytest.raises(Crash):
            _fit(tiny, name, folder, after_step=_cut_after(cut))
        seen = latest_checkpoint(folder)
        assert (0 if seen is None else seen.step) == (cut - 1) // EVERY * EVERY
        phase, resumed = _fit(tiny, name, folder)
        assert resumed.checksums == whole.checksums
        assert set(whole.checksums) == {"weights.safetensors", "optimizer.safetensors", "ema.safetensors"}
        assert all(torch.equal(value, whole.read("weights")[key]) for key, value in phase.state_dict().items())


def test_a_run_cut_many_times_is_the_uninterrupted_run(tiny, tmp_path):
    _, whole = _fit(tiny, "dynamics", tmp_path / "whole")
    for cut in (3, 4, 5, 7):
        with pytest.raises(Crash):
            _fit(tiny, "dynamics", tmp_path / "cut", after_step=_cut_after(cut))
    assert _fit(tiny, "dynamics", tmp_path / "cut")[1].checksums == whole.checksums


def test_a_crash_while_a_checkpoint_is_written_costs_one_interval(tiny, tmp_path, monkeypatch):
    _, whole = _fit(tiny, "dynamics", tmp_path / "whole")
    replace, count = os.replace, itertools.count()

    def crash(source, target):
        if next(count) == 1:
            raise Crash
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Crash):
            _fit(tiny, "dynamics", tmp_path / "cut")
    assert latest_checkpoint(tmp_path / "cut").step == 2
    assert _fit(tiny, "dynamics", tmp_path / "cut")[1].checksums == whole.checksums


def test_the_step_after_loading_is_bitwise_that_without(tiny, tmp_path):
    states, (make, batch) = {}, PHASES["dynamics"]

    def remember(phase):
        def after_step(done):
            states.setdefault(done, []).append({key: value.clone() for key, value in phase.state_dict().items()})

        return after_step

    for folder, cut in ((tmp_path / "whole", None), (tmp_path / "cut", 3), (tmp_path / "cut", None)):
        phase = make(tiny)
        record = remember(phase)

        def after_step(done, record=record, cut=cut):
            record(done)
            if done == cut:
                raise Crash

        try:
            fit(
                phase,
                lambda start: (batch(tiny, step) for step in itertools.count(start)),
                _config(checkpoint_every=1),
                place=_place(folder),
                made_by={},
                after_step=after_step,
            )
        except Crash:
            assert cut == 3
    # Step 3 was done twice in the cut run: its checkpoint had not been written.
    assert [len(states[step]) for step in range(1, STEPS + 1)] == [2, 2, 3, 2, 2, 2, 2]
    for step, seen in states.items():
        for other in seen[1:]:
            assert all(torch.equal(other[key], value) for key, value in seen[0].items()), step


def test_seed_decides_the_run(tiny, tmp_path):
    runs = [_fit(tiny, "dynamics", tmp_path / str(i), seed=seed)[1].checksums for i, seed in enumerate((0, 0, 1))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_finished_run_is_not_done_again(tiny, tmp_path):
    _, first = _fit(tiny, "dynamics", tmp_path)
    make, _ = PHASES["dynamics"]

    def none_wanted(start):
        raise AssertionError(start)

    again = fit(make(tiny), none_wanted, _config(), place=_place(tmp_path), made_by={"name": "dynamics"})
    assert (again.step, again.checksums) == (first.step, first.checksums)


def test_a_checkpoint_of_another_configuration_is_refused(tiny, tmp_path):
    _fit(tiny, "dynamics", tmp_path, steps=2)
    make, _ = PHASES["dynamics"]
    with pytest.raises(UserError, match=r"step-00000002.*another configuration"):
        fit(make(tiny), lambda _: iter(()), _config(), place=_place(tmp_path), made_by={"name": "other"})


def test_a_damaged_newest_checkpoint_stops_the_run_and_the_one_before_can_go_on(tiny, tmp_path):
    _, whole = _fit(tiny, "dynamics", tmp_path)
    broken = whole.path / "optimizer.safetensors"
    broken.write_bytes(broken.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"step-00000007.*delete this folder"):
        _fit(tiny, "dynamics", tmp_path)
    checkpoints.shutil.rmtree(whole.path)
    assert latest_checkpoint(tmp_path).step == 6
    assert _fit(tiny, "dynamics", tmp_path)[1].checksums == whole.checksums


def test_a_full_disk_ends_the_run_and_the_checkpoint_before_can_go_on(tiny, tmp_path, monkeypatch):
    _, whole = _fit(tiny, "dynamics", tmp_path / "whole")
    save_file, count = checkpoints.save_file, itertools.count()

    def full(tensors, path):
        if next(count) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(RunError, match="step-00000004: not written, the disk is full"):
            _fit(tiny, "dynamics", tmp_path / "full")
    assert latest_checkpoint(tmp_path / "full").step == 2
    assert _fit(tiny, "dynamics", tmp_path / "full")[1].checksums == whole.checksums


@dataclass(frozen=True)
class Number:
    """A batch that is one integer."""

    value: int

    def to(self, _):
        return self


class Counting(Phase):
    """Asserts that batch s is the integer s, each seen once and in order; the count travels in the checkpoint."""

    def __init__(self, spoil=None):
        super().__init__({"count": 1.0}, normalize=False)
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.tensor(0))
        self.spoil, self.calls = spoil or {}, []

    def forward(self, batch, *, generator, progress):
        assert batch.value == int(self.seen)
        self.seen += 1
        self.calls.append((progress, generator.initial_seed()))
        term = (self.weight * (batch.value + 1)).sum()
        return self.weigh({"count": self.spoil.get(batch.value, lambda x: x)(term)})


def _count(folder, *, phase=None, records=None, rank=0, after_step=None, limit=None, **changes):
    phase = phase or Counting()
    config = _config(**({"steps": 20, "checkpoint_every": 6} | changes))
    fit(
        phase,
        lambda start: map(Number, range(start, 10**9 if limit is None else limit)),
        config,
        place=_place(folder, records, rank),
        made_by={},
        after_step=after_step,
    )
    return phase


def test_every_batch_is_seen_once_and_in_order_across_resume(tmp_path):
    for cut in (5, 6, 7, 13, 19):
        with pytest.raises(Crash):
            _count(tmp_path, after_step=_cut_after(cut))
    phase = _count(tmp_path)
    assert int(phase.seen) == 20
    # The last life began at the checkpoint of step 18.
    assert [progress for progress, _ in phase.calls] == [18 / 20, 19 / 20]


def test_progress_is_the_share_of_steps_done_and_each_step_and_rank_draws_on_its_own(tmp_path):
    phase, other = _count(tmp_path / "0"), _count(tmp_path / "1", rank=1)
    assert [progress for progress, _ in phase.calls] == [step / 20 for step in range(20)]
    seeds = {seed for _, seed in phase.calls + other.calls}
    assert len(seeds) == 40


def test_the_sink_hears_means_of_each_interval_and_of_the_rest(tmp_path):
    records = []
    _count(tmp_path, records=records, steps=7, optimizer=OptimizerConfig(learning_rate=1e-12))
    assert [step for step, _ in records] == [3, 6, 7]
    assert [figures["count"] for _, figures in records] == pytest.approx([2, 5, 7])
    assert [figures["loss"] for _, figures in records] == pytest.approx([2, 5, 7])
    assert [figures["gradient_norm"] for _, figures in records] == pytest.approx([2, 5, 7])
    assert all(figures["steps_per_second"] > 0 and 0 <= figures["data_wait"] <= 1 for _, figures in records)


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        (lambda x: x * float("nan"), "the loss is nan"),
        (lambda x: x * float("inf"), "the loss is inf"),
        (lambda x: (x - x).sqrt() + 1, "gradient norm nan"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(tmp_path, spoiled, words):
    folder = tmp_path / "agent" / "checkpoints"
    with pytest.raises(RunError, match=rf"agent, step 9: .*{words}.*count.*learning_rate"):
        _count(folder, phase=Counting({9: spoiled}))
    kept = latest_checkpoint(folder)
    assert kept.step == 6
    assert bool(kept.read("weights")["weight"].isfinite().all())
    assert int(_count(folder).seen) == 20


def test_too_little_data_is_said(tmp_path):
    with pytest.raises(RunError, match="ended at step 11 of 20"):
        _count(tmp_path, limit=11)


def test_the_moving_average_follows_its_formula(tmp_path):
    values = []
    phase = Counting()
    done = _count(tmp_path, phase=phase, steps=15, after_step=lambda _: values.append(phase.weight.detach().clone()))
    average = torch.ones(1)
    for step, value in enumerate(values):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    checkpoint = latest_checkpoint(tmp_path)
    assert torch.allclose(checkpoint.read("ema")["weight"], average)
    assert torch.equal(checkpoint.weights()["weight"], checkpoint.read("ema")["weight"])
    assert torch.equal(checkpoint.read("weights")["weight"], values[-1])
    assert int(done.seen) == int(checkpoint.weights()["seen"]) == 15


def test_without_an_average_none_is_kept(tmp_path):
    _count(tmp_path, ema=0.0)
    checkpoint = latest_checkpoint(tmp_path)
    assert set(checkpoint.checksums) == {"weights.safetensors", "optimizer.safetensors"}
    assert torch.equal(checkpoint.weights()["weight"], checkpoint.read("weights")["weight"])


class Recording(Phase):
    """Its gradient is ten; remembers its weight at each step."""

    def __init__(self):
        super().__init__({"a": 1.0}, normalize=False)
        self.weight, self.path = nn.Parameter(torch.zeros(1)), []

    def forward(self, batch, *, generator, progress):
        self.path.append(float(self.weight))
        return Loss(10 * self.weight.sum(), {})


def test_updates_have_the_size_of_the_schedule(tmp_path):
    phase = Recording()
    optimizer = OptimizerConfig(learning_rate=0.1, warmup=1, decay=0.5, weight_decay=0.0)
    fit(phase, lambda _: map(Number, range(9)), _config(steps=4, optimizer=optimizer), place=_place(tmp_path), made_by={})
    # Adam's update under a constant gradient is the rate: 1/2, 1, 1, 1/2 of 0.1.
    moves = [a - b for a, b in itertools.pairwise([*phase.path, float(phase.weight)])]
    assert moves == pytest.approx([0.05, 0.1, 0.1, 0.05], rel=1e-4)


def test_gradients_are_clipped_to_their_norm(tmp_path):
    phase = Recording()
    optimizer = OptimizerConfig(learning_rate=0.1, clip=0.5)
    fit(phase, lambda _: map(Number, range(9)), _config(steps=1, optimizer=optimizer), place=_place(tmp_path), made_by={})
    assert float(phase.weight.grad) == pytest.approx(0.5, rel=1e-4)
    assert float(latest_checkpoint(tmp_path).read("optimizer")["weight|exp_avg"]) == pytest.approx(0.05, rel=1e-4)
