"""How well small things are read from the latents of a tokenizer: the number of wood and of stone in the pack of Crafter's player.

    python tests/bench/digits.py RUN ...

Of each run folder, the tokenizer. The scripted player plays 80 worlds; a small network learns the number (0, 1, 2, more) from the
latents of 60 of them and is tried on the frames of the other 20. What this network reads badly may be hard for a reward
head too, which sees several frames. A dash stands for a number that no frame has.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dreamer_ray.doctor import recipe_of
from dreamer_ray.envs.crafter import CrafterConfig, CrafterEnv
from dreamer_ray.envs.crafter_player import ScriptedPlayer
from dreamer_ray.envs.crafter_scene import Scene
from dreamer_ray.evaluation.passes import in_passes
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.stages import trained
from dreamer_ray.training.restore import restore_tokenizer

ITEMS, COUNTS = ("wood", "stone"), 4
FIRST_WORLD, LEARNED, TRIED, STEPS = 7_550_000, 60, 20, 110
"""Worlds among those of the doctor, and steps of an episode."""
NOISE = (0.0, 0.05, 0.3)


def played(seeds: range, size: int) -> tuple[Tensor, Tensor]:
    """Frames uint8 ``[n y x 3]`` and how many of each item the player had, ``[n items]``, at most ``COUNTS - 1``."""
    frames, counts = [], []
    for seed in seeds:
        env = CrafterEnv(CrafterConfig(size=size))
        frame, _ = env.reset(seed=seed)
        player, ended = ScriptedPlayer(np.random.default_rng(seed), NOISE[seed % len(NOISE)], attempts=0.1), False
        for _ in range(STEPS):
            have = Scene(env.state()).have
            frames.append(frame.copy())
            counts.append([min(COUNTS - 1, have[item]) for item in ITEMS])
            frame, _, ended, _, _ = env.step(player.act(env))
            if ended:
                break
    return torch.from_numpy(np.stack(frames)), torch.tensor(counts)


def confusion(learned: tuple[Tensor, Tensor], tried: tuple[Tensor, Tensor]) -> Tensor:
    """How many frames of ``tried`` with each number are read as each, ``[truth read]``, by a network that saw those of ``learned``."""
    torch.manual_seed(0)
    middle, spread = learned[0].mean(0), learned[0].std(0) + 1e-3
    latents, unseen = ((each - middle) / spread for each in (learned[0], tried[0]))
    network = nn.Sequential(nn.Linear(latents.shape[1], 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, COUNTS))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    for _ in range(1500):
        rows = torch.randint(len(latents), (256,))
        optimizer.zero_grad()
        cross_entropy(network(latents[rows]), learned[1][rows]).backward()
        optimizer.step()
    read = network.eval()(unseen).argmax(1)
    return torch.bincount(tried[1] * COUNTS + read, minlength=COUNTS**2).view(COUNTS, COUNTS)


def main() -> None:
    """Prints a line for each tokenizer and item."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    runs = parser.parse_args().runs
    recipes = {run: recipe_of(run) for run in runs}
    if other := [str(run) for run, recipe in recipes.items() if recipe.data.crafter is None]:
        raise SystemExit(f"{', '.join(other)}: not of Crafter, whose player is played here")
    sizes = {run: recipe.data.frame_shape[0] for run, recipe in recipes.items()}
    worlds = range(FIRST_WORLD, FIRST_WORLD + LEARNED), range(FIRST_WORLD + LEARNED, FIRST_WORLD + LEARNED + TRIED)
    frames = {size: [played(seeds, size) for seeds in worlds] for size in {*sizes.values()}}
    print(f"{'tokenizer':40} {'item':6} read rightly of 0, 1, 2, more   one read as more")
    for run in runs:
        learned, tried = ((_latents(restore_tokenizer(trained(run, "tokenizer")), seen), had) for seen, had in frames[sizes[run]])
        for place, item in enumerate(ITEMS):
            found = confusion((learned[0], learned[1][:, place]), (tried[0], tried[1][:, place])).double()
            shares = found / found.sum(1, keepdim=True)
            more = float(shares[1, 2:].sum())
            rightly = "  ".join("-" if math.isnan(share) else f"{share:.2f}" for share in shares.diag().tolist())
            print(f"{run!s:40} {item:6} {rightly:30} {'-' if math.isnan(more) else f'{more:.2f}'}")


def _latents(tokenizer: Tokenizer, frames: Tensor) -> Tensor:
    return in_passes(tokenizer, lambda rows: tokenizer.encode(rows[:, None])[:, 0].flatten(1), frames)


if __name__ == "__main__":
    main()
