"""Dreams and training steps at the size of Dreamer 4's largest model (about 1.6 billion weights), on one GPU, without Ray.

    python tests/bench/large.py interactive --json interactive.json     one world, K = 4, every frame decoded to 384 x 640
    python tests/bench/large.py imagine --worlds 16 --json imagine.json     the policy acts, heads judge, nothing is decoded
    python tests/bench/large.py train --json train.json     a step of dynamics pretraining, flow only

Each takes a few minutes, most of them for compiling. The paper gives no sizes but tokens; these add up to its number of weights. Weights
are random: speed does not depend on them. ``--size small --device cpu`` checks the script itself.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.imagination.tuning import DreamTuning, tune_dreams
from dreamer_ray.models.actions import no_actions
from dreamer_ray.models.agent import Agent, AgentConfig
from dreamer_ray.models.dynamics import Dynamics, DynamicsConfig
from dreamer_ray.models.tokenizer import Tokenizer, TokenizerConfig
from dreamer_ray.nn.transformer import TransformerConfig
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.training.optimizer import OptimizerConfig, make_optimizer
from dreamer_ray.training.parallel import Tuning, tune
from dreamer_ray.types import ActionSpace, Annotations, Binary, Categorical, LatentClip

SPACE: ActionSpace = {"keys": Binary(size=23), "mouse": Categorical(size=121)}
STEPS, GIVEN, REPEATS = 4, 8, 3
"""K; frames of context with which a world begins; repeats, interleaved, of which the median counts."""

log = logging.getLogger("large")


@dataclass(frozen=True)
class Size:
    """Sizes of one model."""

    dynamics: TransformerConfig
    decoder: TransformerConfig
    picture: tuple[int, int]
    latents: int
    registers: int
    product: int
    """Side of the matrices whose product stands for what the machine can do."""


SIZES = {
    "2b": Size(
        dynamics=TransformerConfig(width=1920, layers=30, heads=30, kv_heads=3, mlp_ratio=4, time_every=4, context=192),
        decoder=TransformerConfig(width=1024, layers=12, heads=16, kv_heads=16, mlp_ratio=4, time_every=4, context=192),
        picture=(384, 640),
        latents=512,
        registers=32,
        product=8192,
    ),
    "small": Size(
        dynamics=TransformerConfig(width=64, layers=4, heads=4, kv_heads=2, mlp_ratio=4, time_every=4, context=12),
        decoder=TransformerConfig(width=64, layers=4, heads=4, kv_heads=4, mlp_ratio=4, time_every=4, context=12),
        picture=(48, 80),
        latents=16,
        registers=4,
        product=512,
    ),
}


def models(size: Size, device: torch.device) -> tuple[Tokenizer, Agent]:
    """Random models on ``device``; the encoder, which nobody needs here, is as small as can be."""
    narrow = size.decoder.model_copy(update={"width": 64, "heads": 4, "kv_heads": 4, "layers": 1})
    tokenizer = TokenizerConfig(patch=16, latents=size.latents, channels=16, encoder=narrow, decoder=size.decoder, perceptual="none")
    dynamics = DynamicsConfig(transformer=size.dynamics, packing=2, registers=size.registers, k_max=64)
    with device:
        model = Dynamics(dynamics, latents=size.latents, channels=16, action_space=SPACE)
        return Tokenizer(tokenizer, size.picture), Agent(AgentConfig(), model, tasks=20)


def clip(size: Size, rows: int, frames: int, device: torch.device) -> LatentClip:
    """Made-up latents and actions."""
    actions = {"keys": torch.randint(0, 2, (rows, frames, 23)), "mouse": torch.randint(0, 121, (rows, frames))}
    some = torch.ones(rows, frames)
    notes = Annotations(actions, some.bool(), some * 0, some, torch.zeros(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.bool))
    return LatentClip(torch.rand(rows, frames, size.latents, 16) * 2 - 1, notes).to(device)


def dreams(options: argparse.Namespace, size: Size, device: torch.device) -> dict[str, object]:
    """Frames a second of one world that is played and decoded, or of many that the policy imagines."""
    tokenizer, agent = models(size, device)
    for model in (tokenizer, agent):
        model.requires_grad_(False).eval()
    played = options.piece == "interactive"
    rows = 1 if played else options.worlds
    sampling, no_commit = Sampling(steps=STEPS), Sampling(steps=STEPS, commit=False)
    plain = DreamEngine(agent.dynamics, slots=rows, agent=None if played else agent, tokenizer=tokenizer if played else None)
    plain.join(clip(size, rows, GIVEN, device), list(range(rows)), sampling=sampling)
    actions = no_actions(SPACE, rows, device)
    plain.dream(actions, sampling=sampling)  # from the next frame on one commit goes with each
    with FlopCounterMode(display=False) as operations:
        plain.dream(actions, sampling=sampling)
    del plain
    tuning = DreamTuning(precision=options.precision, compile=not options.eager, graph=device.type == "cuda" and not options.eager)
    for model in (tokenizer, agent):
        tune_dreams(model, tuning)
    jobs: dict[str, Callable[[], object]] = {}
    peak, formula = None, 0
    kinds = {"whole": (sampling, played), "no commit": (no_commit, played)} | ({"no decode": (sampling, False)} if played else {})
    for name, (chosen, decoded) in kinds.items():
        engine = DreamEngine(
            agent.dynamics, slots=rows, agent=None if played else agent, tokenizer=tokenizer if decoded else None, graph=tuning.graph
        )
        engine.join(clip(size, rows, GIVEN, device), list(range(rows)), sampling=chosen)
        jobs[name] = _frame(engine, chosen, actions)
        formula = formula or engine.memory()
        if name == "whole" and device.type == "cuda":
            jobs[name]()  # compiles and records
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            jobs[name]()
            peak = torch.cuda.max_memory_allocated() / 2**30
    seconds = _medians(jobs, options.seconds, device)
    rates = {name: rows / value for name, value in seconds.items()}
    reached = operations.get_total_flops() / seconds["whole"]
    memory = {"peak_gib": peak, "memory_gib": formula / 2**30}
    return {"frames_per_second": rates, "operations_per_second": reached, "worlds": rows} | memory


def _frame(engine: DreamEngine, sampling: Sampling, actions: dict[str, torch.Tensor]) -> Callable[[], object]:
    return lambda: engine.dream(actions if engine.agent is None else engine.act(sampling=sampling), sampling=sampling)


def train(options: argparse.Namespace, size: Size, device: torch.device) -> dict[str, object]:
    """Seconds of a step, and the operations of its products and attention (three times those of the forward pass) a second."""
    _, agent = models(size, device)
    phase = DynamicsPretraining(agent.dynamics, ForcingConfig(bootstrap_fraction=0.0, image_fraction=0.0))
    tuning = Tuning(compile=not options.eager, recompute=options.recompute, precision=options.precision)
    generator = torch.Generator().manual_seed(0)
    counted, batch = clip(size, 1, GIVEN, device), clip(size, options.rows, options.frames, device)
    with FlopCounterMode(display=False) as operations, torch.no_grad(), tuning.autocast(device):
        phase(counted, generator=generator, progress=0.5)
    tune(phase, tuning)
    optimizer = make_optimizer(phase, OptimizerConfig(learning_rate=1e-4))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with tuning.autocast(device):
            loss = phase(batch, generator=generator, progress=0.5).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(phase.parameters(), 1.0)
        optimizer.step()

    seconds = _medians({"step": step}, options.seconds, device)["step"]
    frames = options.rows * options.frames
    done = 3 * operations.get_total_flops() * frames / GIVEN
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"seconds": seconds, "rows": options.rows, "frames": options.frames, "operations_per_second": done / seconds, "peak_gib": peak}


def _medians(jobs: dict[str, Callable[[], object]], seconds: float, device: torch.device) -> dict[str, float]:
    """Median seconds of each job over interleaved repeats of ``seconds`` each."""

    def timed(job: Callable[[], object], count: int) -> float:
        _wait(device)
        begun = time.perf_counter()
        for _ in range(count):
            job()
        _wait(device)
        return (time.perf_counter() - begun) / count

    counts = {}
    for name, job in jobs.items():
        begun = time.perf_counter()
        timed(job, 3)
        log.info("%s: warm after %.0f s", name, time.perf_counter() - begun)
        counts[name] = max(1, round(seconds / timed(job, 3)))
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(REPEATS):
        for name, job in jobs.items():
            found[name].append(timed(job, counts[name]))
            log.info("repeat %d/%d  %s  %.2f ms", repeat + 1, REPEATS, name, 1e3 * found[name][-1])
    return {name: statistics.median(values) for name, values in found.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def machine(size: Size, precision: str, device: torch.device) -> dict[str, object]:
    """Name, and what a product of big matrices and a copy reach."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    matrix, big = (torch.randn(side, side, dtype=dtype, device=device) for side in (size.product, 2 * size.product))
    target = torch.empty_like(big)
    taken = _medians({"product": lambda: matrix @ matrix, "copy": lambda: target.copy_(big)}, 1.0, device)
    return {
        "name": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "operations_per_second": 2 * size.product**3 / taken["product"],
        "bytes_per_second": 2 * big.numel() * big.element_size() / taken["copy"],
    }


