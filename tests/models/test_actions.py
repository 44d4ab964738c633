"""The action embedding: components summed on a learned base, the base alone without a label, and the shift by one frame."""

import torch

from dreamer_ray.models.actions import ActionEmbedding, previous_actions
from dreamer_ray.types import Binary, Categorical, Continuous

SPACE = {"keys": Binary(size=3), "mouse": Categorical(size=5), "arm.x": Continuous(size=2)}


def _embedding(tokens=2):
    return ActionEmbedding(SPACE, tokens=tokens, width=4)


def test_components_are_summed_on_the_base(tiny):
    embedding, actions = _embedding(), tiny.actions(2, 3, space=SPACE)
    keys, mouse, arm = embedding.components
    b, t = 1, 2
    expected = embedding.base.flatten() + mouse.weight[actions["mouse"][b, t]] + arm(actions["arm.x"][b, t])
    for i, held in enumerate(actions["keys"][b, t].tolist()):
        expected = expected + keys.weight[2 * i + held]
    found = embedding(actions, torch.ones(2, 3, dtype=torch.bool))[b, t].flatten()
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_base_stands_alone_without_a_label(tiny):
    embedding, actions = _embedding(), tiny.actions(2, 3, space=SPACE)
    labelled = torch.tensor([[True, False, True], [False, True, False]])
    tokens = embedding(actions, labelled)
    assert torch.equal(tokens[~labelled], embedding.base.expand(3, 2, 4))
    assert bool(((tokens[labelled] - embedding.base).abs().amax((1, 2)) > 1e-3).all())


def test_every_key_and_choice_has_an_embedding_of_its_own(tiny):
    embedding, labelled = _embedding(), torch.ones(1, 1, dtype=torch.bool)
    seen = set()
    for mouse in range(5):
        for keys in range(8):
            actions = {
                "keys": torch.tensor([[[keys & 1, keys >> 1 & 1, keys >> 2]]]),
                "mouse": torch.tensor([[mouse]]),
                "arm.x": torch.zeros(1, 1, 2),
            }
            seen.add(tuple(embedding(actions, labelled).flatten().tolist()))
    assert len(seen) == 40


def test_shift_puts_the_action_that_led_to_a_frame_beside_it(tiny):
    actions = tiny.actions(2, 4, space=SPACE)
    labelled = torch.tensor([[True, False, True, True], [True, True, True, False]])
    previous, known = previous_actions(actions, labelled)
    for name, value in actions.items():
        assert torch.equal(previous[name][:, 1:], value[:, :-1])
    assert torch.equal(known, torch.tensor([[False, True, False, True], [False, True, True, True]]))


def test_without_actions_every_frame_has_the_base():
    embedding = ActionEmbedding({}, tokens=2, width=6)
    found = embedding({}, torch.zeros(3, 4, dtype=torch.bool))
    assert torch.equal(found, embedding.base.expand(3, 4, 2, 6))
