"""Contracts of the tokenizer: causality, caches, who attends to whom, masking, padding and the bottleneck's range."""

import pytest
import torch

from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.nn.layers import sine_grid

ROWS, FRAMES = 2, 11


def _frames(shape=(8, 8), rows=ROWS, frames=FRAMES):
    return torch.randint(0, 256, (rows, frames, *shape, 3), dtype=torch.uint8)


def _latents(tiny):
    return torch.rand(ROWS, FRAMES, tiny.latents, tiny.channels, dtype=torch.float64) * 2 - 1


def _captured(tokenizer: Tokenizer, part: str, run) -> torch.Tensor:
    """What the encoder or decoder transformer puts out while ``run()``."""
    outputs = []
    handle = getattr(tokenizer, part).register_forward_hook(lambda _module, _args, y: outputs.append(y.detach()))
    run()
    handle.remove()
    return outputs[0]


def test_latents_lie_between_minus_one_and_one(tiny):
    tokenizer = tiny.tokenizer()
    with torch.no_grad():
        tokenizer.bottleneck.weight.mul_(3)
    latents = tokenizer.encode(_frames()).detach()
    assert latents.shape == (ROWS, FRAMES, tiny.latents, tiny.channels)
    assert 0.5 < float(latents.abs().max()) < 1


def test_cached_encoding_equals_one_pass(tiny):
    tokenizer, frames = tiny.tokenizer().double(), _frames()
    cache = tokenizer.new_encoder_cache(ROWS)
    parts = [tokenizer.encode(frames[:, t : t + 1], cache=cache) for t in range(FRAMES)]
    assert torch.allclose(torch.cat(parts, 1), tokenizer.encode(frames), atol=1e-12)
    assert cache.frame.tolist() == [FRAMES] * ROWS


def test_cached_encoding_with_a_row_that_begins_anew(tiny):
    tokenizer, frames = tiny.tokenizer().double(), _frames()
    cache, parts = tokenizer.new_encoder_cache(ROWS), []
    for t in range(FRAMES):
        if t == 6:
            cache.frame[1] = 0
        parts.append(tokenizer.encode(frames[:, t : t + 1], cache=cache))
    latents = torch.cat(parts, 1)
    assert torch.allclose(latents[0], tokenizer.encode(frames)[0], atol=1e-12)
    assert torch.allclose(latents[1, 6:], tokenizer.encode(frames[1:, 6:])[0], atol=1e-12)


def test_cached_decoding_equals_one_pass(tiny):
    tokenizer, latents = tiny.tokenizer().double(), _latents(tiny)
    cache = tokenizer.new_decoder_cache(ROWS)
    parts = [tokenizer.decode(latents[:, t : t + 1], cache=cache) for t in range(FRAMES)]
    assert torch.allclose(torch.cat(parts, 1), tokenizer.decode(latents), atol=1e-12)


def test_a_frame_changes_nothing_before_it(tiny):
    tokenizer, frames, latents = tiny.tokenizer().double(), _frames(), _latents(tiny)
    other = frames.clone()
    other[:, 5] = 255 - other[:, 5]
    encoded = (tokenizer.encode(frames) - tokenizer.encode(other)).abs().amax((0, 2, 3))
    moved = latents.clone()
    moved[:, 5] = -moved[:, 5]
    decoded = (tokenizer.decode(latents) - tokenizer.decode(moved)).abs().amax((0, 2, 3, 4))
    for difference in (encoded, decoded):
        assert bool((difference[:5] == 0).all())
        assert bool((difference[5:8] > 1e-6).all())


def test_in_the_encoder_patches_do_not_see_latents(tiny):
    tokenizer, frames = tiny.tokenizer().double(), _frames()
    patches, latents = tokenizer.layout.slice("patches"), tokenizer.layout.slice("latents")
    before = _captured(tokenizer, "encoder", lambda: tokenizer.encode(frames))
    with torch.no_grad():
        tokenizer.encoder_positions[latents] += torch.randn_like(tokenizer.encoder_positions[latents])
    after = _captured(tokenizer, "encoder", lambda: tokenizer.encode(frames))
    assert torch.equal(before[:, :, patches], after[:, :, patches])
    assert not torch.allclose(before[:, :, latents], after[:, :, latents], atol=1e-3)


def test_in_the_encoder_latents_see_every_patch_and_patches_each_other(tiny):
    tokenizer, frames = tiny.tokenizer(encoder={"layers": 1}).double(), _frames(frames=1)
    before = _captured(tokenizer, "encoder", lambda: tokenizer.encode(frames))
    for corner in ((0, 0), (0, 4), (4, 0), (4, 4)):
        other = frames.clone()
        other[:, :, corner[0], corner[1]] += 100
        after = _captured(tokenizer, "encoder", lambda: tokenizer.encode(other))  # noqa: B023
        assert bool(((before - after).abs().amax((0, 1, 3)) > 1e-9).all())


def test_in_the_decoder_latents_see_only_latents(tiny):
    tokenizer, values = tiny.tokenizer().double(), _latents(tiny)
    patches, latents = tokenizer.layout.slice("patches"), tokenizer.layout.slice("latents")
    before = _captured(tokenizer, "decoder", lambda: tokenizer.decode(values))
    with torch.no_grad():
        tokenizer.decoder_positions[patches] += torch.randn_like(tokenizer.decoder_positions[patches])
    after = _captured(tokenizer, "decoder", lambda: tokenizer.decode(values))
    assert torch.equal(before[:, :, latents], after[:, :, latents])
    assert not torch.allclose(before[:, :, patches], after[:, :, patches], atol=1e-3)


