"""What an ingest has come to: files and bad recordings, whether the source is rotten, the summary and the manifests' account."""

from collections import Counter
from dataclasses import dataclass, field
from math import inf, log
from pathlib import Path
from typing import Any, get_args

from dreamer_ray.data.ingest import LABELLED, IngestPlan, Job
from dreamer_ray.data.manifest import SourceNote
from dreamer_ray.data.recordings import RecordingsConfig, SourceEntry
from dreamer_ray.data.shards import Origin, ShardFile, commit_manifest
from dreamer_ray.data.splits import Split, keep_labels
from dreamer_ray.errors import UserError

SHOWN = 3
"""Bad recordings that an error names."""
REASONS = "see record/report.json in the run folder for the reasons, and mend or add recordings"
LISTED = 20
"""Recordings of a kind that the summary names."""
DOUBT = 1e-9
"""The chance, at most, that a source which is as bad as allowed looks so much worse at a given moment that the rest is not tried."""


@dataclass
class Tally:
    """What is known so far, by number of the plan's jobs."""

    plan: IngestPlan
    files: dict[int, ShardFile] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    """Reasons."""
    frames: int = 0
    """Of all files."""

    def add(self, number: int, outcome: ShardFile | str) -> None:
        """The file of job ``number``, or why its recording is bad."""
        if isinstance(outcome, str):
            self.bad[number] = outcome
        else:
            self.files[number] = outcome
            self.frames += outcome.frames

    @property
    def hours(self) -> float:
        """Of all files."""
        return self.frames / self.plan.schema.fps / 3600

    def refuse_rotten(self, most: float, report: Path, *, begun: int) -> None:
        """Raises ``UserError`` where more than the share ``most`` of all jobs is bad, or so many that the rest will be.

        ``begun`` counts the first jobs of ``IngestPlan.random_order`` up to the last that has ended: bad ones end early, so that those
        which have ended are worse than all.
        """
        total, bad = len(self.plan.jobs), len(self.bad)
        if bad > most * total + 1e-9 or hardly(bad, begun, most):
            jobs = sorted(self.bad)[:SHOWN]
            named = "; ".join(f"{self.plan.jobs[number].recording.name}: {self.bad[number]}" for number in jobs)
            more = f"; and {bad - SHOWN} more" if bad > SHOWN else ""
            raise UserError(
                f"{bad} of {begun} recordings cannot be used, and data.recordings.max_bad_fraction = {most:g} of {total} are allowed: "
                f"{named}{more} (all of them: {report}); mend the source, or raise max_bad_fraction"
            )

    def split_files(self, split: Split, config: RecordingsConfig) -> list[ShardFile]:
        """The files of one side that hold an episode, in the order of the data set; those to train on with the labels that are kept.

        Raises ``UserError`` where there is none.
        """
        found = []
        for source, entry in enumerate(config.sources):
            files = self._files(source, split)
            if split == "train" and entry.share and not files:
                raise UserError(f"sources[{source}]: share = {entry.share:g}, but none of its recordings is left to train on; {REASONS}")
            found += self._labelled(source, entry) if split == "train" else files
        if not found:
            side = "train on" if split == "train" else "be held out"
            raise UserError(f"no recording is left to {side}: {len(self.bad)} are bad, the others hold nothing usable; {REASONS}")
        return found

    def _files(self, source: int, split: Split) -> list[ShardFile]:
        return [file for job, file in self._done() if job.source == source and job.split == split and file.episodes]

    def _labelled(self, source: int, entry: SourceEntry) -> list[ShardFile]:
        """What is trained on, with the labels that are kept."""
        fps = self.plan.schema.fps
        return keep_labels(self._files(source, "train"), fraction=entry.labelled_fraction, hours=entry.labelled_hours, fps=fps)

    def labels(self, config: RecordingsConfig) -> dict[str, Any]:
        """For the account: hours to train on whose actions are known, by source, and a line for each source that was to have some."""
        kept = [_known(self._labelled(number, entry)) for number, entry in enumerate(config.sources)]
        lines = []
        for number in sorted(self.plan.labelled):
            entry, files = config.sources[number], self._files(number, "train")
            if kept[number] or not files:
                continue
            why = "none of its frames to train on has a known action"
            if _known(files):
                hours = "" if entry.labelled_hours is None else f" and labelled_hours = {entry.labelled_hours:g}"
                first = f"the first of its {sum(len(file.episodes) for file in files)} episodes has {files[0].episodes[0].length} frames"
                remedy = "raise them, or lower episode_frames"
                why = f"labelled_fraction = {entry.labelled_fraction:g}{hours} leave no episode its actions, {first}; {remedy}"
            lines.append(f"sources[{number}]: {why}")
        return {"labelled_hours": [frames / self.plan.schema.fps / 3600 for frames in kept], "unlabelled": lines}

    def commit(self, config: RecordingsConfig, folder: Path) -> None:
        """Makes a set of each side in ``folder``, and deletes all other files there: what other values or killed writers have left.

        Raises ``UserError`` where a side has nothing.
        """
        files: dict[Split, list[ShardFile]] = {split: self.split_files(split, config) for split in get_args(Split)}
        known = {folder / job.split / file.name for job, file in self._done()}
        for split, done in files.items():
            for path in (folder / split).iterdir():
                if path.name.endswith((".parquet", ".parquet.partial")) and path not in known:
                    path.unlink()
            made_by, origin = config.model_dump(mode="json"), self.origin(split, config)
            commit_manifest(folder / split, self.plan.schema, done, made_by=made_by, parents={}, origin=origin)

    def origin(self, split: Split, config: RecordingsConfig) -> Origin:
        """For the manifest of one side."""
        dropped = sum((Counter(file.dropped) for job, file in self._done() if job.split == split), Counter[str]())
        dropped["recordings that cannot be used"] = sum(self.plan.jobs[number].split == split for number in self.bad)
        sources = tuple(SourceNote(kind=entry.source.kind, place=_place(entry.source), share=entry.share) for entry in config.entries())
        return Origin(layout=config.layout, sources=sources, dropped=dict(+dropped), notes=self.plan.notes)

    def report(self, folder: Path) -> dict[str, Any]:
        """The account of the whole ingest; ``folder`` holds the sides' folders."""
        dropped = sum((Counter(file.dropped) for file in self.files.values()), Counter[str]())
        mended = sum((Counter(file.mended) for file in self.files.values()), Counter[str]())
        size = sum((folder / job.split / file.name).stat().st_size for job, file in self._done())
        return {
            "recordings": len({(job.source, job.recording.name) for job in self.plan.jobs}),
            "files": len(self.files),
            "episodes": sum(len(file.episodes) for file in self.files.values()),
            "frames": self.frames,
            "hours": self.hours,
            "bytes": size,
            "bytes_per_hour": size / self.hours if self.frames else None,
            "hours_by_split": {
                split: sum(file.frames for job, file in self._done() if job.split == split) / self.plan.schema.fps / 3600
                for split in ("train", "heldout")
            },
            "dropped": dict(dropped.most_common()),
            "mended": dict(mended.most_common()),
            "left_out_of_index": dict(self.plan.left_out.most_common()),
            "empty": [job.recording.name for job, file in self._done() if not file.episodes],
            "bad": [
                {"source": self.plan.jobs[number].source, "recording": self.plan.jobs[number].recording.name, "reason": self.bad[number]}
                for number in sorted(self.bad)
            ],
            "notes": list(self.plan.notes),
        }

    def _done(self) -> list[tuple[Job, ShardFile]]:
        return [(self.plan.jobs[number], self.files[number]) for number in sorted(self.files)]


