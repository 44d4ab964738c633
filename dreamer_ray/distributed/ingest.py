"""Recording: actors write shard files, of episodes that they play or of recordings of others; a file that is there is never made again.

episode plan, a file's worth at a time --> Recorder actors (world + scripted player) --> Parquet files --> manifest, last
recordings of the sources, one by one --> Ingester actors (decode, clean, compress) --> Parquet files --> report, manifest, last
"""

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import ray

from dreamer_ray.data.crafter import RecordConfig
from dreamer_ray.data.crafter_files import RecordJob, commit_recording, record_jobs, recorded_so_far, write_episodes
from dreamer_ray.data.ingest import Job, ingest_plan, make_file
from dreamer_ray.data.ingest_report import Tally, summary
from dreamer_ray.data.open_source import open_sources
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.shards import ShardFile
from dreamer_ray.distributed import Actor
from dreamer_ray.distributed.cluster import require
from dreamer_ray.distributed.pool import spread
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.run_folder import write_json

log = logging.getLogger("dreamer_ray")


def record(recipe: Recipe, run: Path, progress: Progress) -> dict[str, Any]:
    """Records the train and held-out episodes of the recipe into ``run/record``."""
    config, folder = recipe.data.crafter, run / "record"
    assert config is not None
    require(recipe, "record", "CPU")
    files, jobs = record_jobs(config, folder)
    progress.update(*recorded_so_far(files))
    text = config.model_dump_json()
    recorders: list[Actor] = [Recorder.options(name=f"recorder-{i}").remote(text, str(folder)) for i in range(recipe.cluster.replicas)]
    done = spread(recorders, jobs, lambda actor, job: actor.write.remote(job), job_seconds=recipe.cluster.job_seconds)
    with closing(done):
        for job, file in done:
            assert isinstance(file, ShardFile)
            files[job.split].append(file)
            progress.update(*recorded_so_far(files))
    commit_recording(config, folder, files)
    return recorded_so_far(files)[1]


def ingest(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Brings the recordings of the recipe into ``run/record``, with an account of them in its ``report.json``.

    A bad recording costs itself, also one that ends or hangs its worker time and again. Raises ``UserError`` where more of them are bad
    than ``max_bad_fraction`` allows.
    """
    config, folder = recipe.data.recordings, run / "record"
    assert config is not None
    require(recipe, "record", "CPU")
    plan = ingest_plan(config)
    for note in plan.notes:
        log.warning("record: %s", note)
    tally, progress = Tally(plan), Progress("record", len(plan.jobs), "files")
    texts = (config.model_dump_json(), plan.schema.model_dump_json(), str(folder))
    count = min(recipe.cluster.replicas, len(plan.jobs))
    ingesters: list[Actor] = [Ingester.options(name=f"ingester-{i}").remote(*texts) for i in range(count)]
    jobs = [(place, number, plan.jobs[number]) for place, number in enumerate(plan.random_order(config.seed), start=1)]
    seconds, begun = recipe.cluster.job_seconds, 0
    report = folder / "report.json"
    try:
        outcomes = spread(ingesters, jobs, lambda actor, job: actor.write.remote(job[2]), job_seconds=seconds, given_up=str)
        with closing(outcomes):
            for (place, number, job), outcome in outcomes:
                assert isinstance(outcome, ShardFile | str)
                begun = max(begun, place)
                tally.add(number, outcome)
                if isinstance(outcome, str):
                    log.warning("record: %s cannot be used: %s", job.recording.name, outcome)
                    tally.refuse_rotten(config.max_bad_fraction, report, begun=begun)
                progress.update(len(tally.files) + len(tally.bad), {"hours": tally.hours, "bad": len(tally.bad)})
        tally.commit(config, folder)
    finally:
        account = tally.report(folder) | tally.labels(config)
        write_json(report, account)
    for line in account["unlabelled"]:
        log.warning("record: %s", line)
    for line in summary(account):
        log.info("record: %s", line)
    figures = {"recordings": plan.recordings, "files": len(tally.files), "bad": len(tally.bad)}
    return figures | {"frames": tally.frames, "hours": tally.hours}


@ray.remote(num_cpus=1, max_restarts=-1)
class Recorder:
    """Plays episodes with the scripted player and writes them."""

    def __init__(self, config: str, folder: str):
        self.config, self.folder = RecordConfig.model_validate_json(config), Path(folder)

    def write(self, job: RecordJob) -> ShardFile:
        """Records the episodes of ``job`` into its file."""
        return write_episodes(self.config, self.folder, job)

    def __repr__(self) -> str:
        return "Recorder"


@ray.remote(num_cpus=1, max_restarts=-1)
class Ingester:
    """Reads recordings and writes a file of each."""

    def __init__(self, config: str, schema: str, folder: str):
        self.config, self.schema = RecordingsConfig.model_validate_json(config), ShardSchema.model_validate_json(schema)
        self.sources, self.folder = open_sources(self.config), Path(folder)

    def write(self, job: Job) -> ShardFile | str:
        """The file of ``job``, or why its recording is bad."""
        return make_file(self.config, self.sources[job.source], self.schema, job, self.folder / job.split)

    def __repr__(self) -> str:
        return "Ingester"
