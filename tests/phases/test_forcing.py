"""How batches are noised: shares of rows, separate pictures without actions, targets, and rows at the context signal."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dreamer_ray.errors import UserError
from dreamer_ray.imagination.sampler import context_noising
from dreamer_ray.models.dynamics import Prediction
from dreamer_ray.objectives.optimal_transport import optimal_pairing
from dreamer_ray.objectives.shortcut_forcing import corrupt
from dreamer_ray.phases.agent_finetuning import AgentFinetuning
from dreamer_ray.phases.cloning import FinetuningConfig
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.forcing import Forced, ForcingConfig, force, with_signal

ROWS, FRAMES = 20, 9


def _force(tiny, dynamics=None, *, progress=1.0, seed=0, **config):
    dynamics = dynamics or tiny.dynamics()
    return force(dynamics, tiny.clip(ROWS, FRAMES), ForcingConfig(**config), generator=tiny.generator(seed), progress=progress)


def test_a_share_of_the_rows_are_separate_pictures_without_actions(tiny):
    forced = _force(tiny, image_fraction=0.3)
    images = forced.conditioning.images
    assert images.sum() == 6
    assert not forced.conditioning.labelled[images].any()
    assert forced.conditioning.labelled[~images][:, 1:].all()
    assert not forced.conditioning.labelled[:, 0].any()
    assert not torch.equal(images, _force(tiny, image_fraction=0.3, seed=1).conditioning.images)


def test_bootstrap_begins_after_the_warm_up(tiny):
    settings = {"bootstrap_fraction": 0.25, "bootstrap_after": 0.4}
    finest = tiny.dynamics().config.finest
    early = _force(tiny, progress=0.39, **settings)
    assert not early.bootstrap.any()
    assert bool((early.noising.exponent == finest).all())
    late = _force(tiny, progress=0.4, **settings)
    assert late.bootstrap.sum() == 5
    assert bool((late.noising.exponent[~late.bootstrap] == finest).all())
    assert bool((late.noising.exponent[late.bootstrap] < finest).any())
    assert bool((late.noising.exponent[late.bootstrap] == finest).any())


def test_latents_are_corrupted_by_their_own_tau(tiny):
    dynamics = tiny.dynamics()
    forced = _force(tiny, dynamics)
    tau = forced.noising.tau(8)[..., None, None]
    noise = (forced.noisy - tau * forced.clean) / (1 - tau)
    assert float(noise.mean().abs()) < 0.1
    assert float(noise.std()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(forced.clean, dynamics.standardize(tiny.clip(ROWS, FRAMES).latents))


def test_targets_are_clean_except_at_coarse_steps(tiny):
    dynamics = tiny.dynamics()
    forced = _force(tiny, dynamics, bootstrap_fraction=0.5)
    moved = (forced.target(dynamics) - forced.clean).abs().amax((2, 3)) > 1e-4
    assert torch.equal(moved, forced.noising.exponent < dynamics.config.finest)
    assert not forced.target(dynamics).requires_grad


def test_targets_of_a_straight_line_model_are_clean_everywhere(tiny, monkeypatch):
    dynamics = tiny.dynamics()
    forced = _force(tiny, dynamics, bootstrap_fraction=1.0)
    monkeypatch.setattr(dynamics, "forward", lambda *_: Prediction(forced.clean, None))
    assert torch.allclose(forced.target(dynamics), forced.clean, atol=1e-4)


def test_the_teacher_is_told_of_the_rows_own_actions_and_pictures(tiny, monkeypatch):
    dynamics = tiny.dynamics()
    forced = _force(tiny, dynamics, bootstrap_fraction=0.5)
    asked = []

    def forward(noisy, noising, conditioning):
        asked.append(conditioning)
        return Prediction(noisy, None)

    monkeypatch.setattr(dynamics, "forward", forward)
    forced.target(dynamics)
    assert len(asked) == 2
    rows = forced.bootstrap
    for conditioning in asked:
        assert torch.equal(conditioning.images, forced.conditioning.images[rows])
        assert torch.equal(conditioning.labelled, forced.conditioning.labelled[rows])
        for name, value in forced.conditioning.actions.items():
            assert torch.equal(conditioning.actions[name], value[rows])


def test_rows_at_the_context_signal(tiny):
    dynamics = tiny.dynamics()
    forced, rows = _force(tiny, dynamics, bootstrap_fraction=1.0), torch.arange(ROWS) < 5
    noising = context_noising(dynamics, ROWS, FRAMES)
    changed = with_signal(forced, rows, noising, 8, tiny.generator(3))
    assert set(changed.noising.signal[rows].flatten().tolist()) == {7}
    assert set(changed.noising.exponent[rows].flatten().tolist()) == {3}
    assert torch.equal(changed.noising.signal[~rows], forced.noising.signal[~rows])
    assert torch.equal(changed.noisy[~rows], forced.noisy[~rows])
    assert torch.equal(changed.bootstrap, ~rows)
    noise = (changed.noisy - 7 / 8 * changed.clean)[rows] * 8
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)


class _Perfect(nn.Module):
    """Stands in for the transformer's whole pass; knows the clean latents."""

    def __init__(self, dynamics, clean):
        super().__init__()
        self.config, self.standardize, self.clean = dynamics.config, dynamics.standardize, clean

    def forward(self, noisy, noising, conditioning):
        rows = noisy.shape[0]
        return Prediction(self.clean[:rows], None)


