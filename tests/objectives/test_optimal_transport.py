"""Pairing of noise and latents: the cheapest of all permutations of each frame index, and nothing but a permutation."""

from itertools import permutations

import torch

from dreamer_ray.objectives.optimal_transport import optimal_pairing

ROWS, FRAMES = 5, 4


def _drawn(seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, FRAMES, 2, 3, generator=draw), torch.randn(ROWS, FRAMES, 2, 3, generator=draw)


def _cost(noise, clean):
    return (noise.double() - clean.double()).square().sum((0, 2, 3))


def test_each_frame_index_has_the_cheapest_of_all_permutations_of_its_noise():
    noise, clean = _drawn(0)
    paired = optimal_pairing(noise, clean)
    for t in range(FRAMES):
        all_of_them = {order: noise[list(order), t] for order in permutations(range(ROWS))}
        cheapest = min(all_of_them, key=lambda order: float((all_of_them[order] - clean[:, t]).square().sum()))
        assert torch.equal(paired[:, t], all_of_them[cheapest]), t
    assert bool((_cost(paired, clean) < _cost(noise, clean)).any())


def test_noise_that_lies_at_its_latents_stays_and_finds_them_again_when_shuffled():
    _, clean = _drawn(1)
    assert torch.equal(optimal_pairing(clean, clean), clean)
    shuffled = torch.stack([clean[torch.randperm(ROWS), t] for t in range(FRAMES)], dim=1)
    assert torch.equal(optimal_pairing(shuffled, clean), clean)


def test_broken_latents_are_left_to_the_loss():
    noise, clean = _drawn(2)
    clean[0, 0] = torch.nan
    paired = optimal_pairing(noise, clean)
    assert torch.equal(paired[:, 0].sort(0).values, noise[:, 0].sort(0).values)
    assert torch.equal(paired[:, 1:], optimal_pairing(noise[:, 1:], clean[:, 1:]))
