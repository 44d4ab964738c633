"""From recordings of others to shards: what there is to do, and the work on one recording.

Source.index --> plan: a job a recording, each on one side of the split
Source.read  --> takes at the rate of the shards --> episodes --> frames compressed as they are decoded --> one file a recording
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np

from dreamer_ray.config import fingerprint
from dreamer_ray.data.codecs import H264, Jpeg
from dreamer_ray.data.coding import Coded, code_pictures, coded_packets
from dreamer_ray.data.existing_shards import existing_shard
from dreamer_ray.data.files import fetch, scheme
from dreamer_ray.data.frame_rate import pick
from dreamer_ray.data.gops import packet_episodes
from dreamer_ray.data.layout import picture_maker
from dreamer_ray.data.lerobot import LeRobotConfig
from dreamer_ray.data.links import link
from dreamer_ray.data.open_source import keeps_labels, open_source, open_sources, shared_actions, shared_tasks
from dreamer_ray.data.packets import source_packets
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.data.rows import CodedEpisode, Rows, ShardSchema
from dreamer_ray.data.shards import ShardFile, write_shard
from dreamer_ray.data.shards_source import ShardsSource
from dreamer_ray.data.source_checks import refuse_other_pictures, refuse_other_rates
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording, Source
from dreamer_ray.data.splits import Part, Split, in_time, sides
from dreamer_ray.data.stretches import Stretch, as_recorded, at_rate, chosen, evenly, filled
from dreamer_ray.data.videos import VIDEOS, VideosConfig, VideosSource
from dreamer_ray.data.vpt import VptSource
from dreamer_ray.errors import UserError

EDITION = 1
"""Raised when the same recordings come to other files than before, so that no file of earlier code is taken for one of today's."""
WHICH = {"path", "base", "root", "environments", "leave_out", "group", "download", "records"}
"""Keys of sources that say which recordings there are and where they lie, not what they hold: that is in the paths of their files."""
LABELLED = "labelled_frames"
"""Key of what an episode says of itself: frames whose action is known, also where it is withheld."""
LONGEST_STEM = 150
ALONE = "frames that stand alone, with no other before or after them"


@dataclass(frozen=True)
class Job:
    """A recording, or a part of it, that becomes one file."""

    source: int
    """Which of the recipe's sources."""
    recording: Recording
    split: Split
    part: Part

    @property
    def stem(self) -> str:
        """Name of its file without suffix; episodes are named after it."""
        stem = f"s{self.source}-{self.recording.name}"
        if len(stem) > LONGEST_STEM:
            stem = f"{stem[:LONGEST_STEM]}-{blake2b(stem.encode(), digest_size=4).hexdigest()}"
        return stem if self.part == "whole" else f"{stem}-{self.part}"

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.stem}.parquet"


@dataclass(frozen=True)
class IngestPlan:
    """What an ingest has to do."""

    schema: ShardSchema
    jobs: tuple[Job, ...]
    """In the order of the data set."""
    notes: tuple[str, ...]
    left_out: Counter[str]
    """Entries of the sources' indexes that are no recordings, by reason."""
    labelled: frozenset[int] = frozenset()
    """The sources that have actions, some of which are to be kept."""

    @property
    def recordings(self) -> list[int]:
        """How many there are of each source."""
        names = {(job.source, job.recording.name) for job in self.jobs}
        counts = Counter(source for source, _ in names)
        return [counts[source] for source in range(max(counts, default=-1) + 1)]

    def random_order(self, seed: int) -> list[int]:
        """Numbers of the jobs in the order of work: indexes are sorted by player, so that what is bad lies together in them."""
        return np.random.default_rng(seed).permutation(len(self.jobs)).tolist()