def test_pretraining_loss_is_zero_for_the_true_predictor(tiny):
    dynamics, batch = tiny.dynamics(), tiny.clip(ROWS, FRAMES)
    phase = DynamicsPretraining(_Perfect(dynamics, batch.latents), ForcingConfig(bootstrap_fraction=0.0))
    assert float(phase(batch, generator=tiny.generator(), progress=1.0).metrics["shortcut"]) == 0


def test_pretraining_loss_is_the_ramped_distance_to_the_targets(tiny):
    dynamics, batch = tiny.dynamics(), tiny.clip(ROWS, FRAMES)
    config = ForcingConfig(bootstrap_fraction=0.5)
    loss = DynamicsPretraining(dynamics, config)(batch, generator=tiny.generator(2), progress=1.0)
    forced = force(dynamics, batch, config, generator=tiny.generator(2), progress=1.0)
    with torch.no_grad():
        prediction = dynamics(forced.noisy, forced.noising, forced.conditioning).latents
        tau = forced.noising.tau(8)
        expected = ((0.9 * tau + 0.1) * (prediction - forced.target(dynamics)).square().mean((2, 3))).mean()
    assert float(loss.metrics["shortcut"]) == pytest.approx(float(expected), rel=1e-5)


def _velocity_weighted(prediction, target, tau):
    return ((prediction - target).square().mean((2, 3)) / (1 - tau).square()).mean()


def test_pretraining_may_weigh_errors_as_velocities(tiny):
    dynamics, batch = tiny.dynamics(), tiny.clip(ROWS, FRAMES)
    config = ForcingConfig(bootstrap_fraction=0.5, weighting="velocity")
    loss = DynamicsPretraining(dynamics, config)(batch, generator=tiny.generator(2), progress=1.0)
    forced = force(dynamics, batch, config, generator=tiny.generator(2), progress=1.0)
    with torch.no_grad():
        prediction = dynamics(forced.noisy, forced.noising, forced.conditioning).latents
        expected = _velocity_weighted(prediction, forced.target(dynamics), forced.noising.tau(8))
    assert float(loss.metrics["shortcut"]) == pytest.approx(float(expected), rel=1e-4)


def test_finetuning_may_weigh_errors_as_velocities(tiny):
    agent, batch = tiny.agent(), tiny.clip(ROWS, FRAMES)
    config = FinetuningConfig(bootstrap_fraction=0.0, weighting="velocity")
    loss = AgentFinetuning(agent, config)(batch, generator=tiny.generator(2), progress=1.0)
    uniform = ~batch.notes.relevant
    forced = force(agent.dynamics, batch, config, generator=tiny.generator(2), progress=1.0)
    with torch.no_grad():
        told = replace(forced.conditioning, agent=agent.prompt(batch.notes.task, FRAMES))
        prediction = agent.dynamics(forced.noisy, forced.noising, told).latents
    expected = _velocity_weighted(prediction[uniform], forced.clean[uniform], forced.noising.tau(8)[uniform])
    assert float(loss.metrics["shortcut"]) == pytest.approx(float(expected), rel=1e-4)


