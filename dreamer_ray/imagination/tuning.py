"""What makes dreams faster, chosen from outside: low precision, packed weights, compiled passes, the kernels of a frame started at once."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from dreamer_ray.config import Config
from dreamer_ray.errors import UserError
from dreamer_ray.nn.columns import Columns
from dreamer_ray.nn.float8 import MULTIPLE, Float8Columns
from dreamer_ray.nn.packed import PackedColumns
from dreamer_ray.nn.transformer import Transformer
from dreamer_ray.types import Batch

log = logging.getLogger("dreamer_ray")

WARM_UPS = 2
"""Runs before a recording: kernels are compiled and chosen in them."""


class DreamTuning(Config):
    """Switches for the speed of dreams; the formulas stay, results change by rounding."""

    precision: Literal["fp32", "bf16", "fp8"] = "fp32"
    """Of the transformers: their weights, what goes from block to block, and the caches. Noise, frames and heads stay fp32.

    With fp8 they are bf16, but the matrix products of a block's pass over a frame multiply eight-bit numbers (for GPUs that do:
    compute capability 8.9 or more), whose weights are kept beside those of the contexts' pass.
    """
    compile: bool = False
    """The passes over a frame are compiled (``torch.compile``; on a CPU that needs a C++ compiler) when they first run.

    Each as a whole, or block by block where a ``graph`` starts them: that compiles faster and is as fast then.
    """
    graph: bool = False
    """All kernels of a frame are recorded as one CUDA graph and started together. Only on a GPU."""

    def on(self, device: str) -> "DreamTuning":
        """As much of it as ``device`` can do: a CPU records no graph and has bf16 in the place of fp8."""
        if device != "cpu":
            return self
        return self.model_copy(update={"graph": False, "precision": "bf16" if self.precision == "fp8" else self.precision})


def tune_dreams(model: nn.Module, tuning: DreamTuning) -> None:
    """Sets compilation and precision of all transformers of ``model``; caches and engines are made after it.

    Raises ``UserError`` where fp8 is asked for and a transformer has widths that are no multiples of 16.
    """
    if tuning.compile:
        log.info("dream engine: passes over a frame are compiled at their first call, which takes up to some minutes")
    for module in model.modules():
        if isinstance(module, Transformer):
            module.compiled = None if not tuning.compile else "blocks" if tuning.graph else "whole"
            module.columns = Float8Columns if tuning.precision == "fp8" else Columns
            if module.columns is Float8Columns and (odd := [width for width in module.config.product_widths() if width % MULTIPLE]):
                raise UserError(
                    f"precision = fp8: the matrices of a transformer have a side of {odd[0]}, no multiple of {MULTIPLE}; use bf16"
                )
            if tuning.precision != "fp32":
                module.to(torch.bfloat16)


def lay_out(model: nn.Module | None) -> None:
    """Chooses packed weights for the transformers of ``model`` whose passes are not of eight bits, where these serve."""
    for module in () if model is None else model.modules():
        if isinstance(module, Transformer) and module.columns is not Float8Columns:
            module.columns = PackedColumns if PackedColumns.serves(module.norm.weight) else Columns


Given = TypeVar("Given", bound=Batch)
Made = TypeVar("Made", bound=Batch)


class Recording(Generic[Given, Made]):
    """A function whose kernels were recorded once as a CUDA graph: every call starts them again, on the values of the call.

    The function may change memory that it finds, such as a ring, if a run that begins with the ``clocks`` of another one does the same
    again. Shapes must not change; no call may wait for the GPU. Recordings of one ``pool`` share their temporary memory: what they make
    is copied at once.
    """

    def __init__(self, function: Callable[[Given], Made], given: Given, *, clocks: Sequence[Tensor], pool: Any):
        self.device = clocks[0].device
        with torch.cuda.device(self.device):
            self._record(function, given, clocks, pool)

    def _record(self, function: Callable[[Given], Made], given: Given, clocks: Sequence[Tensor], pool: Any) -> None:
        log.info("dream engine: a frame's kernels are being compiled and recorded")
        begun = time.monotonic()
        self.given, before = given.map(torch.clone), [clock.clone() for clock in clocks]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(self.given)
                for clock, value in zip(clocks, before, strict=True):
                    clock.copy_(value)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.made = function(self.given)
        log.info("dream engine: a frame's kernels compiled and recorded in %.0f s", time.monotonic() - begun)

    def __call__(self, given: Given) -> Made:
        for mine, its in zip(self.given.tensors(), given.tensors(), strict=True):
            mine.copy_(its)
        with torch.cuda.device(self.device):
            self.graph.replay()
            return self.made.map(torch.clone)
