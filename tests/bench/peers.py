"""Speed beside the fastest peers at one matched shape on a CPU: imagined frames a second, and the training step.

    python tests/bench/peers.py --hansen CLONE --lucidrains PYTHON --json FILE

CLONE is a checkout of github.com/nicklashansen/dreamer4, PYTHON an interpreter with the packages dreamer4==0.20.2,
discrete-continuous-embed-readout==0.2.10 and the same torch. Either may be left out. Every competitor is a process of its own that
waits while another is measured; repeats are interleaved and medians compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

WIDTH, LAYERS, HEADS, TIME_EVERY = 256, 8, 4, 4
LATENTS, CHANNELS, REGISTERS, ACTIONS = 16, 32, 4, 17
STEPS, CONTEXT, NEW, TRAIN_ROWS, TRAIN_FRAMES = 4, 16, 16, 4, 16

LEAST_SECONDS = 4.0
"""A repeat is the mean of as many runs as fit into this time: short runs after a pause are slower."""

Job = Callable[[], object]


def matched_dynamics(*, plain: bool = False):
    """Our model of the matched shape; ``plain`` has the features of the fastest peer: no soft-cap, no rotary positions in space."""
    from dreamer_ray.models.dynamics import Dynamics, DynamicsConfig
    from dreamer_ray.nn.transformer import TransformerConfig
    from dreamer_ray.types import Categorical

    transformer = TransformerConfig(
        width=WIDTH, layers=LAYERS, heads=HEADS, kv_heads=HEADS, mlp_ratio=8 / 3, time_every=TIME_EVERY, context=CONTEXT,
        rope=not plain, soft_cap=None if plain else 50.0,
    )  # fmt: skip
    # One register more than the peers: theirs has a token for tau and one for d, ours one for both.
    config = DynamicsConfig(transformer=transformer, packing=1, registers=REGISTERS + 1)
    return Dynamics(config, latents=LATENTS, channels=CHANNELS, action_space={"action": Categorical(size=ACTIONS)})


def random_clip(rows: int, frames: int):
    """Made-up latents and actions."""
    import torch

    from dreamer_ray.types import Annotations, LatentClip

    notes = Annotations(
        actions={"action": torch.randint(0, ACTIONS, (rows, frames))},
        labelled=torch.ones(rows, frames, dtype=torch.bool),
        rewards=torch.zeros(rows, frames),
        continues=torch.ones(rows, frames),
        task=torch.zeros(rows, dtype=torch.long),
        relevant=torch.zeros(rows, dtype=torch.bool),
    )
    return LatentClip(torch.rand(rows, frames, LATENTS, CHANNELS) * 2 - 1, notes)


def _ours(kind: str) -> Job:
    import torch

    from dreamer_ray.imagination.rollout import dream
    from dreamer_ray.imagination.sampler import Sampling
    from dreamer_ray.imagination.tuning import DreamTuning, tune_dreams
    from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
    from dreamer_ray.phases.forcing import ForcingConfig
    from dreamer_ray.training.optimizer import OptimizerConfig, make_optimizer
    from dreamer_ray.training.parallel import Tuning, tune

    dynamics, clip = matched_dynamics(plain=kind.startswith("train") and "full" not in kind), random_clip
    if kind.startswith("imagine"):
        rows = int(kind.split("-")[1])
        context, actions = clip(rows, CONTEXT), {"action": torch.randint(0, ACTIONS, (rows, NEW))}
        sampling, known = Sampling(steps=STEPS, commit="no-commit" not in kind), torch.ones(rows, NEW, dtype=torch.bool)
        dynamics.requires_grad_(False)
        tune_dreams(dynamics, DreamTuning(compile="compiled" in kind))
        return lambda: dream(dynamics, context, actions, known, sampling=sampling, seeds=list(range(rows)))
    full, rows = "full" in kind, 0.25 if "bootstrap" in kind else 0.0
    forcing = ForcingConfig(bootstrap_fraction=rows, bootstrap_after=0.0, image_fraction=0.3 if full else 0.0)
    phase, batch = DynamicsPretraining(dynamics, forcing), clip(TRAIN_ROWS, TRAIN_FRAMES)
    tune(phase, Tuning(compile="compiled" in kind))
    optimizer, generator = make_optimizer(phase, OptimizerConfig(learning_rate=1e-4)), torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        phase(batch, generator=generator, progress=1.0).total.backward()
        torch.nn.utils.clip_grad_norm_(phase.parameters(), 1.0)
        optimizer.step()

    return step


def _hansen(kind: str) -> Job:
    import torch

    sys.path.insert(0, str(Path(os.environ["HANSEN"]) / "dreamer4"))
    from model import Dynamics  # pyright: ignore[reportMissingImports]

    # train_dynamics imports the peer's data sets and loggers; of it only these two functions are wanted.
    source = (Path(os.environ["HANSEN"]) / "dreamer4" / "train_dynamics.py").read_text()
    start, end = source.index("def _emax_from_kmax"), source.index("@torch.no_grad()\ndef decode_packed_to_frames")
    peer: dict = {}
    exec("import math\nimport torch\nfrom typing import *\nfrom model import Dynamics\n" + source[start:end], peer)
    dynamics = Dynamics(
        d_model=WIDTH, d_bottleneck=CHANNELS, d_spatial=CHANNELS, n_spatial=LATENTS, n_register=REGISTERS, n_agent=0, n_heads=HEADS,
        depth=LAYERS, k_max=64, mlp_ratio=8 / 3, time_every=TIME_EVERY,
    )  # fmt: skip
    if kind.startswith("imagine"):
        rows = int(kind.split("-")[1])
        dynamics.requires_grad_(False).eval()
        context, actions = torch.rand(rows, CONTEXT + NEW, LATENTS, CHANNELS), torch.rand(rows, CONTEXT + NEW, 16)
        schedule = peer["make_tau_schedule"](k_max=64, schedule="shortcut", d=1 / STEPS)
        return lambda: peer["sample_autoregressive_packed_sequence"](
            dynamics, z_gt_packed=context, ctx_length=CONTEXT, horizon=NEW, k_max=64, sched=schedule, actions=actions
        )
    optimizer = torch.optim.AdamW(dynamics.parameters(), lr=1e-4)
    latents, actions = torch.rand(TRAIN_ROWS, TRAIN_FRAMES, LATENTS, CHANNELS), torch.rand(TRAIN_ROWS, TRAIN_FRAMES, 16)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = peer["dynamics_pretrain_loss"](
            dynamics, z1=latents, actions=actions, act_mask=None, k_max=64, step=10**6, bootstrap_start=0,
            B_self=TRAIN_ROWS // 4 if "bootstrap" in kind else 0,
        )  # fmt: skip
        loss.backward()
        torch.nn.utils.clip_grad_norm_(dynamics.parameters(), 1.0)
        optimizer.step()

    return step


def _lucidrains(kind: str) -> Job:
    import torch

    library = torch.library.Library("torchvision", "DEF")  # as objectives/lpips.py, which this interpreter lacks
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from dreamer4.dreamer4 import DynamicsWorldModel  # pyright: ignore[reportMissingImports]

    model = DynamicsWorldModel(
        dim=WIDTH, dim_latent=CHANNELS, num_latent_tokens=LATENTS, num_spatial_tokens=LATENTS, num_register_tokens=REGISTERS, depth=LAYERS,
        time_block_every=TIME_EVERY, attn_heads=HEADS, attn_dim_head=WIDTH // HEADS, num_discrete_actions=ACTIONS, max_steps=64,
        prob_shortcut_train=0.25 if "bootstrap" in kind else 0.0,
    )  # fmt: skip
    rows = int(kind.split("-")[1]) if kind.startswith("imagine") else TRAIN_ROWS
    frames = CONTEXT + NEW if kind.startswith("imagine") else TRAIN_FRAMES
    actions = torch.randint(0, ACTIONS, (rows, frames, 1))
    if kind.startswith("imagine"):
        model.requires_grad_(False).eval()
        context = torch.rand(rows, CONTEXT, LATENTS, CHANNELS)
        return lambda: model.generate(
            frames, num_steps=STEPS, batch_size=rows, prompt_latents=context, prompt_discrete_actions=actions, return_decoded_video=False
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    latents = torch.rand(rows, frames, LATENTS, CHANNELS)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(latents=latents, discrete_actions=actions[:, :-1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


BUILDERS = {"dreamer_ray": _ours, "hansen": _hansen, "lucidrains": _lucidrains}
IMAGINE = ("imagine-1", "imagine-16")
TRAIN = ("train", "train-bootstrap")
OURS_ONLY = (
    "imagine-1-compiled",
    "imagine-16-compiled",
    "imagine-1-no-commit",
    "imagine-16-no-commit",
    "train-compiled",
    "train-bootstrap-compiled",
    "train-full",
    "train-full-compiled",
    "train-full-bootstrap",
    "train-full-bootstrap-compiled",
)
KINDS = (*IMAGINE, *TRAIN, *OURS_ONLY)


def work(name: str) -> None:
    """Serves one competitor: a line with a kind of job comes in, a line with its seconds goes out."""
    import torch

    torch.set_num_threads(int(os.environ["THREADS"]))
    torch.manual_seed(0)
    jobs: dict[str, Job] = {}
    for line in sys.stdin:
        kind = line.strip()
        if kind not in jobs:
            jobs[kind] = BUILDERS[name](kind)
            jobs[kind]()
        begun, runs = time.perf_counter(), 0
        while not runs or time.perf_counter() - begun < LEAST_SECONDS:
            jobs[kind]()
            runs += 1
        sys.stdout.write(f"seconds {(time.perf_counter() - begun) / runs}\n")
        sys.stdout.flush()


def _start(name: str, python: str, threads: int, hansen: str | None) -> subprocess.Popen[str]:
    environment = os.environ | {"THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "HANSEN": hansen or ""}
    command = [python, __file__, "--worker", name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _ask(process: subprocess.Popen[str], kind: str) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(kind + "\n")
    process.stdin.flush()
    for line in process.stdout:  # peers print as well
        if line.startswith("seconds "):
            return float(line.split()[1])
    raise SystemExit(f"{process.args}: ended while measuring {kind}; its errors stand above")


def measure(
    pythons: dict[str, str], kinds: Sequence[str], hansen: str | None, repeats: int, threads: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds by kind and competitor, repeats interleaved."""
    workers = {name: _start(name, python, threads, hansen) for name, python in pythons.items()}
    found: dict[str, dict[str, list[float]]] = {}
    for repeat in range(repeats):
        for kind in kinds:
            for name, process in workers.items():
                if kind in OURS_ONLY and name != "dreamer_ray":
                    continue
                found.setdefault(kind, {}).setdefault(name, []).append(_ask(process, kind))
                print(f"repeat {repeat + 1}/{repeats}  {kind}  {name}  {found[kind][name][-1]:.3f} s", file=sys.stderr)
    for process in workers.values():
        process.terminate()
    return found


