"""The loop: data arrives once and in order, figures reach the sink, updates follow the configuration, failures are named."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from dreamer_ray.errors import RunError, UserError
from dreamer_ray.phases.phase import Phase
from dreamer_ray.training.checkpoint import latest_checkpoint
from dreamer_ray.training.loop import FitConfig, Place, fit
from dreamer_ray.training.optimizer import OptimizerConfig
from dreamer_ray.types import Batch, Loss


class Crash(BaseException):
    """A killed process: nothing between the loop and the test catches it."""


def _config(**changes):
    optimizer = OptimizerConfig(learning_rate=0.01, warmup=2, decay=0.5)
    return FitConfig(**({"steps": 20, "optimizer": optimizer, "checkpoint_every": 6, "log_every": 3, "ema": 0.9} | changes))


def _place(folder, records=None, rank=0):
    return Place(folder, (lambda step, figures: None) if records is None else lambda *record: records.append(record), rank=rank)


def _cut_after(step):
    def after_step(done):
        if done == step:
            raise Crash

    return after_step


@dataclass(frozen=True)
class Numbers(Batch):
    """A batch of numbers, a row each."""

    values: torch.Tensor


class Fitting(Phase):
    """Draws a line through the origin to the numbers; notes how many rows each call saw and what it drew."""

    def __init__(self):
        super().__init__({"error": 1.0}, normalized=())
        self.weight, self.calls = nn.Parameter(torch.zeros(1, dtype=torch.float64)), []

    def forward(self, batch, *, generator, progress):
        self.calls.append((len(batch.values), progress, float(torch.rand((), generator=generator))))
        return self.weigh({"error": (self.weight - batch.values).square().mean()})


@dataclass(frozen=True)
class Number:
    """A batch that is one integer."""

    value: int

    def to(self, _):
        return self


class Counting(Phase):
    """Asserts that batch s is the integer s, each seen once and in order; the count travels in the checkpoint."""

    def __init__(self, spoil=None):
        super().__init__({"count": 1.0}, normalized=())
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
    fit(
        phase,
        lambda start: map(Number, range(start, 10**9 if limit is None else limit)),
        _config(**changes),
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
        super().__init__({"a": 1.0}, normalized=())
        self.weight, self.path = nn.Parameter(torch.zeros(1)), []

    def forward(self, batch, *, generator, progress):
        self.path.append(float(self.weight.detach()))
        return Loss(10 * self.weight.sum(), {})


def _line(folder, accumulate, records=None):
    phase, batch = Fitting(), Numbers(torch.tensor([1.0, 5.0, -2.0, 4.0], dtype=torch.float64))
    fit(phase, lambda start: [batch] * (9 - start), _config(steps=9, accumulate=accumulate), place=_place(folder, records), made_by={})
    return phase


def test_parts_of_a_batch_give_the_update_and_the_figures_of_the_whole(tmp_path):
    whole, parts, figures, others = _line(tmp_path / "1", 1, one := []), _line(tmp_path / "4", 4, four := []), [], []
    assert torch.allclose(whole.weight, parts.weight, rtol=1e-12)
    assert abs(whole.weight.item()) > 0.01
    for found, records in ((figures, one), (others, four)):
        found += [[record[name] for name in ("error", "loss", "gradient_norm")] for _, record in records]
    assert torch.allclose(torch.tensor(figures), torch.tensor(others))
    assert [rows for rows, _, _ in whole.calls] == [4] * 9
    assert [rows for rows, _, _ in parts.calls] == [1] * 36
    assert len({draw for _, _, draw in parts.calls}) == 36  # every part draws on its own
    assert [progress for _, progress, _ in parts.calls[:8]] == [0.0] * 4 + [1 / 9] * 4


def test_rows_that_cannot_be_shared_are_named(tmp_path):
    with pytest.raises(UserError, match="accumulate = 5: 4 rows of a rank cannot be shared"):
        _line(tmp_path, 5)


def test_updates_have_the_size_of_the_schedule(tmp_path):
    phase = Recording()
    optimizer = OptimizerConfig(learning_rate=0.1, warmup=1, decay=0.5, weight_decay=0.0)
    fit(phase, lambda _: map(Number, range(9)), _config(steps=4, optimizer=optimizer), place=_place(tmp_path), made_by={})
    # Adam's update under a constant gradient is the rate: 1/2, 1, 1, 1/2 of 0.1.
    moves = [a - b for a, b in itertools.pairwise([*phase.path, float(phase.weight.detach())])]
    assert moves == pytest.approx([0.05, 0.1, 0.1, 0.05], rel=1e-4)


def test_gradients_are_clipped_to_their_norm(tmp_path):
    phase = Recording()
    optimizer = OptimizerConfig(learning_rate=0.1, clip=0.5)
    fit(phase, lambda _: map(Number, range(9)), _config(steps=1, optimizer=optimizer), place=_place(tmp_path), made_by={})
    assert float(phase.weight.grad) == pytest.approx(0.5, rel=1e-4)
    assert float(latest_checkpoint(tmp_path).read("optimizer")["weight|exp_avg"]) == pytest.approx(0.05, rel=1e-4)
