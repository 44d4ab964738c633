"""From made-up figures to findings: where each threshold lies, what cannot be told, and what is blamed on what."""

from dataclasses import replace

import pytest
import torch

from dreamer_ray.config_file import _keys
from dreamer_ray.evaluation.checkups.calibration import CONTINUE, REWARD, calibrate, judge_calibration, judge_reward
from dreamer_ray.evaluation.checkups.earnings import deeds, judge_attempts
from dreamer_ray.evaluation.checkups.exploitation import Earned, judge_exploitation
from dreamer_ray.evaluation.checkups.long_dreams import LongFigures, judge_drift, judge_freeze
from dreamer_ray.evaluation.checkups.pictures import PictureFigures, judge_blur, judge_collapse
from dreamer_ray.evaluation.checkups.policy import PolicyFigures, judge_policy
from dreamer_ray.evaluation.checkups.returns import Expectations, judge_value
from dreamer_ray.evaluation.checkups.revisits import MemoryFigures, judge_memory
from dreamer_ray.evaluation.checkups.steering import SteeringFigures, judge_actions
from dreamer_ray.evaluation.diagnosis import settled
from dreamer_ray.evaluation.doctor import CHECKS, named
from dreamer_ray.recipe import Recipe

PICTURES = PictureFigures(
    psnr=22.0,
    mean_psnr=15.0,
    block_psnr=17.5,
    detail=0.6,
    spread=0.8,
    deviations=torch.full((4, 8), 0.5),
    tile_errors=torch.ones(3, 3),
    tile_block_errors=torch.ones(3, 3),
    tile_changes=torch.full((3, 3), 0.5),
    tile_kept=torch.full((3, 3), 0.8),
)
LONG = LongFigures(
    frames=160,
    trained=16,
    ends=tuple(range(16, 176, 16)),
    dream_distance=(0.5,) * 10,
    real_distance=(0.5,) * 10,
    dream_change=(0.2,) * 10,
    real_change=(0.25,) * 10,
    windows=16,
    psnr={"dream": (20.0,) * 160},
)


def spread(mean: float, count: int = 64) -> torch.Tensor:
    """Numbers around ``mean``, the same for every mean but for their size."""
    return mean * (1 + 0.2 * torch.randn(count, generator=torch.Generator().manual_seed(0)))


def memory(ratio: float, count: int = 64) -> MemoryFigures:
    base = spread(1.0, count)
    noise = 1 + 0.02 * torch.randn(count, generator=torch.Generator().manual_seed(1))
    return MemoryFigures(base, base * ratio * noise, base * 3, base * 2, torch.zeros(count, 2, 1, 1))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_remedies_name_keys_that_recipes_have(check):
    assert check.keys and set(check.keys) <= set(_keys(Recipe))
    assert [key for key in check.keys if key not in check.remedy] == []
    assert set(check.rests_on) < {each.name for each in CHECKS}


@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, "healthy"), ({"detail": 0.32}, "sick"), ({"psnr": 19.4}, "sick"), ({"detail": 0.34, "psnr": 19.6}, "healthy")],
)
def test_a_tokenizer_blurs_without_fine_detail_or_where_a_mosaic_is_as_good(changes, status):
    assert judge_blur(replace(PICTURES, **changes)).status == status


def test_a_tokenizer_blurs_where_it_loses_one_tile_that_often_changes():
    kept, changes = torch.full((3, 3), 0.8), torch.full((3, 3), 0.5)
    kept[2, 1] = 0.3
    finding = judge_blur(replace(PICTURES, tile_kept=kept))
    assert finding.status == "sick" and "row 3 and column 2, keeps 30%" in finding.says
    changes[2, 1] = 0.05
    assert judge_blur(replace(PICTURES, tile_kept=kept, tile_changes=changes)).status == "healthy"
    assert judge_blur(replace(PICTURES, tile_changes=torch.zeros(3, 3))).status == "healthy"


def test_a_tokenizer_collapsed_where_a_tenth_of_its_numbers_is_dead_or_all_pictures_are_one():
    deviations = torch.full((4, 8), 0.5)
    deviations[0, :3] = 0.0
    assert judge_collapse(PICTURES).status == "healthy"
    assert judge_collapse(replace(PICTURES, deviations=deviations)).status == "healthy"
    deviations[0, 3] = 0.01
    assert judge_collapse(replace(PICTURES, deviations=deviations)).status == "sick"
    assert judge_collapse(replace(PICTURES, spread=0.09)).status == "sick"


