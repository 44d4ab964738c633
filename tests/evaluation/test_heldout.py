"""Held-out figures on pictures and heads whose figures can be worked out by hand."""

import math

import pytest
import torch

from dreamer_ray.evaluation import heldout
from dreamer_ray.evaluation.heldout import Dreams, action_counts, agent_figures, dream_figures, dream_windows, reconstruct
from dreamer_ray.types import Categorical, Clip

SPACE = {"action": Categorical(size=4)}


def picture(value: float, tile: float | None = None) -> torch.Tensor:
    """One picture of 16 x 16 pixels, four tiles, of which the first may have a value of its own."""
    pixels = torch.full((1, 1, 16, 16, 3), value)
    if tile is not None:
        pixels[:, :, :8, :8] = tile
    return pixels


def test_errors_are_set_beside_copying_over_all_and_over_changed_tiles():
    truth, last = picture(0.5, tile=0.9), picture(0.5)
    figures = dream_figures(
        Dreams(
            truth=truth, reconstruction=truth - 0.1, dream=truth + 0.1, shuffled=truth + 0.2, last=last, last_reconstruction=picture(0.5)
        ),
        tile=8,
    )
    close = {
        "dream_psnr_at_1": 20.0,
        "copy_psnr_at_1": -10 * math.log10(0.04),
        "error_over_copy_at_1": 0.01 / 0.04,
        "error_over_copy_on_changed_tiles_at_1": 0.01 / 0.16,
        "error_over_copy_in_reconstruction_at_1": 0.04 / 0.03,
        "error_over_copy_in_reconstruction_on_changed_tiles_at_1": 0.04 / 0.09,
        "action_following_at_1": 4.0,
    }
    assert figures == {name: pytest.approx(value, rel=1e-4) for name, value in close.items()}


def test_the_first_and_the_last_dreamed_frame_are_measured():
    frames = [torch.cat([picture(v) for v in values], dim=1) for values in ((0.5, 0.5, 0.5), (0.6, 0.9, 0.7))]
    figures = dream_figures(Dreams(frames[0], frames[0], frames[1], frames[1], picture(0.4), picture(0.4)), tile=8)
    assert figures["dream_psnr_at_1"] == pytest.approx(20, rel=1e-4)
    assert figures["dream_psnr_at_3"] == pytest.approx(-10 * math.log10(0.04), rel=1e-4)
    assert not any(name.endswith("at_2") for name in figures)


def test_a_dream_that_is_the_truth_has_the_pictures_of_the_reconstruction(tiny, monkeypatch):
    """Also with decoders that look back in time; the actions are those from the last frame of the context on, or another clip's."""
    tokenizer, dynamics = tiny.tokenizer(), tiny.dynamics(space=SPACE)
    frames = torch.randint(0, 256, (3, 7, 8, 8, 3), generator=tiny.generator(), dtype=torch.uint8)
    clip = Clip(frames, tiny.clip(3, 7, space=SPACE).notes)
    with torch.no_grad():
        latents = tokenizer.encode(frames)
    taken = []

    def perfect(_, context, actions, **rest):
        assert torch.equal(context.latents, latents[:, :4])
        taken.append(actions["action"])
        return latents[:, 4:]

    monkeypatch.setattr(heldout, "dream", perfect)
    dreams = dream_windows(tokenizer, dynamics, clip, context=4, steps=2, generator=tiny.generator())
    whole = reconstruct(tokenizer, clip)
    assert torch.equal(dreams.dream, whole[:, 4:])
    assert torch.equal(dreams.reconstruction, whole[:, 4:])
    assert torch.equal(dreams.last_reconstruction, whole[:, 3:4])
    assert torch.equal(dreams.truth, frames[:, 4:] / 255)
    assert torch.equal(dreams.last, frames[:, 3:4] / 255)
    actions = clip.notes.actions["action"][:, 3:6]
    assert torch.equal(taken[0], actions)
    assert torch.equal(taken[1], actions[[2, 0, 1]])


def test_agent_figures_of_heads_that_know_nothing(tiny):
    agent, clip = tiny.agent(space=SPACE), tiny.clip(4, 6, space=SPACE)
    with torch.no_grad():
        for head in (agent.policy, agent.reward):
            for parameter in head.net.output.parameters():
                parameter.zero_()
    clip.notes.actions["action"][:] = torch.tensor([1, 2, 3, 2]).unsqueeze(1)
    clip.notes.labelled[0, 2:] = False
    marginal = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    figures = agent_figures(agent, clip, marginal, tiny.generator())
    rate = float(clip.notes.rewards.mean())
    assert figures["action_log_prob"] == pytest.approx(-math.log(4), rel=1e-5)
    assert figures["marginal_log_prob"] == pytest.approx((2 * math.log(0.2) + 6 * math.log(0.4)) / 8, rel=1e-5), "rows 0 and 2 only"
    assert figures["base_rate_cross_entropy"] == pytest.approx(-rate * math.log(rate) - (1 - rate) * math.log(1 - rate), rel=1e-4)
    assert figures["reward_cross_entropy"] == pytest.approx(-rate * math.log(1e-4) - (1 - rate) * math.log(1 - 1e-4), rel=1e-4)


def test_actions_are_counted_where_they_are_known(tiny):
    clip = tiny.clip(2, 3, space=SPACE)
    clip.notes.actions["action"][:] = torch.tensor([[0, 1, 1], [3, 3, 3]])
    clip.notes.labelled[1, 1:] = False
    assert action_counts(clip, 4).tolist() == [1, 2, 0, 1]
