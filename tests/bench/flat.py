"""What a dreamed frame costs after 32, 200 and 1,000 frames, at the shape of peers.py: neither time nor memory may grow.

    python tests/bench/flat.py [--worlds 16] [--threads 2]

The three worlds take turns; they stand at different places of their rings.
"""

import argparse
import resource
import statistics
import sys
import time

import torch
from peers import ACTIONS, matched_dynamics, random_clip

from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.sampler import Sampling

DREAMED, TIMED, REPEATS = (32, 200, 1000), 16, 7


def main() -> None:
    """Prints milliseconds a frame after each number of frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dynamics = matched_dynamics().requires_grad_(False)
    context, engines, peak = random_clip(options.worlds, 16), {}, {}

    def dream(engine: DreamEngine, frames: int, steps: int = 4) -> float:
        begun = time.perf_counter()
        for _ in range(frames):
            engine.dream({"action": torch.randint(0, ACTIONS, (options.worlds,))}, sampling=Sampling(steps=steps))
        return (time.perf_counter() - begun) / frames

    for frames in DREAMED:
        engines[frames] = DreamEngine(dynamics, slots=options.worlds)
        engines[frames].join(context, list(range(options.worlds)))
        dream(engines[frames], frames, steps=1)
        peak[frames] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found: dict[int, list[float]] = {frames: [] for frames in DREAMED}
    for repeat in range(REPEATS):
        for frames, engine in engines.items():
            found[frames].append(dream(engine, TIMED))
            sys.stderr.write(f"repeat {repeat + 1}/{REPEATS}  after {frames}: {1e3 * found[frames][-1]:.1f} ms a frame\n")
    for frames, seconds in found.items():
        print(f"after {frames:5} frames  {1e3 * statistics.median(seconds):6.1f} ms a frame  peak so far {peak[frames]:.0f} MiB")


if __name__ == "__main__":
    main()