@pytest.mark.parametrize(("ratio", "status"), [(1.0, "sick"), (1.04, "sick"), (1.2, "healthy")])
def test_actions_are_ignored_where_others_are_as_good(ratio, status):
    own = spread(1.0).unsqueeze(1).expand(-1, 8)
    assert judge_actions(SteeringFigures(own, own * ratio)).status == status


def test_actions_are_not_told_from_few_windows_nor_from_windows_that_disagree():
    own = spread(1.0).unsqueeze(1)
    assert judge_actions(None).status == "unknown"
    assert judge_actions(SteeringFigures(own[:7], 2 * own[:7])).status == "unknown"
    other = own * 0.9
    other[0] = 100
    assert judge_actions(SteeringFigures(own, other)).status == "unknown"
    assert judge_actions(SteeringFigures(own, own.roll(1, 0))).status == "unknown", "as bad on the whole, and far from it window by window"


def test_a_dream_drifts_by_where_it_ends_not_by_how_it_begins():
    assert judge_drift(LONG).status == "healthy"
    assert judge_drift(replace(LONG, dream_distance=(2.0, *(0.5,) * 9))).status == "healthy"
    assert judge_drift(replace(LONG, dream_distance=(*(0.5,) * 7, 0.9, 0.9, 0.9))).status == "sick"


def test_a_distance_that_nobody_sees_is_no_drift_even_where_recordings_repeat_exactly():
    exact = replace(LONG, real_distance=(0.0,) * 10)
    assert judge_drift(replace(exact, dream_distance=(0.05,) * 10)).status == "healthy"
    assert judge_drift(replace(exact, dream_distance=(0.2,) * 10)).status == "sick"


def test_what_is_not_a_number_is_sick():
    nothing = (float("nan"),) * 10
    assert judge_drift(replace(LONG, dream_distance=nothing)).status == "sick"
    assert judge_freeze(replace(LONG, dream_change=nothing)).status == "sick"
    assert judge_collapse(replace(PICTURES, spread=float("nan"))).status == "sick"


def test_drift_is_not_told_from_short_dreams_nor_from_one_episode():
    assert judge_drift(replace(LONG, trained=100)).status == "unknown"
    assert judge_drift(replace(LONG, dream_distance=(), real_distance=())).status == "unknown"


def test_a_dream_freezes_where_recordings_move_and_it_does_not():
    assert judge_freeze(LONG).status == "healthy"
    assert judge_freeze(replace(LONG, dream_change=(*(0.2,) * 5, *(0.05,) * 5))).status == "sick"
    assert judge_freeze(replace(LONG, real_change=(0.0,) * 10, dream_change=(0.0,) * 10)).status == "unknown"


@pytest.mark.parametrize(("ratio", "status"), [(1.0, "sick"), (0.9, "sick"), (1.3, "healthy")])
def test_a_dynamics_forgets_where_what_it_saw_is_of_no_use(ratio, status):
    assert judge_memory(memory(ratio), 64).status == status


def test_memory_is_not_told_from_few_returns():
    assert judge_memory(None, 3).status == "unknown"
    assert judge_memory(memory(2.0, 11), 11).status == "unknown"


def calibration(shift: float, rate: float, count: int = 4000):
    """Of a head that is ``shift`` off and knows well what comes."""
    draw = torch.Generator().manual_seed(0)
    true = torch.where(torch.rand(count, generator=draw) < 2 * rate, 0.5, 0.0)
    came = (torch.rand(count, generator=draw) < true).float()
    return calibrate(true + shift, came, draw)


def test_the_calibration_error_is_the_distance_from_what_came():
    foretold, came = torch.tensor([0.05, 0.05, 0.85, 0.85]), torch.tensor([0.0, 0.0, 1.0, 0.0])
    found = calibrate(foretold, came, torch.Generator().manual_seed(0))
    assert found.error == pytest.approx((0.05 * 2 + 0.35 * 2) / 4)
    assert (found.foretold, found.came, found.counts) == (pytest.approx((0.05, 0.85)), (0.0, 0.5), (2, 2))
    assert (found.events, found.frames, found.base) == (1, 4, 0.25)