def test_noise_may_be_paired_by_optimal_transport_after_the_same_draws(tiny):
    loose, paired = (_force(tiny, image_fraction=0.0, pairing=pairing) for pairing in ("independent", "optimal_transport"))
    tau = loose.noising.tau(8)
    assert torch.equal(paired.noising.signal, loose.noising.signal)
    noise = _noise_of(tiny, loose)
    assert torch.equal(loose.noisy, corrupt(loose.clean, noise, tau))
    assert torch.equal(paired.noisy, corrupt(paired.clean, optimal_pairing(noise, paired.clean), tau))
    assert not torch.equal(paired.noisy, loose.noisy)


def _others(dynamics):
    return {name: p.detach() + 0.1 * torch.randn_like(p) for name, p in dynamics.named_parameters()}


@pytest.mark.parametrize("name", ["dynamics", "agent"])
def test_coarse_steps_may_be_taught_by_the_moving_average(tiny, name, monkeypatch):
    def phase(teacher):
        settings = {"bootstrap_fraction": 1.0, "teacher": teacher}
        if name == "agent":
            return AgentFinetuning(tiny.agent(), FinetuningConfig(**settings))
        return DynamicsPretraining(tiny.dynamics(), ForcingConfig(**settings))

    def found(phase):
        batch = tiny.clip(ROWS, FRAMES)
        return phase(batch, generator=tiny.generator(), progress=1.0).metrics["shortcut"]

    own, taught = phase("self"), phase("ema")
    prefix, dynamics = ("agent.dynamics.", own.agent.dynamics) if name == "agent" else ("dynamics.", own.dynamics)
    average = {prefix + key: value for key, value in _others(dynamics).items()}
    mine, target = found(own), Forced.target
    own.average, taught.average = average, average
    assert torch.equal(found(own), mine), "who teaches itself asks for no average"
    before = {key: p.clone() for key, p in taught.named_parameters()}

    def target_of_others(forced, dynamics, teacher=None):
        others = tiny.dynamics()
        others.load_state_dict(dynamics.state_dict() | {key.removeprefix(prefix): value for key, value in average.items()})
        return target(forced, others)

    by_average = found(taught)
    with monkeypatch.context() as patch:
        patch.setattr(Forced, "target", target_of_others)
        assert torch.allclose(by_average, found(own), rtol=1e-5)
    assert float((by_average - mine).abs()) > 1e-4
    assert all(torch.equal(p, before[key]) for key, p in taught.named_parameters())


def test_a_teacher_without_an_average_is_refused(tiny):
    phase = DynamicsPretraining(tiny.dynamics(), ForcingConfig(teacher="ema"))
    with pytest.raises(UserError, match=r"teacher = ema.*fit\.ema"):
        phase(tiny.clip(ROWS, FRAMES), generator=tiny.generator(), progress=1.0)


def test_pretraining_teaches_all_parts_of_the_dynamics(tiny):
    dynamics, batch = tiny.dynamics(), tiny.clip(ROWS, FRAMES)
    DynamicsPretraining(dynamics, ForcingConfig())(batch, generator=tiny.generator(), progress=1.0).total.backward()
    without = [name for name, p in dynamics.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_unlabelled_clips_mix_with_labelled_ones(tiny):
    dynamics, batch = tiny.dynamics(), tiny.clip(ROWS, FRAMES)
    labelled = batch.notes.labelled & (torch.arange(ROWS) % 2 == 0).unsqueeze(1)
    mixed = replace(batch, notes=replace(batch.notes, labelled=labelled))
    forced = force(dynamics, mixed, ForcingConfig(image_fraction=0.0), generator=tiny.generator(), progress=0.0)
    assert torch.equal(forced.conditioning.labelled[:, 1:], labelled[:, :-1])
    tau = forced.noising.tau(8)
    assert torch.equal(forced.noisy, corrupt(forced.clean, _noise_of(tiny, forced), tau))


def _noise_of(tiny, forced):
    """The noise of ``force`` drawn again in its order: pictures, bootstrap rows, levels, noise."""
    generator = tiny.generator()
    for _ in ("pictures", "bootstrap rows"):
        torch.rand((), generator=generator, dtype=torch.float64)
        torch.randperm(ROWS, generator=generator)
    torch.randint(0, 4, (ROWS, FRAMES), generator=generator)
    torch.rand(ROWS, FRAMES, generator=generator, dtype=torch.float64)
    return torch.randn(forced.clean.shape, generator=generator)
