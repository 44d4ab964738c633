"""What stages do with recorded episodes: encoding in chunks, the mean picture."""

import numpy as np
import pytest
import torch

from dreamer_ray.errors import RunError, UserError
from dreamer_ray.stages import SPLITS, check_inputs, encode_episode, mean_frame
from dreamer_ray.training.checkpoint import save_checkpoint


def test_chunks_of_an_episode_are_encoded_as_one_pass_would(tiny):
    tokenizer = tiny.tokenizer(encoder={"layers": 4, "time_every": 2, "context": 3}).eval()
    frames = torch.randint(0, 256, (23, 8, 8, 3), generator=tiny.generator(), dtype=torch.uint8)
    with torch.no_grad():
        whole = tokenizer.encode(frames.unsqueeze(0))[0].numpy()
        alone = tokenizer.encode(frames[10:].unsqueeze(0))[0].numpy()
    assert np.abs(alone[0] - whole[10]).max() > 1e-2, "the past matters"
    for chunk in (1, 5, 10, 23, 100):
        assert np.abs(encode_episode(tokenizer, frames.numpy(), chunk) - whole).max() < 2e-3, chunk


def test_the_mean_frame_is_that_of_all_frames_or_of_evenly_spaced_ones(tmp_path, sets):
    source = sets.make(tmp_path, (3, 8, 5))
    frames = [source.read_episode(i).frames for i in range(len(source.episodes))]
    everything = np.concatenate(frames).mean(0, dtype=np.float64) / 255
    assert np.allclose(mean_frame(source, samples=10**6).numpy(), everything, atol=1e-6)
    firsts = np.stack([episode[0] for episode in frames]).mean(0, dtype=np.float64) / 255
    assert np.allclose(mean_frame(source, samples=3).numpy(), firsts, atol=1e-6)
    assert np.allclose(mean_frame(source, samples=1).numpy(), frames[0][0] / 255, atol=1e-6), "no more episodes are read than needed"


def test_pictures_are_taken_a_chunk_ahead_and_no_more(tiny):
    tokenizer = tiny.tokenizer(encoder={"layers": 4, "time_every": 2, "context": 3}).eval()
    taken, most_ahead, encoded = [], [], tokenizer.encode

    def encode(frames):
        most_ahead.append(len(taken) - sum(counts))
        counts.append(frames.shape[1])
        return encoded(frames)

    counts: list[int] = []
    tokenizer.encode = encode
    frames = (taken.append(t) or np.full((8, 8, 3), t, np.uint8) for t in range(60))
    assert encode_episode(tokenizer, frames, chunk=10).shape == (60, tiny.latents, tiny.channels)
    assert counts == [10, 14, 14, 14, 14, 14], "with the four frames before that reach into each"
    assert max(most_ahead) <= 20


def _spoil(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)


def test_damaged_inputs_are_named(tmp_path, sets):
    for split in SPLITS:
        sets.make(tmp_path / "record" / split, (3, 8))
    checkpoint = save_checkpoint(tmp_path / "dynamics" / "checkpoints", 5, made_by={}, tensors={"weights": {"w": torch.zeros(64)}})
    check_inputs(tmp_path, ["record", "dynamics"])
    with pytest.raises(RunError, match="holds no checkpoint; run the stage agent first"):
        check_inputs(tmp_path, ["agent"])
    _spoil(checkpoint.path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors: SHA-256"):
        check_inputs(tmp_path, ["record", "dynamics"])
    _spoil(next((tmp_path / "record" / "heldout").glob("*.parquet")))
    with pytest.raises(UserError, match=r"heldout.*\.parquet: SHA-256"):
        check_inputs(tmp_path, ["record"])
