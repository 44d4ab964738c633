"""A run that was cut, at any step and in any way, and resumed is the uninterrupted run, bitwise, in all four phases."""

import errno
import itertools
import os
from dataclasses import replace

import pytest
import torch

from dreamer_ray.errors import RunError, UserError
from dreamer_ray.phases.agent_finetuning import AgentFinetuning
from dreamer_ray.phases.cloning import FinetuningConfig
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.phases.imagination_training import ImaginationLossConfig, ImaginationTraining, Rehearsal, WholeImaginationTraining
from dreamer_ray.phases.tokenizer_pretraining import TokenizerPretraining
from dreamer_ray.training import checkpoint as checkpoints
from dreamer_ray.training.checkpoint import latest_checkpoint
from dreamer_ray.training.loop import FitConfig, Place, fit
from dreamer_ray.training.optimizer import OptimizerConfig
from dreamer_ray.types import Clip, Trajectory

STEPS, EVERY = 7, 2


class Crash(BaseException):
    """A killed process: nothing between the loop and the test catches it."""


def _config(**changes):
    optimizer = OptimizerConfig(learning_rate=0.01, warmup=2, decay=0.5)
    return FitConfig(**({"steps": STEPS, "optimizer": optimizer, "checkpoint_every": EVERY, "log_every": 3, "ema": 0.9} | changes))


def _place(folder):
    return Place(folder, lambda step, figures: None)


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
    "dynamics taught by its average": (
        lambda tiny: DynamicsPretraining(
            tiny.dynamics(),
            ForcingConfig(bootstrap_fraction=0.5, bootstrap_after=0.0, teacher="ema", weighting="velocity", pairing="optimal_transport"),
        ),
        lambda tiny, step: tiny.clip(4, 5, seed=step),
    ),
    "agent": (lambda tiny: AgentFinetuning(tiny.agent(), FinetuningConfig()), lambda tiny, step: tiny.clip(4, 5, seed=step)),
    "imagination": (
        lambda tiny: ImaginationTraining(tiny.agent(), ImaginationLossConfig(value_warmup=0.3)),
        lambda _, step: _trajectory(step),
    ),
    "imagination with a slow value": (
        lambda tiny: ImaginationTraining(tiny.agent(), ImaginationLossConfig(slow_value=0.9)),
        lambda _, step: _trajectory(step),
    ),
    "whole imagination": (
        lambda tiny: WholeImaginationTraining(
            tiny.agent(), ImaginationLossConfig(value_warmup=0.3, slow_value=0.9), FinetuningConfig(teacher="ema")
        ),
        lambda tiny, step: Rehearsal(replace(_trajectory(step), frames=tiny.clip(3, 7, seed=step)), tiny.clip(4, 5, seed=step)),
    ),
}


def _fit(tiny, name, folder, *, after_step=None, **changes):
    make, batch = PHASES[name]
    phase = make(tiny)
    done = fit(
        phase,
        lambda start: (batch(tiny, step) for step in itertools.count(start)),
        _config(**changes),
        place=_place(folder),
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


def test_a_run_by_muon_cut_and_resumed_is_the_uninterrupted_run(tiny, tmp_path):
    muon = OptimizerConfig(learning_rate=0.01, warmup=2, decay=0.5, kind="muon")
    _, whole = _fit(tiny, "dynamics", tmp_path / "whole", optimizer=muon)
    with pytest.raises(Crash):
        _fit(tiny, "dynamics", tmp_path / "cut", optimizer=muon, after_step=_cut_after(5))
    assert _fit(tiny, "dynamics", tmp_path / "cut", optimizer=muon)[1].checksums == whole.checksums
    assert {key.rsplit("|")[1] for key in whole.read("optimizer")} == {"momentum_buffer", "step", "exp_avg", "exp_avg_sq"}
    assert _fit(tiny, "dynamics", tmp_path / "adamw")[1].checksums != whole.checksums


@pytest.mark.parametrize("name", ["dynamics taught by its average", "imagination with a slow value", "whole imagination"])
def test_what_follows_the_weights_is_not_what_it_was_in_the_beginning(tiny, tmp_path, name):
    make, _ = PHASES[name]
    phase, done = _fit(tiny, name, tmp_path)
    if name.startswith("dynamics"):
        kept = done.read("ema")
        assert phase.average.keys() == kept.keys()
        assert all(torch.equal(value, kept[key]) for key, value in phase.average.items())
        assert not torch.equal(kept["dynamics.predict.weight"], phase.dynamics.predict.weight)
    else:
        heads = [getattr(found, "agent", found).value for found in (make(tiny), phase)]
        first, last, slow = (head.net.output.weight.detach() for head in (*heads, phase.slow))
        assert torch.equal(done.read("weights")["slow.net.output.weight"], slow)
        assert 0 < float((slow - first).norm()) < float((last - first).norm())


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
