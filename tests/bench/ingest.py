"""What the way from a video to shards and latents costs, against the least that it could: loops over PyAV and the tokenizer alone.

    python tests/bench/ingest.py VIDEO.mp4 [VIDEO.mp4 ...] [--shape 96 160] [--repeats 5]
    python tests/bench/ingest.py --files 10 1000

The first form prints frames a second on one thread, all kinds taking turns; the second the peak memory of an ingest of so many files.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter

from dreamer_ray.data.codecs import H264, Jpeg
from dreamer_ray.data.coding import code_pictures
from dreamer_ray.data.ingest import ingest_plan, make_file
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.open_source import open_sources
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.data.video import pictures
from dreamer_ray.models.tokenizer import Tokenizer, TokenizerConfig
from dreamer_ray.nn.transformer import TransformerConfig
from dreamer_ray.stages import encode_episode

EPISODE = 600
RATIOS = {
    "decode and resize": ("decode and resize, ours", "decode and resize, bare PyAV", 0.85),
    "encode": ("encode_episode", "tokenizer forward, bare", 0.90),
}


def bare(path: Path, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Decoded and resized by PyAV alone."""
    scaler = VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            yield scaler.reformat(frame, shape[1], shape[0], "rgb24", interpolation=Interpolation.AREA, threads=1).to_ndarray()


def count(frames: Iterator[np.ndarray]) -> int:
    """Takes them all."""
    return sum(1 for _ in frames)


def ingested(video: Path, layout: PictureLayout, folder: Path) -> int:
    """Frames of a whole ingest of one video."""
    source = {"source": {"kind": "videos", "path": str(video.parent)}}
    config = RecordingsConfig.model_validate(
        {"sources": (source,), "layout": layout, "codec": H264(), "episode_frames": EPISODE, "max_bad_fraction": 1.0}
    )
    job = next(job for job in ingest_plan(config).jobs if job.recording.name.startswith(video.stem))
    file = make_file(config, open_sources(config)[0], ingest_plan(config).schema, job, folder)
    assert not isinstance(file, str), file
    (folder / file.name).unlink()
    return file.frames


def tokenizer(shape: tuple[int, int]) -> Tokenizer:
    """Of about the tiny recipe's size."""
    torch.manual_seed(0)
    part = TransformerConfig(width=192, layers=4, heads=4, kv_heads=4, mlp_ratio=3.0, time_every=4, context=8)
    config = TokenizerConfig(patch=16, latents=32, channels=16, encoder=part, decoder=part, perceptual="none")
    return Tokenizer(config, shape).requires_grad_(False)


def speed(videos: list[Path], shape: tuple[int, int], repeats: int) -> None:
    """Prints medians over all videos and repeats."""
    layout, model = PictureLayout(shape=shape, fit="stretch"), tokenizer(shape)
    with tempfile.TemporaryDirectory() as folder:

        def forward(frames: np.ndarray) -> int:
            for first, stop in pairwise([*range(0, len(frames), 128), len(frames)]):
                model.encode(torch.from_numpy(frames[first:stop]).unsqueeze(0))
            return len(frames)

        def one(video: Path) -> dict[str, Callable[[], int]]:
            shown = np.stack(list(bare(video, shape)))[:256]
            return {
                "decode and resize, bare PyAV": lambda: count(bare(video, shape)),
                "decode and resize, ours": lambda: count(pictures(str(video), layout=layout)),
                "decode, resize, H.264": lambda: len(
                    code_pictures(pictures(str(video), layout=layout), H264(), shape=shape, fps=20).payload
                ),
                "decode, resize, JPEG": lambda: len(
                    code_pictures(pictures(str(video), layout=layout), Jpeg(), shape=shape, fps=20).payload
                ),
                "a whole ingest to H.264": lambda: ingested(video, layout, Path(folder)),
                "tokenizer forward, bare": lambda: forward(shown),
                "encode_episode": lambda: len(encode_episode(model, shown)),
            }

        rates: dict[str, list[float]] = {}
        for video in videos:
            kinds = one(video)
            for repeat in range(repeats):
                for kind, work in kinds.items():
                    begun = time.perf_counter()
                    frames = work()
                    rates.setdefault(kind, []).append(frames / (time.perf_counter() - begun))
                sys.stderr.write(f"{video.name} {repeat + 1}/{repeats}\n")
    middle = {kind: statistics.median(found) for kind, found in rates.items()}
    for kind, rate in middle.items():
        print(f"{kind:36} {rate:8.1f} frames/s")
    missed = []
    for name, (ours, bare_kind, wanted) in RATIOS.items():
        ratio = middle[ours] / middle[bare_kind]
        missed += [name] * (ratio < wanted)
        print(f"{name}: {ratio:.3f} of the bare loop (wanted at least {wanted})")
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


def memory(files: int) -> None:
    """Ingests ``files`` copies of a video of 15 seconds, in this process, and prints its peak."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        first = folder / "in" / "00000.mp4"
        with av.open(str(first), "w") as container:
            stream = container.add_stream("libx264", rate=20, options={"preset": "ultrafast"})
            stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
            for number in range(300):
                shown = np.full((96, 160, 3), number % 256, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            container.mux(stream.encode(None))
        for number in range(1, files):
            (folder / "in" / f"{number:05}.mp4").hardlink_to(first)
        source = {"source": {"kind": "videos", "path": str(folder / "in")}}
        config = RecordingsConfig.model_validate({"sources": (source,), "layout": PictureLayout(shape=(48, 80)), "episode_frames": EPISODE})
        plan, (reader,) = ingest_plan(config), open_sources(config)
        for job in plan.jobs:
            assert not isinstance(make_file(config, reader, plan.schema, job, folder / job.split), str)
    print(f"{files:5} files: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="*")
    parser.add_argument("--shape", type=int, nargs=2, default=(96, 160))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--files", type=int, nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.videos:
        speed(options.videos, tuple(options.shape), options.repeats)
    if len(options.files) == 1:
        memory(options.files[0])
    elif options.files:
        for files in options.files:  # a process each, since a peak never falls
            subprocess.run([sys.executable, __file__, "--files", str(files)], check=True)


if __name__ == "__main__":
    main()
