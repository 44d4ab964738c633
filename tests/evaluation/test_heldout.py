"""Held-out figures on pictures and heads whose figures can be worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from dreamer_ray.evaluation import heldout
from dreamer_ray.evaluation.heldout import (
    Dreams,
    agent_figures,
    dream_figures,
    dream_windows,
    policy_shares,
    reconstruct,
    tokenizer_figures,
)
from dreamer_ray.evaluation.marginal import Marginal
from dreamer_ray.evaluation.metrics import lite0_distance, ssim
from dreamer_ray.evaluation.quality import quality_rows
from dreamer_ray.types import Binary, Categorical, Clip, Continuous

SPACE = {"action": Categorical(size=4)}
MIXED = {"keys": Binary(size=3), "mouse": Categorical(size=5), "arm": Continuous(size=2)}
TOLD = torch.tensor([True])
BASELINES = {"mean_frame_psnr": 0.0, "block_average_psnr": 0.0}


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
            truth=truth,
            reconstruction=truth - 0.1,
            dream=truth + 0.1,
            shuffled=truth + 0.2,
            last=last,
            last_reconstruction=picture(0.5),
            told=TOLD,
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
        "dream_n_at_1": 1,
        "dream_ssim_at_1": ssim((truth + 0.1)[:, 0], truth[:, 0]),
        "copy_ssim_at_1": ssim(last[:, 0], truth[:, 0]),
        "dream_lite0_distance_at_1": lite0_distance((truth + 0.1)[:, 0], truth[:, 0]),
        "copy_lite0_distance_at_1": lite0_distance(last[:, 0], truth[:, 0]),
    }
    assert close["dream_ssim_at_1"] != close["copy_ssim_at_1"]
    assert close["dream_lite0_distance_at_1"] != close["copy_lite0_distance_at_1"]
    assert figures == {name: pytest.approx(value, rel=1e-4) for name, value in close.items()}


def test_the_first_and_the_last_dreamed_frame_are_measured():
    frames = [torch.cat([picture(v) for v in values], dim=1) for values in ((0.5, 0.5, 0.5), (0.6, 0.9, 0.7))]
    figures = dream_figures(Dreams(frames[0], frames[0], frames[1], frames[1], picture(0.4), picture(0.4), TOLD), tile=8)
    assert figures["dream_psnr_at_1"] == pytest.approx(20, rel=1e-4)
    assert figures["dream_psnr_at_3"] == pytest.approx(-10 * math.log10(0.04), rel=1e-4)
    assert not any(name.endswith("at_2") for name in figures)


def test_reconstructions_are_compared_by_structure_and_features_on_few_pictures_whose_number_is_said(tiny, monkeypatch):
    monkeypatch.setattr(heldout, "MOST_COMPARED", 3)
    tokenizer = tiny.tokenizer()
    frames = torch.randint(0, 256, (2, 4, 8, 8, 3), generator=tiny.generator(), dtype=torch.uint8)
    clip = Clip(frames, tiny.clip(2, 4, space=SPACE).notes)
    figures = tokenizer_figures(tokenizer, clip, torch.zeros(8, 8, 3))
    chosen = [0, 4, 7]
    rebuilt, truth = (pictures.flatten(0, 1)[chosen] for pictures in (reconstruct(tokenizer, clip), frames / 255))
    assert figures["reconstruction_n"] == 3
    assert figures["reconstruction_lite0_distance"] == pytest.approx(lite0_distance(rebuilt, truth), rel=1e-4)
    assert figures["block_average_lite0_distance"] > 0
    assert not [name for name in figures if "ssim" in name], "pictures smaller than the window"
    rows = {row.metric: row for row in quality_rows(figures)}
    found = rows["reconstruction, perceptual distance (EfficientNet-Lite0, n = 3)"]
    assert (found.model, found.baseline) == (figures["reconstruction_lite0_distance"], "block averages, as many numbers")


def test_rows_of_dreams_name_the_network_and_the_number_of_windows():
    frames = torch.cat([picture(0.5), picture(0.8, tile=0.2)], dim=0)
    figures = dream_figures(Dreams(frames, frames, frames / 2, frames, frames.flip(0), frames, TOLD.repeat(2)), tile=8)
    rows = {row.metric: row for row in quality_rows(figures | dict.fromkeys(("reconstruction_psnr", "saturated"), 0.0) | BASELINES)}
    for metric, name in (
        ("dream, 1 frame ahead, SSIM (n = 2)", "ssim"),
        ("dream, 1 frame ahead, perceptual distance (EfficientNet-Lite0, n = 2)", "lite0_distance"),
    ):
        found = rows[metric]
        assert (found.model, found.baseline_value) == (figures[f"dream_{name}_at_1"], figures[f"copy_{name}_at_1"])
        assert found.target is None


def test_a_dream_that_is_the_truth_has_the_pictures_of_the_reconstruction(tiny, monkeypatch):
    """Also with decoders that look back in time; the actions are those from the last frame of the context on, or another clip's."""
    tokenizer, dynamics = tiny.tokenizer(), tiny.dynamics(space=SPACE)
    frames = torch.randint(0, 256, (3, 7, 8, 8, 3), generator=tiny.generator(), dtype=torch.uint8)
    clip = Clip(frames, tiny.clip(3, 7, space=SPACE).notes)
    with torch.no_grad():
        latents = tokenizer.encode(frames)
    taken = []

    def perfect(_, context, actions, known, **rest):
        assert torch.equal(context.latents, latents[:, :4])
        assert bool(known.all())
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
    seen = torch.tensor([[1] * 1 + [2] * 2 + [3] * 3])  # with one more of each: 1, 2, 3 and 4 of 10
    marginal = Marginal(SPACE, {"action": seen}, torch.ones_like(seen, dtype=torch.bool))
    figures = agent_figures(agent, clip, marginal, tiny.generator())
    rate = float(clip.notes.rewards.mean())
    assert figures["action_log_prob"] == pytest.approx(-math.log(4), rel=1e-5)
    assert figures["marginal_log_prob"] == pytest.approx((2 * math.log(0.2) + 6 * math.log(0.4)) / 8, rel=1e-5), "rows 0 and 2 only"
    assert figures["base_rate_cross_entropy"] == pytest.approx(-rate * math.log(rate) - (1 - rate) * math.log(1 - rate), rel=1e-4)
    assert figures["reward_cross_entropy"] == pytest.approx(-rate * math.log(1e-4) - (1 - rate) * math.log(1 - 1e-4), rel=1e-4)