def _known(files: list[ShardFile]) -> int:
    """Frames whose actions are known and not withheld."""
    return sum(int(episode.info[LABELLED]) for file in files for episode in file.episodes if episode.labelled)


def hardly(bad: int, count: int, most: float) -> bool:
    """Whether ``bad`` of ``count`` that were drawn by chance says that more than the share ``most`` of all is bad.

    By the bound of Chernoff and Hoeffding, ``P <= exp(-count KL(bad / count, most))``, which holds without replacement too.
    """
    share = bad / count
    if share <= most:
        return False
    divergence = inf if most <= 0 else share * log(share / most) + ((1 - share) * log((1 - share) / (1 - most)) if share < 1 else 0.0)
    return count * divergence > -log(DOUBT)


def summary(report: dict[str, Any]) -> list[str]:
    """The account as lines for people."""
    hours, held = report["hours"], report["hours_by_split"]["heldout"]
    lines = [f"{report['recordings']} recordings, {report['episodes']} episodes, {hours:.3g} hours of which {held:.3g} held out"]
    if report["frames"]:
        lines.append(f"{report['bytes'] / 2**20:.3g} MiB, {report['bytes_per_hour'] / 2**20:.4g} MiB an hour")
    if any(report.get("labelled_hours", ())):
        by_source = ", ".join(f"{hours:.3g} of sources[{number}]" for number, hours in enumerate(report["labelled_hours"]))
        lines.append(f"hours to train on with known actions: {by_source}")
    lines += [f"dropped: {count} {reason}" for reason, count in report["dropped"].items()]
    lines += [f"mended or kept: {count} {what}" for what, count in report["mended"].items()]
    lines += [f"not in the index: {count} {reason}" for reason, count in report["left_out_of_index"].items()]
    lines += _first([f"nothing usable in {name}" for name in report["empty"]])
    lines += _first([f"bad: {entry['recording']}: {entry['reason']}" for entry in report["bad"]])
    return lines + report["notes"]


def _first(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - LISTED} more such recordings, all in record/report.json"] if len(lines) > LISTED else []
    return lines[:LISTED] + more


def _place(source: Any) -> str:
    place = getattr(source, "path", None) or getattr(source, "dataset", "")
    return ", ".join(place) if isinstance(place, tuple) else str(place)