def main() -> None:
    """Measures one piece."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=("interactive", "imagine", "train"))
    parser.add_argument("--size", choices=list(SIZES), default="2b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=("bf16", "fp32", "fp8"), default="bf16", help="fp8: dreams only")
    parser.add_argument("--eager", action="store_true", help="neither compiled nor recorded as a CUDA graph")
    parser.add_argument("--worlds", type=int, default=16, help="imagine: how many at once")
    parser.add_argument("--rows", type=int, default=1, help="train: sequences of a batch")
    parser.add_argument("--frames", type=int, default=64, help="train: frames of a sequence")
    parser.add_argument("--recompute", action="store_true", help="train: keep only what enters each block")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each repeat")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    if options.piece == "train" and options.precision == "fp8":
        parser.error("--precision fp8 is for dreams; train in bf16 or fp32")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s")
    torch.manual_seed(0)
    size, device = SIZES[options.size], torch.device(options.device)
    able = machine(size, options.precision, device)
    found = train(options, size, device) if options.piece == "train" else dreams(options, size, device)
    reached = float(str(found["operations_per_second"])) / float(str(able["operations_per_second"]))
    found |= {"share_of_product": reached, "machine": able, "arguments": {k: str(v) for k, v in vars(options).items()}}
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)


if __name__ == "__main__":
    main()
