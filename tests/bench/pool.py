"""What distribution costs: the same dreams in one process, by one replica, by two; publishing; a step on Ray Train; the simulated loop.

    python tests/bench/pool.py RECIPE --runs DIR --json FILE --plot FILE

The run DIR/NAME of the recipe must have finished its stage ``agent``. The learner is a stub that publishes the same heads after every
update. Repeats are interleaved, ratios are of medians. Run it on an idle machine: what two plain processes reach side by side says how
much of a second core there is.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

RATIOS = {"one replica / one process": 0.95, "two replicas / one": 1.8, "Ray Train / fit": 1 / 1.05}
"""What is wanted at least."""
MAX_LAG = 2
"""Of the simulated loop: the default of imagination."""
WATCHED = 1000
"""Replicas with which it is measured what watching one costs."""
SWEEP = (1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 1000)


class Dreams:
    """Calls of imagination of one recipe, in this process and through pools of replicas."""

    def __init__(self, recipe, run: Path, calls: int):
        from dreamer_ray.distributed.replicas import start_replica
        from dreamer_ray.distributed.weights import STORE, ObjectStoreTransport, WeightStore
        from dreamer_ray.stages import Dreamer, trained
        from dreamer_ray.training.restore import restore_agent

        self.recipe, self.calls, checkpoint = recipe, calls, trained(run, "agent")
        agent = restore_agent(checkpoint)
        self.heads = {k: v for k, v in agent.state_dict().items() if k.split(".")[0] in ("policy", "value")}
        self.dreamer = Dreamer(recipe, run, agent, device=recipe.cluster.replica_device)
        self.processes = ProcessPoolExecutor(2, get_context("spawn"), _begin, (recipe, run))
        self.store = WeightStore.options(name=STORE).remote(str(run))
        self.transport = ObjectStoreTransport(self.store)
        self.replicas = [
            start_replica(number, recipe, run, checkpoint.made_by, device=recipe.cluster.replica_device) for number in range(2)
        ]
        self.per_update = recipe.imagination.contexts.batch_size // recipe.imagination.dreams_per_call
        self.life = 0
        self.publishing: list[float] = []
        self.first_use: list[float] = []

    def alone(self) -> float:
        """Seconds of a call in this process."""
        begun = time.perf_counter()
        for call in range(self.calls):
            self.dreamer.dream(call, 0)
        return (time.perf_counter() - begun) / self.calls

    def side_by_side(self) -> float:
        """Seconds of a call where two plain processes share the calls, without Ray."""
        begun = time.perf_counter()
        list(self.processes.map(_dream, [range(0, self.calls, 2), range(1, self.calls, 2)]))
        return (time.perf_counter() - begun) / self.calls

    def pooled(self, replicas: int) -> float:
        """Seconds of a call through a pool of so many, from asking for the first to taking in the last."""
        from dreamer_ray.distributed.replica_pool import ReplicaPool
        from dreamer_ray.imagination.schedule import Schedule

        self.life += 1
        session, steps = str(self.life), self.calls // self.per_update
        pool = ReplicaPool(self.replicas[:replicas], Schedule(self.per_update, max_lag=2), session)
        self._publish(session, 0)
        begun = time.perf_counter()
        for update, _ in enumerate(pool.updates(0, steps)):
            if update < steps - 1:
                self._publish(session, update + 1)
        return (time.perf_counter() - begun) / (steps * self.per_update)

    def publish_to_use(self) -> float:
        """Seconds from publishing until every replica, with a call under way and one waiting, has begun a call by the new heads."""
        import ray

        self.life += 1
        session = str(self.life)
        self._publish(session, 0)
        calls = [[replica.dream.remote(call, session, 0) for call in range(3)] for replica in self.replicas]
        ended: dict[Any, float] = {}
        waiting = [reference for mine in calls for reference in mine]
        published = 0.0
        while waiting:
            done, waiting = ray.wait(waiting)
            ended |= dict.fromkeys(done, time.perf_counter())
            if not published and all(mine[0] in ended for mine in calls):
                self._publish(session, 1)
                published = time.perf_counter()
        begun = []
        for mine in calls:
            versions = [ray.get(reference).version for reference in mine]
            assert versions[-1] == 1
            begun.append(ended[mine[versions.index(1) - 1]])
        return max(begun) - published

    def _publish(self, session: str, version: int) -> None:
        begun = time.perf_counter()
        self.transport.publish(session, version, self.heads)
        self.publishing.append(time.perf_counter() - begun)


def _begin(recipe, run: Path) -> None:
    import torch

    from dreamer_ray.stages import Dreamer, trained
    from dreamer_ray.training.restore import restore_agent

    torch.set_num_threads(1)
    _dream.dreamer = Dreamer(recipe, run, restore_agent(trained(run, "agent")), device=recipe.cluster.replica_device)


def _dream(calls: range) -> None:
    for call in calls:
        _dream.dreamer.dream(call, 0)


def overheads(dreams: Dreams) -> dict[str, float]:
    """Seconds in the learner to submit a call, to take in a trajectory and to watch a replica, and in a replica to fetch heads."""
    import ray

    trajectory = ray.put(dreams.dreamer.dream(0, 0))
    answers = [dreams.replicas[0].ready.remote() for _ in range(200)]
    return {
        "submit": _each(dreams.replicas[0].ready.remote, 200),
        "take": _each(lambda: ray.get(trajectory), 50) + _each(lambda: ray.wait(answers, num_returns=1), 50),
        "watch": watching(dreams) / WATCHED,
        "fetch": _each(lambda: dreams.transport.fetch(("", -1)), 50),
    }


def watching(dreams: Dreams) -> float:
    """Seconds to ask which calls of so many replicas have ended, and to choose one for the next call."""
    import ray

    from dreamer_ray.imagination.schedule import IN_FLIGHT, Schedule, Seat

    busy = dreams.replicas[0].dream.remote(0, str(dreams.life), 0)
    queued = [dreams.replicas[0].ready.remote() for _ in range(IN_FLIGHT * WATCHED)]  # none of them ends before that call has
    asking = _each(lambda: ray.wait(queued, num_returns=len(queued), timeout=0), 5) + _each(lambda: ray.wait(queued, timeout=0), 5)
    assert not ray.wait([busy], timeout=0)[0], "it has ended: this was no measure"
    seats = [Seat(ready=True, calls=IN_FLIGHT - (number == 0), pace=1 + number / WATCHED) for number in range(WATCHED)]
    schedule: Schedule = Schedule(2 * WATCHED, MAX_LAG)
    schedule.open(0, 1)

    def choose() -> None:
        given = schedule.take(0, seats)
        assert given is not None
        given[0].calls -= 1

    return asking + 2 * _each(choose, 50)  # the second time none has room


def _each(action, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        action()
    return (time.perf_counter() - begun) / count


def learner_seconds(recipe, run: Path, trajectory) -> float:
    """Seconds of an update of the heads."""
    import torch

    from dreamer_ray.stages import imagination, join
    from dreamer_ray.training.optimizer import make_optimizer

    phase, _ = imagination(recipe, run)
    optimizer, generator = make_optimizer(phase, recipe.imagination.fit.optimizer), torch.Generator().manual_seed(0)
    batch = join([trajectory] * (recipe.imagination.contexts.batch_size // recipe.imagination.dreams_per_call))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        phase(batch, generator=generator, progress=0.9).total.backward()
        torch.nn.utils.clip_grad_norm_(phase.parameters(), 1.0)
        optimizer.step()

    step()
    return _each(step, 10)


def training(recipe, run: Path, *, repeats: int, stage: str = "dynamics") -> dict[str, list[float]]:
    """Steps a second on Ray Train and in the bare ``fit`` on the same stream of Ray Data, in a copy of the run; without the first ones."""
    import torch

    from dreamer_ray.distributed.batches import stream
    from dreamer_ray.distributed.train import train
    from dreamer_ray.progress import Progress
    from dreamer_ray.stages import supervised
    from dreamer_ray.training.loop import Place, fit

    rates: dict[str, list[float]] = {"train": [], "fit": []}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("train", "fit") * repeats:
            copy = Path(folder) / f"{kind}-{len(rates[kind])}" / run.name
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("ray_train"))
            shutil.rmtree(copy / stage)
            if kind == "train":
                train(stage, recipe, copy, Progress(stage, 1, "steps"))
                lines = [json.loads(line) for line in (copy / stage / "metrics.jsonl").read_text().splitlines()]
                rates[kind].append(statistics.median(line["steps_per_second"] for line in lines[1:]))
                continue
            torch.set_num_threads(recipe.cluster.threads)
            job, seen = supervised(stage, recipe, copy), []
            place = Place(copy / stage / "checkpoints", lambda _, figures, seen=seen: seen.append(figures["steps_per_second"]))
            fit(job.phase, stream(stage, recipe, copy, steps=job.fit.steps, rank=0, world=1), job.fit, place=place, made_by=job.made_by)
            torch.set_num_threads(1)
            rates[kind].append(statistics.median(seen[1:]))
    return rates


def plot(swept: dict[str, list], path: Path) -> None:
    """Updates a second, lag and idle shares over the number of replicas."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.2))
    for label, found in swept.items():
        counts = [row.replicas for row in found]
        axes[0].loglog(counts, [row.updates_per_second for row in found], marker="o", markersize=3, label=label)
        axes[1].semilogx(counts, [row.lag for row in found], marker="o", markersize=3, label=label)
        axes[2].semilogx(counts, [row.learner_idle for row in found], marker="o", markersize=3, label=label)
    for axis, title in zip(axes, ("updates a second", "lag (updates)", "learner idle (share of time)"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("replicas")
        axis.grid(alpha=0.3)
    for axis in axes[1:]:
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def measure(recipe, run: Path, *, repeats: int, calls: int) -> tuple[dict[str, list[float]], dict[str, float], dict[str, float]]:
    """Seconds by what was measured, the service times of the loop, and the ratios."""
    import ray

    dreams = Dreams(recipe, run, calls)
    found: dict[str, list[float]] = {"alone": [], "side by side": [], "one": [], "two": [], "publish to use": []}
    dreams.alone(), dreams.side_by_side(), dreams.pooled(2)
    for repeat in range(repeats):
        found["alone"].append(dreams.alone())
        found["side by side"].append(dreams.side_by_side())
        found["one"].append(dreams.pooled(1))
        found["two"].append(dreams.pooled(2))
        found["publish to use"].append(dreams.publish_to_use())
        print(f"repeat {repeat + 1}: " + "  ".join(f"{name} {values[-1]:.3f} s" for name, values in found.items()))
    medians = {name: statistics.median(values) for name, values in found.items()}
    service = overheads(dreams) | {"dream": medians["one"], "publish": statistics.median(dreams.publishing)}
    service["update"] = learner_seconds(recipe, run, dreams.dreamer.dream(0, 0))
    dreams.processes.shutdown()
    for actor in [*dreams.replicas, dreams.store]:
        ray.kill(actor)
    rates = training(recipe, run, repeats=repeats)
    found["Ray Train step"], found["fit step"] = ([1 / rate for rate in rates[kind]] for kind in ("train", "fit"))
    ratios = {
        "one replica / one process": medians["alone"] / medians["one"],
        "two replicas / one": medians["one"] / medians["two"],
        "Ray Train / fit": statistics.median(rates["train"]) / statistics.median(rates["fit"]),
    }
    return found, service, ratios


def sweep(recipe, service: dict[str, float]) -> dict[str, list]:
    """The simulated loop with 1 to 1,000 replicas, at the recipe's size of an update and at larger ones."""
    from dreamer_ray.bench.simulation import Service, simulate

    config, swept = recipe.imagination, {}
    calls = config.contexts.batch_size // config.dreams_per_call
    for label, scale in (("this recipe", 1), ("64 times its batch", 64), ("512 times its batch", 512)):
        times = Service(**service | {"update": service["update"] * scale})
        swept[label] = [simulate(times, replicas=count, calls_per_update=calls * scale, max_lag=MAX_LAG) for count in SWEEP]
        for row in swept[label]:
            idle = f"learner idle {row.learner_idle:.0%}  replicas idle {row.replica_idle:.0%}"
            rate = f"{row.updates_per_second:8.2f} updates/s  lag {row.lag:.1f}"
            print(f"{label}, {row.replicas} replicas: {rate}  {idle}  bound by {row.bottleneck}")
    return swept


def main() -> None:
    """Measures, simulates, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=24, help="of a repeat")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()

    import torch

    from dreamer_ray.config_file import load_config
    from dreamer_ray.loopback import bind_ray_to_loopback
    from dreamer_ray.recipe import Recipe

    bind_ray_to_loopback()
    from dreamer_ray.distributed.cluster import cluster

    torch.set_num_threads(1)
    recipe = load_config(Recipe, options.recipe, options.overrides)
    with cluster(recipe, ["imagination"]):
        run = (options.runs / recipe.name).absolute()
        found, service, ratios = measure(recipe, run, repeats=options.repeats, calls=options.calls)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f} (wanted at least {RATIOS[name]:.3f})")
    print(f"two plain processes / one: {statistics.median(found['alone']) / statistics.median(found['side by side']):.3f}")
    used, call = statistics.median(found["publish to use"]), 2 * statistics.median(found["two"])
    print(f"publish to first use on both replicas: {used:.3f} s; their calls take {call:.3f} s each")
    print("seconds: " + "  ".join(f"{name} {value:.2g}" for name, value in service.items()))
    swept = sweep(recipe, service)
    if options.plot:
        plot(swept, options.plot)
    if options.json:
        options.json.write_text(json.dumps({"seconds": found, "ratios": ratios, "service": service}, indent=1))
    if missed := [name for name, ratio in ratios.items() if ratio < RATIOS[name]] + ["publish to first use"] * (used > call):
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