def test_where_no_clip_is_task_relevant_all_known_actions_count(tiny):
    agent, clip = tiny.agent(), tiny.clip(4, 6)
    marginal = Marginal(MIXED, clip.notes.actions, clip.notes.labelled)
    clip.notes.labelled[2:] = False
    expected = agent_figures(agent, replace(clip, notes=replace(clip.notes, relevant=torch.arange(4) < 2)), marginal, tiny.generator())
    clip.notes.relevant[:] = False
    assert agent_figures(agent, clip, marginal, tiny.generator()) == expected


def test_components_are_measured_one_by_one_and_add_up(tiny):
    agent, clip = tiny.agent(), tiny.clip(4, 6)
    figures = agent_figures(agent, clip, Marginal(MIXED, clip.notes.actions, clip.notes.labelled), tiny.generator())
    for figure in ("action_log_prob", "marginal_log_prob"):
        assert sum(figures[f"{figure}_of_{name}"] for name in MIXED) == pytest.approx(figures[figure], rel=1e-5)
    assert 0 <= figures["action_accuracy_of_mouse"] <= 1


def test_without_a_known_action_only_the_reward_is_measured(tiny):
    agent, clip = tiny.agent(), tiny.clip(4, 6)
    marginal = Marginal(MIXED, clip.notes.actions, clip.notes.labelled)
    clip.notes.labelled[:] = False
    assert set(agent_figures(agent, clip, marginal, tiny.generator())) == {"reward_cross_entropy", "base_rate_cross_entropy"}


def test_shares_of_a_policy_are_those_of_its_distributions(tiny):
    agent, clip = tiny.agent(), tiny.clip(2, 6)
    found = policy_shares(agent, clip, tiny.generator(), ["keys", "mouse"])
    assert found.shape == (3 + 5,)
    assert float(found[3:].sum()) == pytest.approx(1, rel=1e-5)
    assert bool(((found > 0) & (found < 1)).all())


def test_windows_whose_actions_are_unknown_say_nothing_of_other_actions(tiny):
    tokenizer, dynamics = tiny.tokenizer(), tiny.dynamics()
    frames = torch.randint(0, 256, (3, 7, 8, 8, 3), generator=tiny.generator(), dtype=torch.uint8)
    clip = Clip(frames, tiny.clip(3, 7).notes)
    clip.notes.labelled[0] = False
    dreams = dream_windows(tokenizer, dynamics, clip, context=4, steps=2, generator=tiny.generator())
    assert dreams.told.tolist() == [False, False, True], "row 1 would have the actions of row 0"
    only = dream_figures(replace(dreams, **{name: getattr(dreams, name)[2:] for name in vars(dreams)}), tile=8)
    figures = dream_figures(dreams, tile=8)
    assert figures["action_following_at_3"] == pytest.approx(only["action_following_at_3"], rel=1e-4)
    clip.notes.labelled[:] = False
    dreams = dream_windows(tokenizer, dynamics, clip, context=4, steps=2, generator=tiny.generator())
    assert not [name for name in dream_figures(dreams, tile=8) if "following" in name]