def ingest_plan(config: RecordingsConfig) -> IngestPlan:
    """Reads the indexes of all sources. Raises ``UserError`` where one is damaged, they do not fit together, or none can be held out."""
    sources = open_sources(config)
    schema = _schema(config, sources)
    whole = [source.index() for source in sources]
    indexes = [index[: entry.recordings] for index, entry in zip(whole, config.sources, strict=True)]
    undecided = [[recording for recording in index if recording.split is None] for index in indexes]
    parts = {number for number, index in enumerate(undecided) if len(index) == 1}
    split: dict[str, Split] = {recording.group: recording.split for index in indexes for recording in index if recording.split}
    for number, index in enumerate(undecided):
        groups = list(dict.fromkeys(recording.group for recording in index))
        if number not in parts and index:
            if len(groups) == 1:
                raise UserError(
                    f"sources[{number}]: all its {len(index)} recordings are of one group, {groups[0]}, so none can be held out; add "
                    "recordings of other sessions (kind videos: group: file makes each file a group of its own)"
                )
            split = sides(groups, heldout=config.heldout, seed=config.seed) | split
    jobs, notes = [], _taken(whole, indexes)
    for number, index in enumerate(indexes):
        for recording in index:
            if recording.split:
                jobs.append(Job(number, recording, recording.split, "whole"))
            elif number in parts and recording.group not in split:
                jobs += [Job(number, recording, "train", "begin"), Job(number, recording, "heldout", "end")]
                notes.append(
                    f"{recording.name} is the only recording of its source: its last {config.heldout:.0%} in time is held out, after a gap "
                    f"of {config.heldout_gap} frames; what is seen there is much like what is trained on"
                )
            else:
                jobs.append(Job(number, recording, split[recording.group], "whole"))
    left_out = sum((source.left_out() for source in sources if isinstance(source, VptSource)), Counter[str]())
    labelled = [number for number, entry in enumerate(config.sources) if keeps_labels(entry)]
    notes += [doubt for number in labelled if isinstance(source := sources[number], VideosSource) for doubt in source.doubts()]
    known = frozenset(number for number in labelled if sources[number].action_space)
    return IngestPlan(schema, tuple(jobs), tuple(notes), left_out, known)


def grown(config: RecordingsConfig, before: Sequence[int]) -> list[str]:
    """A line for each folder of videos or of LeRobot that has more or fewer recordings than ``before``, the plan's of an earlier time."""
    found = []
    for number, (entry, count) in enumerate(zip(config.entries(), before, strict=False)):
        if isinstance(entry.source, VideosConfig | LeRobotConfig):
            with suppress(UserError):  # it may be gone, or lie on other machines: what was made of it stands
                if (now := len(open_source(entry.source).index()[: entry.recordings])) != count:
                    place = f"sources[{number}], {entry.source.path}"
                    found.append(f"{place}: {now} recordings lie there now, the data set was made when there were {count}")
    return found


def _taken(whole: Sequence[Sequence[Recording]], indexes: Sequence[Sequence[Recording]]) -> list[str]:
    """A note of each source of which not all recordings are taken."""
    sizes = [(len(part), len(index)) for part, index in zip(indexes, whole, strict=True)]
    return [
        f"sources[{n}]: the first {some:,} of its {every:,} recordings are all that was taken"
        for n, (some, every) in enumerate(sizes)
        if some < every
    ]


def _schema(config: RecordingsConfig, sources: Sequence[Source]) -> ShardSchema:
    fps = config.fps or sources[0].fps
    refuse_other_rates(config, sources, fps)
    if config.keeps_packets:
        refuse_other_pictures(config, sources, fps)
    return ShardSchema(
        codec="h264" if config.codec.kind == "source" else config.codec.kind,
        frame_shape=config.layout.shape,
        action_space=shared_actions(config, sources),
        tasks=shared_tasks(config, sources),
        fps=fps,
    )


def job_fingerprint(config: RecordingsConfig, source: Source, job: Job) -> str:
    """Of all on which the file of ``job`` depends besides its schema; local files count with their size and time of change.

    Raises ``UserError`` where what belongs to all recordings of ``source`` cannot be read.
    """
    values = config.model_dump(mode="json", include={"layout", "codec", "episode_frames", "heldout", "heldout_gap"})
    if job.part == "whole":
        values |= {"heldout": None, "heldout_gap": None}
    recording = [job.recording.name, [[file, _state(file)] for file in job.recording.files], job.part]
    section = config.sources[job.source].source.model_dump(mode="json", exclude=WHICH)
    return fingerprint(values | {"edition": EDITION, "source": section, "recording": recording, "more": source.made_from(job.recording)})


def _state(file: str) -> list[int] | None:
    """None where the file lies elsewhere or is not there."""
    if scheme(file) or not Path(file).exists():
        return None
    stat = Path(file).stat()
    return [stat.st_size, stat.st_mtime_ns]