def test_rewards_above_one_are_overpaid():
    came = (torch.arange(200) % 10 == 0).float()
    assert judge_calibration(REWARD, calibrate(came, came, torch.Generator().manual_seed(0)), "rewards").status == "healthy"
    found = calibrate(3 * came, came, torch.Generator().manual_seed(0))
    assert found.error == pytest.approx(0.2)
    assert judge_calibration(REWARD, found, "rewards").status == "sick"


@pytest.mark.parametrize("events", [2, 20])
def test_a_head_that_says_what_is_no_number_is_sick(events):
    came = (torch.arange(200) < events).float()
    said = torch.where(torch.arange(200) == 7, torch.nan, came)
    found = calibrate(said, came, torch.Generator().manual_seed(0))
    assert judge_calibration(REWARD, found, "rewards").status == "sick"
    assert judge_reward(calibration(0.0, 0.1), found).status == "sick"


@pytest.mark.parametrize(("shift", "status"), [(0.0, "healthy"), (0.02, "healthy"), (0.1, "sick")])
def test_a_head_is_not_calibrated_where_it_is_off_by_more_than_matters(shift, status):
    assert judge_calibration(REWARD, calibration(shift, 0.1), "rewards").status == status


def test_the_reward_is_judged_where_it_is_as_frequent_as_recorded():
    good, bad = calibration(0.0, 0.1), calibration(0.1, 0.1)
    assert (judge_reward(good, bad).status, judge_reward(bad, good).status) == ("healthy", "sick")
    assert judge_reward(good, bad).figures["error_about_events"] == bad.error
    assert f"{bad.error:.3f} at a base rate" in judge_reward(good, bad).says


def test_a_head_that_only_knows_the_base_rate_is_not_healthy():
    draw = torch.Generator().manual_seed(0)
    came = (torch.rand(4000, generator=draw) < 0.1).float()
    assert judge_calibration(REWARD, calibrate(came.mean().expand(4000), came, draw), "rewards").status == "sick"


def test_without_ends_only_false_alarms_can_be_told():
    nothing, draw = torch.zeros(1000), torch.Generator().manual_seed(0)
    assert judge_calibration(CONTINUE, calibrate(nothing + 1e-3, nothing, draw), "ends").status == "unknown"
    assert judge_calibration(CONTINUE, calibrate(nothing + 0.2, nothing, draw), "ends").status == "sick"


@pytest.mark.parametrize(("kl", "status"), [(0.1, "healthy"), (0.6, "sick"), (float("nan"), "sick")])
def test_a_policy_left_the_prior_beyond_half_a_nat(kl, status):
    assert judge_policy(PolicyFigures(spread(kl), spread(1.0), spread(1.0))).status == status


def earned(imagined: float, real: float, foretold: float) -> Earned:
    draw = torch.Generator().manual_seed(0)
    came = (torch.rand(200, 1, generator=draw) < real).float()
    steps = torch.ones(200, 1)
    return Earned(steps * imagined, came, steps * foretold, steps.bool(), {"move": steps.long()})


@pytest.mark.parametrize(
    ("imagined", "real", "status"), [(0.5, 0.5, "healthy"), (0.6, 0.5, "healthy"), (0.95, 0.3, "sick"), (0.03, 0.0, "healthy")]
)
def test_a_policy_exploits_the_model_where_dreams_pay_much_more_than_the_world(imagined, real, status):
    assert judge_exploitation(earned(imagined, real, real), 8).status == status


def test_a_reward_head_that_pays_real_frames_as_much_may_be_to_blame_and_one_that_does_not_is_not():
    reward = REWARD.sick("", {})
    assert [f.status for f in settled([reward, judge_exploitation(earned(0.95, 0.3, 0.9), 8)])] == ["sick", "unknown"]
    assert [f.status for f in settled([reward, judge_exploitation(earned(0.95, 0.3, 0.3), 8)])] == ["sick", "sick"]
    assert "It pays these frames too" in judge_exploitation(earned(0.95, 0.3, 0.9), 8).says
    assert "It pays these frames too" not in judge_exploitation(earned(0.95, 0.3, 0.3), 8).says


MOVES = {"move": ("left", "right")}


@pytest.mark.parametrize(
    ("real", "foretold", "status"),
    [(0.4, 0.4, "healthy"), (0.4, 0.7, "healthy"), (0.2, 0.9, "sick"), (0.0, 0.04, "healthy"), (0.0, 0.1, "sick")],
)
def test_a_reward_head_pays_what_fails_where_it_says_twice_what_came(real, foretold, status):
    assert judge_attempts(earned(0.5, real, foretold), 1, MOVES).status == status


