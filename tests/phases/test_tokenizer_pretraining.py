"""The tokenizer's loss: masked input, error over all pixels, perceptual term on a share of the pictures, random crop."""

import pytest
import torch

from dreamer_ray.phases import tokenizer_pretraining
from dreamer_ray.phases.tokenizer_pretraining import TokenizerPretraining, shift
from dreamer_ray.types import Clip

ROWS, FRAMES = 3, 4


def _batch(tiny):
    frames = torch.randint(0, 256, (ROWS, FRAMES, 8, 8, 3), dtype=torch.uint8, generator=tiny.generator())
    return Clip(frames, tiny.clip(ROWS, FRAMES).notes)


def test_loss_without_a_mask_is_the_mean_squared_error(tiny):
    tokenizer, batch = tiny.tokenizer(mask_max=0.0), _batch(tiny)
    loss = TokenizerPretraining(tokenizer)(batch, generator=tiny.generator(), progress=0.0)
    with torch.no_grad():
        expected = (tokenizer.decode(tokenizer.encode(batch.frames)) - batch.frames / 255).square().mean()
    assert float(loss.metrics["mse"]) == pytest.approx(float(expected), rel=1e-5)
    assert set(TokenizerPretraining(tokenizer).weights) == {"mse"}


def test_patches_are_masked_in_training(tiny, monkeypatch):
    tokenizer, seen = tiny.tokenizer(mask_max=0.9), []
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda frames, masked: seen.append(masked) or encode(frames, masked=masked))
    TokenizerPretraining(tokenizer)(_batch(tiny), generator=tiny.generator(), progress=0.0)
    [masked] = seen
    assert masked.shape == (ROWS, FRAMES, 4)
    assert 0 < int(masked.sum()) < masked.numel()


def test_the_perceptual_term_takes_a_share_of_the_pictures(tiny, monkeypatch):
    seen = []

    def distance(decoded, truth):
        seen.append((decoded, truth))
        return (decoded - truth).abs().mean((1, 2, 3))

    monkeypatch.setattr(tokenizer_pretraining, "perceptual_distance", lambda *_, **__: distance)
    tokenizer, batch = tiny.tokenizer(perceptual="lpips_alex", perceptual_share=0.5, mask_max=0.0), _batch(tiny)
    phase = TokenizerPretraining(tokenizer)
    assert phase.weights == {"mse": 1.0, "perceptual": 0.2}
    loss = phase(batch, generator=tiny.generator(), progress=0.0)
    [(decoded, truth)] = seen
    assert decoded.shape == truth.shape == (6, 3, 8, 8)
    pictures = (batch.frames / 255).flatten(0, 1).movedim(-1, 1)
    chosen = [int((pictures == picture).flatten(1).all(1).nonzero()) for picture in truth]
    assert len(set(chosen)) == 6
    whole = tokenizer.decode(tokenizer.encode(batch.frames)).flatten(0, 1).movedim(-1, 1)
    assert torch.allclose(decoded, whole[chosen], atol=1e-5)
    assert float(loss.total) == pytest.approx(1.2, rel=1e-4)


def test_a_few_steps_lower_the_error(tiny):
    tokenizer, batch = tiny.tokenizer(mask_max=0.3), _batch(tiny)
    phase = TokenizerPretraining(tokenizer)
    optimizer, errors = torch.optim.Adam(tokenizer.parameters(), 3e-3), []
    for step in range(40):
        loss = phase(batch, generator=tiny.generator(step), progress=0.0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        errors.append(float(loss.metrics["mse"]))
    assert sum(errors[-5:]) < 0.6 * sum(errors[:5])


def test_random_crop_moves_all_frames_of_a_clip_alike_and_repeats_the_border():
    frames = torch.arange(40 * 2 * 6 * 5 * 3).remainder(256).to(torch.uint8).view(40, 2, 6, 5, 3)
    moved = shift(frames, 1, torch.Generator().manual_seed(0))
    assert moved.shape == frames.shape
    assert moved.dtype == torch.uint8
    found = set()
    for clip, after in zip(frames, moved, strict=True):
        offsets = [
            (y, x)
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
            if torch.equal(clip[:, (torch.arange(6) + y).clamp(0, 5)][:, :, (torch.arange(5) + x).clamp(0, 4)], after)
        ]
        assert len(offsets) == 1
        found.update(offsets)
    assert len(found) == 9
