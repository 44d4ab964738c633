"""Ray Data feeds a learner worker: which clips a step takes is known beforehand, so the stream is a map over step numbers.

    step numbers --Ray Data tasks: read, decode, stack--> a window of batches, in order --> the worker's fit
                                                          the next window is loaded meanwhile

Each worker streams the rows of its own rank; resuming means starting at a later number. A window is a data set of its own that fits into
the object store, because Ray Data's executor, once its output is held back by a slow consumer, spins: one endless stream took a whole core
and the interpreter's lock, and made training on two cores five times slower.

Waits for loaders have no limit here. A step that does not come ends its worker with its loaders (``heartbeat.py``), or its learner
(``imagine.py``), and the next one loads anew.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
import torch
from ray.data import DataContext, TaskPoolStrategy
from safetensors.torch import load as unpack_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor

from dreamer_ray.distributed.demand import loader_cpus
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import Feed, feed
from dreamer_ray.types import Annotations, Clip, LatentClip

STEPS_PER_BLOCK = 16
WINDOW_BYTES = 32 * 2**20
"""Size of a window, of which two at most lie in the object store."""
MOST_STEPS = 256


def stream(stage: str, recipe: Recipe, run: Path, *, steps: int, rank: int, world: int) -> Callable[[int], Iterator[Clip | LatentClip]]:
    """The batches of ``rank`` from a given step on, loaded by Ray Data tasks."""
    text, cpus = recipe.model_dump_json(), loader_cpus(recipe.cluster, stage)

    def window(first: int, count: int) -> list[Any]:
        context = DataContext.get_current()
        context.execution_options.preserve_order, context.raise_original_map_exception = True, True
        numbers = ray.data.from_items(list(range(first, first + count)), override_num_blocks=-(-count // STEPS_PER_BLOCK))

        def read(rows: Any) -> Any:
            torch.set_num_threads(1)
            source = _feed(stage, text, str(run))
            return {"batch": np.array([pack(source.load(int(step), rank=rank, world=world)) for step in rows["item"]], dtype=object)}

        loaded = numbers.map_batches(read, batch_size=STEPS_PER_BLOCK, compute=TaskPoolStrategy(size=1), num_cpus=cpus)
        return loaded.to_arrow_refs()

    def batches(start: int) -> Iterator[Clip | LatentClip]:
        with ThreadPoolExecutor(1) as ahead:
            first, count = start, min(STEPS_PER_BLOCK, steps - start)
            coming = ahead.submit(window, first, count)
            while count:
                blocks = coming.result()
                data = _read(blocks.pop(0))
                first, count = first + count, min(_window_steps(len(data[0])), steps - first - count)
                if count:
                    coming = ahead.submit(window, first, count)
                yield from map(unpack, data)
                while blocks:
                    yield from map(unpack, _read(blocks.pop(0)))

    return batches


def _read(block: Any) -> list[bytes]:
    table: Any = ray.get(block)
    return table["batch"].to_pylist()


def _window_steps(bytes_a_step: int) -> int:
    return max(1, min(MOST_STEPS, WINDOW_BYTES // bytes_a_step))


@lru_cache(maxsize=1)
def _feed(stage: str, recipe: str, run: str) -> Feed:
    return feed(stage, Recipe.model_validate_json(recipe), Path(run))


def pack(batch: Clip | LatentClip) -> bytes:
    """A batch as safetensors bytes, the form in which it crosses process borders: shapes may differ from step to step."""
    notes = batch.notes
    tensors = {f"actions.{name}": value for name, value in notes.actions.items()}
    tensors |= {name: getattr(notes, name) for name in ("labelled", "rewards", "continues", "task", "relevant")}
    tensors |= {} if notes.enrichment is None else {"enrichment": notes.enrichment}
    tensors |= {"frames": batch.frames} if isinstance(batch, Clip) else {"latents": batch.latents}
    return pack_tensors({name: value.contiguous() for name, value in tensors.items()})


def unpack(data: bytes) -> Clip | LatentClip:
    """The inverse of ``pack``."""
    tensors: dict[str, Tensor] = unpack_tensors(data)
    actions = {name.removeprefix("actions."): tensors.pop(name) for name in list(tensors) if name.startswith("actions.")}
    pictures, codes = tensors.pop("frames", None), tensors.pop("latents", None)
    notes = Annotations(actions=actions, **tensors)
    if pictures is not None:
        return Clip(pictures, notes)
    assert codes is not None
    return LatentClip(codes, notes)
