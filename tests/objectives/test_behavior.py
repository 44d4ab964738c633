"""Multi-token prediction: which frame each distance names, and which lie beyond the clip."""

import torch

from dreamer_ray.objectives.behavior import does_nothing, future, in_clip


def test_entry_t_n_is_frame_t_plus_n():
    values = torch.arange(10).view(2, 5)
    found = future(values, 3)
    assert found.shape == (2, 5, 3)
    for t in range(5):
        for n in range(3):
            assert found[0, t, n] == min(t + n, 4)
            assert found[1, t, n] == 5 + min(t + n, 4)


def test_vectors_keep_their_last_dimension():
    values = torch.randn(2, 5, 7)
    found = future(values, 9)
    assert found.shape == (2, 5, 9, 7)
    assert torch.equal(found[:, 1, 2], values[:, 3])


def test_frames_beyond_the_end_are_marked():
    inside = in_clip(4, 3)
    assert inside.int().tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert in_clip(2, 9).sum() == 3


def test_doing_nothing_is_no_key_held_and_the_choice_that_is_none():
    keys = torch.tensor([[0, 0], [0, 0], [0, 1], [0, 0]])
    mouse = torch.tensor([60, 0, 60, 60])
    assert does_nothing({"keys": keys, "mouse": mouse}, {"mouse": 60}).tolist() == [True, False, False, True]
    assert does_nothing({"keys": keys}, {}).tolist() == [True, True, False, True]