def test_attempts_are_not_told_from_few_worlds_nor_from_worlds_that_disagree():
    few = {name: getattr(earned(0.5, 0.0, 0.9), name)[:7] for name in ("imagined", "real", "foretold", "played")}
    assert judge_attempts(None, 1, MOVES).status == judge_attempts(Earned(**few, actions={}), 1, MOVES).status == "unknown"
    found = earned(0.5, 0.0, 0.0)
    found.foretold[:4] = 15.0
    assert judge_attempts(replace(found, real=torch.full((200, 1), 0.1)), 1, MOVES).status == "unknown"


def test_what_is_overpaid_is_told_apart_by_action_over_the_steps_that_were_played():
    actions = {"move": torch.tensor([[0, 1, 1], [0, 1, 0]]), "keys": torch.tensor([[[1.0], [0.0], [0.0]], [[0.0], [0.0], [1.0]]])}
    real = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    foretold = torch.tensor([[0.9, 0.8, 0.6], [0.9, 0.4, 9.0]])
    played = torch.tensor([[True, True, True], [True, True, False]])
    found = deeds(Earned(real, real, foretold, played, actions), MOVES | {"keys": ("jump",)})
    assert [deed.name for deed in found] == ["right", "jump", "left"]
    assert (found[0].share, found[0].foretold, found[0].came) == pytest.approx((0.6, 0.6, 0.0))
    assert (found[1].share, found[1].foretold, found[1].came) == pytest.approx((0.2, 0.9, 1.0))


def test_a_head_that_overpays_and_a_model_that_is_exploited_are_told_apart():
    def names(found):
        return named(settled([judge_attempts(found, 1, MOVES), judge_exploitation(found, 1)]))

    assert names(earned(0.95, 0.3, 0.9)) == {"attempts"}
    assert names(earned(0.95, 0.3, 0.3)) == {"exploit"}
    assert names(earned(2.0, 0.1, 0.4)) == {"attempts", "exploit"}
    assert names(earned(0.3, 0.3, 0.3)) == set()


def expected(share: float, count: int = 400) -> Expectations:
    draw = torch.Generator().manual_seed(0)
    values, noise = torch.randn(2, count, generator=draw)
    return Expectations(values, 3 * (share**0.5 * values + (1 - share) ** 0.5 * noise) + 10, values + 0.5 * noise)


@pytest.mark.parametrize(("share", "status"), [(0.0, "sick"), (0.3, "healthy"), (1.0, "healthy")])
def test_a_value_explains_by_how_it_goes_with_the_return(share, status):
    finding = judge_value(expected(share), None)
    assert finding.status == status
    assert finding.figures["explained"] == pytest.approx(share, abs=0.1)


def test_a_value_that_falls_where_the_return_rises_explains_nothing():
    found = expected(0.8)
    assert judge_value(replace(found, values=-found.values), None).status == "sick"
    assert judge_value(replace(found, values=torch.zeros(400)), None).figures["explained"] == 0.0


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (lambda v: 0.01 * v, "a constant would do"),
        (lambda v: 5 * v, "a constant would do"),
        (lambda v: v + 0.7, "above"),
        (lambda v: v - 0.7, "below"),
    ],
)
def test_a_value_that_goes_with_the_return_may_yet_hardly_vary_or_lie_to_one_side(values, word):
    found = expected(0.3)
    finding = judge_value(replace(found, values=values(found.values)), None)
    assert finding.status == "sick" and word in finding.says
    assert finding.figures["explained"] > 0.2
    assert judge_value(replace(found, values=found.values + 0.3), None).status == "healthy"


def test_a_value_of_dreams_without_reward_is_not_told():
    found = expected(0.8)
    assert judge_value(replace(found, returns=torch.zeros(400)), None).status == "unknown"


def test_what_may_follow_from_another_disease_is_not_blamed_as_well():
    collapse = judge_collapse(replace(PICTURES, spread=0.0))
    blur, policy = judge_blur(replace(PICTURES, detail=0.0)), judge_policy(PolicyFigures(spread(0.1), spread(1.0), spread(1.0)))
    alone, together = settled([blur]), settled([blur, policy, collapse])
    assert [finding.status for finding in alone] == ["sick"]
    assert [finding.status for finding in together] == ["unknown", "healthy", "sick"]
    assert "the tokenizer collapsed" in together[0].says and "0% of the fine detail" in together[0].says