def show(found: dict[str, dict[str, list[float]]]) -> None:
    """The table of medians, with the ratio to the fastest peer."""
    peers_of = {kind: kind.removesuffix("-no-commit").removesuffix("-compiled").replace("-full", "") for kind in found}
    for kind, times in found.items():
        medians = {name: statistics.median(values) for name, values in times.items()}
        beside = found.get(peers_of[kind], {})
        peers = [statistics.median(values) for name, values in beside.items() if name != "dreamer_ray"]
        if kind.startswith("imagine"):
            frames = int(kind.split("-")[1]) * NEW
            figures = "  ".join(f"{name} {frames / seconds:.2f} frames/s" for name, seconds in medians.items())
        else:
            figures = "  ".join(f"{name} {seconds:.3f} s" for name, seconds in medians.items())
        ratio = f"  fastest peer / dreamer_ray = {min(peers) / medians['dreamer_ray']:.2f}" if peers else ""
        print(f"{kind:32}{figures}{ratio}")


def main() -> None:
    """Measures all competitors that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hansen", help="checkout of nicklashansen/dreamer4")
    parser.add_argument("--lucidrains", help="python with dreamer4==0.20.2")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what is measured (default: all)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="where the seconds are written")
    parser.add_argument("--worker", choices=list(BUILDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    pythons = {"dreamer_ray": sys.executable}
    pythons |= {"hansen": sys.executable} if options.hansen else {}
    pythons |= {"lucidrains": options.lucidrains} if options.lucidrains else {}
    found = measure(pythons, options.kinds, options.hansen, options.repeats, options.threads)
    show(found)
    if options.json:
        options.json.write_text(json.dumps({"threads": options.threads, "seconds": found}, indent=1))


if __name__ == "__main__":
    main()
