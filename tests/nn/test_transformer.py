"""The block-causal transformer: causality, window, separate pictures, and the cache against one uncached pass."""

import copy

import pytest
import torch

from dreamer_ray.nn.packed import PackedColumns
from dreamer_ray.nn.transformer import Transformer

WINDOW, TOKENS, FRAMES = 4, 3, 15


def _transformer(tiny, **changes) -> Transformer:
    return Transformer(tiny.transformer_config(**changes)).double()


def _x(rows=2, frames=FRAMES):
    return torch.randn(rows, frames, TOKENS, 16, dtype=torch.float64)


def _step(model, x, cache):
    y = model.step(x, cache)
    cache.advance()
    return y


def test_time_layers_stand_at_every_fourth_place(tiny):
    assert _transformer(tiny, layers=8, time_every=4).axes == ["space", "space", "space", "time"] * 2


def test_a_frame_changes_nothing_before_it_and_something_after_it(tiny):
    model, x = _transformer(tiny), _x()
    changed = x.clone()
    changed[:, 6, 1] += 1
    difference = (model(x) - model(changed)).abs().amax((0, 2, 3))
    assert bool((difference[:6] == 0).all())
    assert bool((difference[6:10] > 1e-6).all())


@pytest.mark.parametrize("window", [1, 3, 4])
def test_one_time_layer_sees_the_window_and_nothing_older(tiny, window):
    model, x = _transformer(tiny, layers=4, time_every=4, context=window), _x()
    changed = x.clone()
    changed[:, 2] += 1
    difference = (model(x) - model(changed)).abs().amax((0, 2, 3))
    reached = [t for t in range(FRAMES) if difference[t] > 1e-9]
    assert reached == list(range(2, 2 + window))


def test_stacked_time_layers_reach_further_than_one_window(tiny):
    model, x = _transformer(tiny), _x()
    changed = x.clone()
    changed[:, 0] += 1
    difference = (model(x) - model(changed)).abs().amax((0, 2, 3))
    assert difference[2 * (WINDOW - 1)] > 1e-9
    assert bool((difference[2 * (WINDOW - 1) + 1 :] == 0).all())


def test_time_attention_is_axial_and_space_attention_stays_in_the_frame(tiny):
    model, x = _transformer(tiny, layers=1, time_every=1), _x()
    changed = x.clone()
    changed[:, 5, 0] += 1
    difference = (model(x) - model(changed)).abs().amax((0, 3))
    assert bool((difference[:, 1:] == 0).all())
    space = _transformer(tiny, layers=3, time_every=4)
    difference = (space(x) - space(changed)).abs().amax((0, 3))
    assert bool((difference[torch.arange(FRAMES) != 5] == 0).all())
    assert bool((difference[5] > 1e-6).all())


def test_rows_of_images_are_separate_pictures(tiny):
    model, x = _transformer(tiny), _x(rows=3)
    images = torch.tensor([False, True, False])
    y = model(x, images=images)
    alone = model(x[1].unsqueeze(1))
    assert torch.allclose(y[1].unsqueeze(1), alone, atol=1e-6)
    assert torch.allclose(y[[0, 2]], model(x[[0, 2]]), atol=1e-12)
    assert not torch.allclose(y[1], model(x)[1], atol=1e-3)


def test_space_rope_is_a_switch(tiny):
    x = _x(frames=1)
    for rope in (True, False):
        model = _transformer(tiny, layers=1, rope=rope)
        same = torch.allclose(model(x)[:, :, [0, 2, 1]], model(x[:, :, [0, 2, 1]]), atol=1e-9)
        assert same is not rope


@pytest.mark.parametrize("gradients", [True, False])  # without them a context is passed by the operations of frames
@pytest.mark.parametrize("soft_cap", [50.0, None])
@pytest.mark.parametrize("prefill", [0, 1, 3, 4, 6, 9])
def test_cached_equals_uncached_over_several_windows(tiny, prefill, soft_cap, gradients):
    model, x = _transformer(tiny, soft_cap=soft_cap), _x()
    whole = model(x)
    with torch.set_grad_enabled(gradients):
        _assert_cached_equals(whole, model, x, prefill)


def test_a_copy_of_a_model_that_dreamed_has_weights_of_its_own(tiny):
    model, x = _transformer(tiny).float().requires_grad_(False), _x().float()
    model.columns = PackedColumns
    model.new_cache(2, TOKENS)
    twin = copy.deepcopy(model)
    twin.blocks[0].mlp.up.weight.mul_(2)
    _assert_cached_equals(twin(x), twin, x, 3, atol=1e-4)
    _assert_cached_equals(model(x), model, x, 3, atol=1e-4)
    assert not torch.allclose(twin(x), model(x), atol=1e-3)


def _assert_cached_equals(whole, model, x, prefill, atol=1e-12):
    cache = model.new_cache(2, TOKENS)
    parts = [model(x[:, :prefill], cache=cache)] if prefill else []
    assert cache.frame.tolist() == [prefill] * 2
    parts += [_step(model, x[:, t : t + 1], cache) for t in range(prefill, FRAMES)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=atol)


def test_a_frame_may_be_run_again_before_the_clock_moves(tiny):
    model, x = _transformer(tiny), _x()
    cache = model.new_cache(2, TOKENS)
    outputs = []
    for t in range(FRAMES):
        for _ in range(2):
            model.step(torch.randn_like(x[:, :1]), cache)
        outputs.append(_step(model, x[:, t : t + 1], cache))
    assert torch.allclose(torch.cat(outputs, 1), model(x), atol=1e-12)


def test_two_frames_may_be_run_at_once(tiny):
    model, x = _transformer(tiny), _x(rows=3)
    cache = model.new_cache(3, TOKENS)
    starts, outputs = {1: 7, 2: 9, 0: 11}, []
    for t in range(FRAMES - 1):
        for row, start in starts.items():
            if t == start:
                cache.frame[row] = 0
        outputs.append(model.step(x[:, t : t + 2], cache))
        cache.advance()
    for row, start in starts.items():
        expected = torch.cat([model(x[row : row + 1, :start]), model(x[row : row + 1, start:])], 1)
        for t, found in enumerate(outputs):
            both = slice(t, t + 1) if t + 1 == start else slice(t, t + 2)  # a sequence that ends has no next frame
            assert torch.allclose(found[row : row + 1, : both.stop - t], expected[:, both], atol=1e-12)


def test_rows_have_their_own_clocks(tiny):
    model, x = _transformer(tiny), _x(rows=3)
    starts = {1: 7, 2: 9, 0: 11}
    cache = model.new_cache(3, TOKENS)
    outputs = []
    for t in range(FRAMES):
        for row, start in starts.items():
            if t == start:
                cache.frame[row] = 0
        outputs.append(_step(model, x[:, t : t + 1], cache))
    y = torch.cat(outputs, 1)
    for row, start in starts.items():
        for part in (slice(0, start), slice(start, None)):
            assert torch.allclose(y[row : row + 1, part], model(x[row : row + 1, part]), atol=1e-12)


def test_the_clock_may_run_for_a_million_frames(tiny):
    model, x = _transformer(tiny), _x()
    late, early = model.new_cache(2, TOKENS), model.new_cache(2, TOKENS)
    late.frame += 4_000_000 * WINDOW
    for t in range(9):
        y = [_step(model, x[:, t : t + 1], cache) for cache in (late, early)]
        if t >= WINDOW - 1:
            last = y
    # The late rows saw empty slots at first; two windows later these have left both time layers' reach.
    assert torch.allclose(*last, atol=1e-5)
