"""What stages ask of a cluster at once, with as few actors as they go on with, by the keys that say how many there are."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dreamer_ray.cluster_section import REPLICA_RESOURCE, ClusterSection
from dreamer_ray.recipe import Recipe

LOADER_CPUS = 0.5
"""Of the task that loads the batches of a worker, or the recorded clips of a learner."""
MOST_LISTED = 4
"""Sizes of nodes in a message."""
TRAINED = ("tokenizer", "dynamics", "agent", "agent_scratch")
KINDS = ("GPU", REPLICA_RESOURCE, "CPU")
REMEDIES = {
    "CPU": "raise cluster.cpus or lower these keys",
    "GPU": "lower these keys or their gpus_per_ (0 leaves them on CPUs), add GPUs",
    REPLICA_RESOURCE: f"start nodes with --resources='{{\"{REPLICA_RESOURCE}\": N}}', set cluster.dedicated_replicas=false",
}
LARGER_NODES = "lower what each takes (its gpus_per_) or how many there are, add nodes that hold one"

Node = Mapping[str, float]
"""All that a node has, by Ray's names of resources."""


@dataclass(frozen=True)
class Asked:
    """Actors of one kind."""

    key: str
    """Of the section ``cluster``, which says how many; empty where it is always one."""
    count: int
    each: dict[str, float]
    """What one of them takes on one node, by Ray's names of resources."""
    loader: float = 0.0
    """CPUs of the task that loads for one of them, on any node."""

    def takes(self, kind: str) -> float:
        """Of one resource, with the loader."""
        return self.each.get(kind, 0.0) + (self.loader if kind == "CPU" else 0.0)

    def room(self, node: Node) -> int:
        """How many of them ``node`` holds as long as nothing else is there."""
        return min(_pieces(kind, node.get(kind, 0.0), amount) for kind, amount in self.each.items() if amount)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What an autoscaler is asked for."""
        each = {kind: amount for kind, amount in self.each.items() if amount}
        return [each] * self.count + [{"CPU": self.loader}] * (self.count if self.loader else 0)


def _pieces(kind: str, there: float, each: float) -> int:
    if kind == "GPU" and each < 1:  # a share is of one GPU
        return int(there) * int(1 / each + 1e-6)
    return int(there / each + 1e-6)


@dataclass(frozen=True)
class Shortage:
    """What a cluster lacks for a stage, in words, and what to do."""

    need: str
    remedy: str


@dataclass(frozen=True)
class Demand:
    """Of one stage."""

    stage: str
    asked: tuple[Asked, ...]

    def of(self, *kinds: str) -> "Demand":
        """Of those actors alone that take one of these resources."""
        return Demand(self.stage, tuple(asked for asked in self.asked if asked.count and any(map(asked.takes, kinds))))

    def total(self, kind: str) -> float:
        """Of one resource."""
        return sum(asked.count * asked.takes(kind) for asked in self.asked)

    def words(self, kind: str) -> str:
        """Who needs how much of a resource."""
        parts = [asked for asked in self.asked if asked.count * asked.takes(kind)]
        keys = " and ".join(f"cluster.{asked.key} = {asked.count} with {asked.takes(kind):g} each" for asked in parts if asked.key)
        return f"stage {self.stage} needs {self.total(kind):g} {kind}s ({keys})"

    def shortage(self, nodes: Sequence[Node]) -> Shortage | None:
        """What these nodes lack: of a resource on all together, of nodes that hold an actor whole, or of room for all beside each other.

        None where a trial places all, the rarest and largest first, on nodes with the least left, of GPUs first or of CPUs first.
        """
        for kind in KINDS:
            if (there := sum(node.get(kind, 0.0) for node in nodes)) < self.total(kind):
                return Shortage(f"{self.words(kind)}, the cluster has {there:g}", REMEDIES[kind])
        for asked in self.asked:
            if asked.count and (room := sum(map(asked.room, nodes))) < asked.count:
                each = " and ".join(f"{amount:g} {kind}s" for kind, amount in asked.each.items() if amount)
                who = f"cluster.{asked.key} = {asked.count}" if asked.key else f"{asked.count}"
                need = f"stage {self.stage} needs nodes that hold {who} with {each} each on one node, the cluster holds {room}"
                return Shortage(f"{need} ({_listed(nodes)})", LARGER_NODES)
        found = [self._together(nodes, kinds) for kinds in (KINDS, KINDS[::-1])]
        return None if None in found else found[0]

    def _together(self, nodes: Sequence[Node], kinds: Sequence[str]) -> Shortage | None:
        """Places each actor on the node that has the least of ``kinds`` left, compared in their order."""
        left = [_Room(node) for node in nodes]
        actors = [(asked.key, asked.each) for asked in self.asked for _ in range(asked.count)]
        actors += [("loader", {"CPU": asked.loader}) for asked in self.asked if asked.loader for _ in range(asked.count)]
        for key, each in sorted(actors, key=lambda actor: [-actor[1].get(kind, 0.0) for kind in (REPLICA_RESOURCE, "GPU", "CPU")]):
            if not (rooms := [room for room in left if room.holds(each)]):
                others = ", ".join(f"cluster.{asked.key} = {asked.count}" for asked in self.asked if asked.key and asked.count)
                amounts = " and ".join(f"{amount:g} {kind}s" for kind, amount in each.items() if amount)
                need = f"stage {self.stage} needs nodes that hold {others} beside each other, and one of {key} with {amounts} finds no room"
                return Shortage(f"{need} ({_listed(nodes)})", LARGER_NODES)
            min(rooms, key=lambda room: [room.left[kind] for kind in kinds]).take(each)
        return None


class _Room:
    """What is left of a node while actors are placed on it."""

    def __init__(self, node: Node):
        self.left = {kind: node.get(kind, 0.0) for kind in KINDS}
        self.gpus = [1.0] * int(self.left["GPU"])

    def holds(self, each: Mapping[str, float]) -> bool:
        """Whether one more actor has room."""
        return all(self.left[kind] > amount - 1e-6 for kind, amount in each.items()) and self._gpu(each) is not None

    def take(self, each: Mapping[str, float]) -> None:
        """Places one that has room."""
        for kind, amount in each.items():
            self.left[kind] -= amount
        gpus = self._gpu(each)
        assert gpus is not None
        for number in gpus:
            self.gpus[number] -= min(1.0, each["GPU"])

    def _gpu(self, each: Mapping[str, float]) -> list[int] | None:
        """The GPUs that one would get: whole ones, or the fullest of which its share is left. None where there are none."""
        asked = each.get("GPU", 0.0)
        fit = sorted((number for number, left in enumerate(self.gpus) if left > min(1.0, asked) - 1e-6), key=lambda n: self.gpus[n])
        count = math.ceil(asked)
        return fit[:count] if len(fit) >= count else None


def _listed(nodes: Sequence[Node]) -> str:
    kinds = Counter(", ".join(f"{node[kind]:g} {kind}s" for kind in KINDS if node.get(kind)) or "nothing" for node in nodes)
    return "; ".join(f"{count} nodes of {what}" for what, count in kinds.most_common(MOST_LISTED))


def loader_cpus(cluster: ClusterSection, stage: str) -> float:
    """What a loader asks for: nothing where workers or replicas may take every CPU that comes free, since it would wait for ever then."""
    few, all_ = (cluster.fewest_workers, cluster.workers) if stage in TRAINED else (cluster.fewest_replicas, cluster.dreaming_replicas)
    return LOADER_CPUS if few in (None, all_) else 0.0


def demands(recipe: Recipe, *, only: str | None = None) -> dict[str, Demand]:
    """By stage (or of ``only`` one), but for the report, which asks for nothing, and for imagination where there is none."""
    cluster = recipe.cluster
    device = {"CPU": 1.0, "GPU": cluster.gpus_per_replica}
    worker, fewest = {"CPU": 1.0, "GPU": cluster.gpus_per_worker}, cluster.fewest_workers or cluster.workers
    workers = Asked("workers", fewest, worker, loader_cpus(cluster, "dynamics"))
    rehearses = recipe.imagination is not None and recipe.imagination.finetune == "all"
    loader = loader_cpus(cluster, "imagination") if rehearses else 0.0
    on_device = min(cluster.least_replicas, cluster.replicas)
    dreaming = (
        Asked("learners", cluster.learners, {"CPU": 1.0, "GPU": cluster.gpus_per_learner}, loader),
        Asked("replicas", on_device, device | {REPLICA_RESOURCE: float(cluster.dedicated_replicas)}),
        Asked("cpu_replicas", cluster.least_replicas - on_device, {"CPU": 1.0}),
        Asked("evaluators", cluster.evaluators, device),
    )
    found = dict.fromkeys(TRAINED, (workers,)) | {
        "record": (Asked("replicas", cluster.replicas, {"CPU": 1.0}),),
        "encode": (Asked("replicas", cluster.replicas, device), Asked("", 1, {"CPU": 1.0})),
        "evaluate": (Asked("replicas", cluster.replicas, device), Asked("", 1, {"CPU": 1.0})),
    }
    found |= {"imagination": dreaming} if recipe.imagination else {}
    return {stage: Demand(stage, asked) for stage, asked in found.items() if only in (None, stage)}


def needs(recipe: Recipe, *, only: str | None = None) -> dict[str, float]:
    """CPUs, GPUs and room for dedicated replicas that the largest stage of a recipe (or ``only`` one) takes, each by itself."""
    found = demands(recipe, only=only).values()
    return {kind: max((demand.total(kind) for demand in found), default=0.0) for kind in ("CPU", "GPU", REPLICA_RESOURCE)}