def make_file(config: RecordingsConfig, source: Source, schema: ShardSchema, job: Job, folder: Path) -> ShardFile | str:
    """The file of ``job`` in ``folder``, made unless it is there, or why its recording is bad."""
    made_from = job_fingerprint(config, source, job)
    try:
        return existing_shard(folder, job.file, schema, job=made_from) or ingest_recording(config, source, schema, job, folder)
    except BadRecordingError as error:
        return " ".join(str(error).split())


def ingest_recording(config: RecordingsConfig, source: Source, schema: ShardSchema, job: Job, folder: Path) -> ShardFile:
    """Writes the file of ``job`` into ``folder``. Raises ``BadRecordingError`` where the recording cannot be used; no file is left then.

    The pictures of one episode are held at most, and compressed.
    """
    name, made_from = job.recording.name, job_fingerprint(config, source, job)
    reading = source.read(job.recording, None if config.keeps_packets else config.layout)
    dropped, mended = (Counter(reading.dropped), reading.mended) if job.part != "end" else (Counter[str](), Counter[str]())
    if config.keeps_packets:
        stretches = as_recorded(reading.takes, fps=schema.fps, name=name)
    else:
        stretches = [at_rate(take, source.action_space, source_fps=source.fps, fps=schema.fps, name=name) for take in reading.takes]
    size = sum(map(len, stretches))
    stretches = chosen(stretches, in_time(size, job.part, heldout=config.heldout, gap=config.heldout_gap, name=name))
    if alone := sum(len(stretch) for stretch in stretches if len(stretch) < 2):
        dropped[ALONE] += alone
    stretches = [filled(stretch, source.action_space, source.tasks, schema) for stretch in stretches if len(stretch) > 1]
    if config.keeps_packets:
        coded = _cut(config, job, reading, stretches, dropped)
    elif (
        job.part == "whole"
        and isinstance(source, ShardsSource)
        and source.fits(job.recording, schema, config.layout, longest=config.episode_frames)
    ):
        coded = ((stretch, source.kept(job.recording, int(stretch.numbers[0]))) for stretch in stretches)
    else:
        coded = _compressed(config, schema, reading, stretches, name)
    return write_shard(folder, job.file, _episodes(job, coded), schema, job=made_from, dropped=dropped, mended=mended)


def _compressed(
    config: RecordingsConfig, schema: ShardSchema, reading: Reading, stretches: Sequence[Stretch], name: str
) -> Iterator[tuple[Stretch, Coded]]:
    """Episodes with their frames, which are decoded, brought to the layout and compressed one by one."""
    pieces = [piece for stretch in stretches for piece in evenly(stretch, config.episode_frames)]
    make, codec = picture_maker(config.layout), config.codec if isinstance(config.codec, H264 | Jpeg) else None
    shown = map(make, pick(reading.pictures, (int(number) for piece in pieces for number in piece.numbers), name=name))
    for piece in pieces:
        yield piece, code_pictures(islice(shown, len(piece)), codec, shape=schema.frame_shape, fps=schema.fps)


def _cut(
    config: RecordingsConfig, job: Job, reading: Reading, stretches: Sequence[Stretch], dropped: Counter[str]
) -> Iterator[tuple[Stretch, Coded]]:
    """Episodes with the packets of the video as they are."""
    path = next(file for file in job.recording.files if file.lower().endswith(VIDEOS))
    with reading.video or fetch(path) as file:
        stream = source_packets(path, file=file)
        for piece, packets in packet_episodes(stream.packets, stretches, config.episode_frames, dropped):
            coded = coded_packets(packets, stream.parameters)
            yield piece, replace(coded, links=link(path, packets)) if config.codec.kind == "link" else coded


def _episodes(job: Job, coded: Iterable[tuple[Stretch, Coded]]) -> Iterator[CodedEpisode]:
    """Named after their first picture, and numbered where several begin with the same one, which was on show for long."""
    begun: Counter[int] = Counter()
    for piece, frames in coded:
        first = int(piece.numbers[0])
        again = f"-{begun[first]}" if begun[first] else ""
        begun[first] += 1
        info = piece.info | {"source": job.source, "recording": job.recording.name, "first": first, LABELLED: int(piece.labelled.sum())}
        if job.recording.group != job.recording.name:
            info |= {"group": job.recording.group}
        rows = Rows(frames, piece.actions, piece.labelled, piece.events, piece.continues)
        yield CodedEpisode(f"{job.stem}-{first:07d}{again}", rows, info)