def test_in_the_decoder_every_patch_sees_every_latent(tiny):
    tokenizer, values = tiny.tokenizer(decoder={"layers": 1}).double(), _latents(tiny)[:, :1]
    before = _captured(tokenizer, "decoder", lambda: tokenizer.decode(values))
    for latent in range(tiny.latents):
        other = values.clone()
        other[:, :, latent] *= -1
        after = _captured(tokenizer, "decoder", lambda: tokenizer.decode(other))  # noqa: B023
        assert bool(((before - after).abs().amax((0, 1, 3)) > 1e-9).all())


def test_masked_patches_do_not_influence_the_encoding(tiny):
    tokenizer, frames = tiny.tokenizer(), _frames()
    masked = torch.zeros(ROWS, FRAMES, 4, dtype=torch.bool)
    masked[:, :, [0, 3]] = True
    other = frames.clone()
    other[:, :, :4, :4] = 255 - other[:, :, :4, :4]
    other[:, :, 4:, 4:] = 255 - other[:, :, 4:, 4:]
    assert torch.equal(tokenizer.encode(frames, masked=masked), tokenizer.encode(other, masked=masked))
    assert not torch.allclose(tokenizer.encode(frames), tokenizer.encode(other), atol=1e-4)
    shown = frames.clone()
    shown[:, :, :4, 4:] = 255 - shown[:, :, :4, 4:]
    assert not torch.allclose(tokenizer.encode(frames, masked=masked), tokenizer.encode(shown, masked=masked), atol=1e-4)


def test_with_everything_masked_the_picture_does_not_matter(tiny):
    tokenizer = tiny.tokenizer()
    masked = torch.ones(ROWS, FRAMES, 4, dtype=torch.bool)
    assert torch.equal(tokenizer.encode(_frames(), masked=masked), tokenizer.encode(_frames(), masked=masked))


def test_the_mask_embedding_learns(tiny):
    tokenizer = tiny.tokenizer()
    tokenizer.encode(_frames(), masked=torch.ones(ROWS, FRAMES, 4, dtype=torch.bool)).square().sum().backward()
    assert tokenizer.masked_patch.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(6, 7), (8, 5), (9, 12)])
def test_pictures_are_padded_with_zeros_to_whole_patches(tiny, shape):
    tokenizer, frames = tiny.tokenizer(shape), _frames(shape)
    rows, columns = tokenizer.padded_shape
    assert (rows % 4, columns % 4) == (0, 0)
    assert rows - shape[0] < 4
    assert columns - shape[1] < 4
    whole = tiny.tokenizer((rows, columns))
    padded = torch.zeros(ROWS, FRAMES, rows, columns, 3, dtype=torch.uint8)
    padded[:, :, : shape[0], : shape[1]] = frames
    latents = tokenizer.encode(frames)
    assert torch.equal(latents, whole.encode(padded))
    decoded = tokenizer.decode(latents)
    assert decoded.shape == (ROWS, FRAMES, *shape, 3)
    assert torch.equal(decoded, whole.decode(latents)[:, :, : shape[0], : shape[1]])


def test_pixels_go_to_the_place_they_come_from(tiny):
    tokenizer, frames = tiny.tokenizer((8, 12)), _frames((8, 12))
    patches = tokenizer._to_patches(frames)
    assert torch.allclose(patches[0, 0, 4], (frames[0, 0, 4:8, 4:8] / 255 - 0.5).flatten(), atol=1e-6)
    pattern = torch.randn(ROWS, FRAMES, 10, 16)
    tokenizer.decoder.forward = lambda *_, **__: pattern
    with torch.no_grad():
        expected = (tokenizer.pixels(pattern[0, 0, 4]) + 0.5).view(4, 4, 3)
        decoded = tokenizer.decode(torch.zeros(ROWS, FRAMES, tiny.latents, tiny.channels))
    assert torch.allclose(decoded[0, 0, 4:8, 4:8], expected, atol=1e-6)


def test_the_mean_picture_is_offset_of_input_and_output(tiny):
    tokenizer = tiny.tokenizer((6, 8))
    frames = _frames((6, 8), rows=1, frames=1)
    zero = torch.zeros(1, 1, tiny.latents, tiny.channels)
    before = tokenizer.decode(zero)
    tokenizer.set_mean(frames[0, 0] / 255)
    patches = tokenizer._to_patches(frames)
    assert torch.allclose(patches[0, 0, 0], torch.zeros(48), atol=1e-6)
    assert torch.allclose(tokenizer.decode(zero) - before, frames / 255 - 0.5, atol=1e-5)


def test_grid_start_makes_keys_equal_queries(tiny):
    tokenizer = tiny.tokenizer(grid_start=True, encoder={"kv_heads": 2})
    for block in tokenizer.encoder.blocks:
        query = block.attention.query.weight.unflatten(0, (4, 4))
        assert torch.equal(block.attention.key.weight.unflatten(0, (2, 4)), query[[0, 2]])
    # Tiny enlarges positions tenfold.
    assert torch.allclose(tokenizer.encoder_positions / 10, torch.cat([sine_grid(2, 2, 16)] * 2), atol=1e-6)
