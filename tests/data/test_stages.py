"""What stages do with recorded episodes: encoding in chunks, the mean picture."""

import numpy as np
import torch

from dreamer_ray.stages import encode_episode, mean_frame


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
    assert np.allclose(mean_frame(source, samples=1).numpy(), firsts, atol=1e-6)
