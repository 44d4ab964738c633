"""Lambda-returns: one-step TD, Monte Carlo, an example by hand and the meaning of a terminal frame."""

import torch

from dreamer_ray.objectives.returns import lambda_returns


def _draw(rows=4, length=6):
    return (
        torch.randn(rows, length, dtype=torch.float64),
        torch.rand(rows, length, dtype=torch.float64),
        torch.randn(rows, length + 1, dtype=torch.float64),
    )


def test_lambda_zero_is_one_step_temporal_difference():
    rewards, continues, values = _draw()
    found = lambda_returns(rewards, continues, values, gamma=0.9, lam=0.0)
    assert torch.allclose(found, rewards + 0.9 * continues * values[:, 1:])


def test_lambda_one_is_monte_carlo_with_the_last_value():
    rewards, continues, values = _draw()
    found = lambda_returns(rewards, continues, values, gamma=0.9, lam=1.0)
    for t in range(6):
        total, discount = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
        for u in range(t, 6):
            total = total + discount * rewards[:, u]
            discount = discount * 0.9 * continues[:, u]
        assert torch.allclose(found[:, t], total + discount * values[:, -1])
    assert torch.equal(lambda_returns(rewards, continues, values[:, -1:].expand(4, 7), gamma=0.9, lam=1.0), found)


def test_an_example_by_hand():
    # gamma 1/2, lambda 1/2, values 8 4 2 6, rewards 1 2 3, the second frame terminal:
    # R_2 = 3 + 1/2 (1/2 6 + 1/2 6) = 6;  R_1 = 2 + 0 = 2;  R_0 = 1 + 1/2 (1/2 4 + 1/2 2) = 2.5
    found = lambda_returns(
        torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[8.0, 4.0, 2.0, 6.0]]), gamma=0.5, lam=0.5
    )
    assert found.tolist() == [[2.5, 2.0, 6.0]]


def test_nothing_behind_a_terminal_frame_counts():
    rewards, continues, values = _draw()
    continues[:, 2] = 0
    before = lambda_returns(rewards, continues, values, gamma=0.9, lam=0.7)
    rewards[:, 3:] += 100
    values[:, 3:] -= 100
    after = lambda_returns(rewards, continues, values, gamma=0.9, lam=0.7)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_the_value_of_the_state_itself_has_no_part():
    rewards, continues, values = _draw()
    before = lambda_returns(rewards, continues, values, gamma=0.9, lam=0.7)
    values[:, 0] += 100
    assert torch.equal(before, lambda_returns(rewards, continues, values, gamma=0.9, lam=0.7))
