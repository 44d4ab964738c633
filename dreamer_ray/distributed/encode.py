"""Encoding: Ray Data hands out shard files, its actors turn pictures into latents; a file that is there is never made again.

file numbers --Ray Data--> a pool of Encoder actors (each keeps the tokenizer) --> latent files --> statistics and manifest, last
"""

import faulthandler
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.data
import torch
from ray.data import ActorPoolStrategy

from dreamer_ray.data.shards import ShardFile, open_shards
from dreamer_ray.distributed import LOST
from dreamer_ray.distributed.cluster import require
from dreamer_ray.distributed.failures import in_a_line
from dreamer_ray.distributed.heartbeat import STDERR
from dreamer_ray.encoding import commit_encoding, encode_file, open_encoder
from dreamer_ray.errors import RunError
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import SPLITS

log = logging.getLogger("dreamer_ray")

IN_FLIGHT, MOST_LOSSES = 2, 10
"""Files that an actor has at most, and how often a file may lose its actor; not with nodes that Ray says were taken away."""
SILENT_SECONDS = 120.0
"""Without a file after which that is said, and between two such lines."""


def encode(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Encodes both splits of ``run/record`` into ``run/encode``; returns figures for the stage's manifest."""
    require(recipe, "encode", "CPU")
    sources = {split: open_shards(run / "record" / split) for split in SPLITS}
    cluster = recipe.cluster
    rows = [{"split": split, "file": number} for split in SPLITS for number in range(len(sources[split].files))]
    progress = Progress("encode", sum(int(source.lengths.sum()) for source in sources.values()), "frames")
    encoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Encoder,  # pyright: ignore[reportArgumentType] - Ray takes a class whose instances are callable
        fn_constructor_args=(str(run), cluster.replica_device, cluster.job_seconds),
        compute=ActorPoolStrategy(size=min(cluster.replicas, len(rows)), max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=1,
        num_gpus=cluster.gpus_per_replica or None,
        max_task_retries=MOST_LOSSES - 1,
    )
    files: dict[str, list[ShardFile]] = {split: [] for split in SPLITS}
    frames = 0
    try:
        with silence_told() as came:
            for row in encoded.iter_rows():
                came()
                files[row["split"]].append(ShardFile.model_validate_json(row["entry"]))
                frames += files[row["split"]][-1].frames
                progress.update(frames, {})
    except LOST as error:
        raise RunError(
            f"encode: a file lost its actor {MOST_LOSSES} times (last: {in_a_line(error)}); if one takes longer than cluster.job_seconds = "
            f"{cluster.job_seconds:g} raise the key, else see the Ray dashboard; run again to go on, the files that are there are kept"
        ) from error
    commit_encoding(run, files)
    return {"frames": frames}


@contextmanager
def silence_told() -> Iterator[Callable[[], None]]:
    """Says now and then that no file has come for long; yields what is called as one comes.

    Ray Data waits for room without a word and without end.
    """
    ended, heard = threading.Event(), time.monotonic()

    def came() -> None:
        nonlocal heard
        heard = time.monotonic()

    def look() -> None:
        while not ended.wait(SILENT_SECONDS):
            if (silent := time.monotonic() - heard) >= SILENT_SECONDS:
                log.warning(
                    "encode: no file has come for %.0f s; `ray status` shows what takes the CPUs and GPUs. An actor that hangs in a file "
                    "starts again after cluster.job_seconds",
                    silent,
                )

    threading.Thread(target=look, name="silence", daemon=True).start()
    try:
        yield came
    finally:
        ended.set()


class Encoder:
    """Turns the pictures of shard files into latents; one stands in each actor of the pool, with the tokenizer."""

    def __init__(self, run: str, device: str, seconds: float):
        torch.set_num_threads(1)
        self.opened, self.seconds = open_encoder(Path(run), device), seconds

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The entry of the latents of file number ``row["file"]`` of ``row["split"]``.

        Takes at most ``seconds``: then the process ends, says in its log where it hung, and Ray Data gives the file to another one.
        """
        faulthandler.dump_traceback_later(self.seconds, file=STDERR, exit=True)
        try:
            entry = encode_file(self.opened, row["split"], row["file"])
        finally:
            faulthandler.cancel_dump_traceback_later()
        return {"split": row["split"], "entry": entry.model_dump_json()}
