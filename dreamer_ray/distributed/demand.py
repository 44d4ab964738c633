"""What stages ask of a cluster at once, with as few actors as they go on with, by the keys that say how many there are."""

from dataclasses import dataclass

from dreamer_ray.cluster_section import REPLICA_RESOURCE, ClusterSection
from dreamer_ray.recipe import Recipe

LOADER_CPUS = 0.5
"""Of the task that loads the batches of a worker, or the recorded clips of a learner."""
TRAINED = ("tokenizer", "dynamics", "agent", "agent_scratch")


@dataclass(frozen=True)
class Asked:
    """Actors of one kind."""

    key: str
    """Of the section ``cluster``, which says how many; empty where it is always one."""
    count: int
    each: dict[str, float]
    """What one of them takes, by Ray's names of resources."""


@dataclass(frozen=True)
class Demand:
    """Of one stage."""

    stage: str
    asked: tuple[Asked, ...]

    def total(self, kind: str) -> float:
        """Of one resource."""
        return sum(asked.count * asked.each.get(kind, 0.0) for asked in self.asked)

    def words(self, kind: str) -> str:
        """Who needs how much of a resource."""
        parts = [asked for asked in self.asked if asked.count * asked.each.get(kind, 0.0)]
        keys = " and ".join(f"cluster.{asked.key} = {asked.count} with {asked.each[kind]:g} each" for asked in parts if asked.key)
        return f"stage {self.stage} needs {self.total(kind):g} {kind}s ({keys})"


def loader_cpus(cluster: ClusterSection, stage: str) -> float:
    """What a loader asks for: nothing where workers or replicas may take every CPU that comes free, since it would wait for ever then."""
    few, all_ = (cluster.fewest_workers, cluster.workers) if stage in TRAINED else (cluster.fewest_replicas, cluster.dreaming_replicas)
    return LOADER_CPUS if few in (None, all_) else 0.0


def demands(recipe: Recipe) -> dict[str, Demand]:
    """By stage, but for the report, which asks for nothing, and for imagination where there is none."""
    cluster = recipe.cluster
    device, worker = {"CPU": 1.0, "GPU": cluster.gpus_per_replica}, 1 + loader_cpus(cluster, "dynamics")
    workers = Asked("workers", cluster.fewest_workers or cluster.workers, {"CPU": worker, "GPU": cluster.gpus_per_worker})
    rehearses = recipe.imagination is not None and recipe.imagination.finetune == "all"
    learner = 1 + (loader_cpus(cluster, "imagination") if rehearses else 0)
    on_device = min(cluster.least_replicas, cluster.replicas)
    dreaming = (
        Asked("learners", cluster.learners, {"CPU": learner, "GPU": cluster.gpus_per_learner}),
        Asked("replicas", on_device, device | {REPLICA_RESOURCE: float(cluster.dedicated_replicas)}),
        Asked("cpu_replicas", cluster.least_replicas - on_device, {"CPU": 1.0}),
        Asked("evaluators", cluster.evaluators, device),
    )
    found = dict.fromkeys(TRAINED, (workers,)) | {
        "record": (Asked("replicas", cluster.replicas, {"CPU": 1.0}),),
        "encode": (Asked("replicas", cluster.replicas, device), Asked("", 1, {"CPU": 1.0})),
        "evaluate": (Asked("replicas", cluster.replicas, device),),
    }
    found |= {"imagination": dreaming} if recipe.imagination else {}
    return {stage: Demand(stage, asked) for stage, asked in found.items()}


def needs(recipe: Recipe) -> dict[str, float]:
    """CPUs, GPUs and room for dedicated replicas that the largest stage of a recipe takes, each by itself."""
    found = demands(recipe).values()
    return {kind: max(demand.total(kind) for demand in found) for kind in ("CPU", "GPU", REPLICA_RESOURCE)}
