"""A source's own packets as episodes: whole runs from a keyframe to the next, nothing decoded."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from dreamer_ray.data.packets import CodedPacket, cut
from dreamer_ray.data.stretches import Stretch

BEFORE_KEYFRAME = "frames that cannot be cut out of their video without decoding: before the first keyframe, or the last ones"


def runs(packets: Iterable[CodedPacket]) -> Iterator[list[CodedPacket]]:
    """The packets from each keyframe to the next; what stands before the first keyframe is left out."""
    run: list[CodedPacket] = []
    for packet in packets:
        if packet.keyframe and run:
            yield run
            run = []
        if packet.keyframe or run:
            run.append(packet)
    if run:
        yield run


def packet_episodes(
    packets: Iterable[CodedPacket], stretches: Sequence[Stretch], most: int, dropped: Counter[str]
) -> Iterator[tuple[Stretch, list[CodedPacket]]]:
    """Parts of ``stretches``, whose frames are the video's own, with their packets; ``dropped`` counts the frames that are lost.

    Of at most ``most`` frames each, or of one run where that is longer. Not more than an episode and a run are held.
    """
    dropped[BEFORE_KEYFRAME] += sum(map(len, stretches))
    waiting, held = list(stretches), list[CodedPacket]()
    for run in runs(packets):
        begin, end = run[0].frame, run[0].frame + len(run)
        while waiting and waiting[0].numbers[-1] < begin:
            yield from _episode(waiting.pop(0), held, dropped)
            held = []
        while waiting:
            stretch = waiting[0]
            first, stop = int(stretch.numbers[0]), int(stretch.numbers[-1]) + 1
            if begin < first or begin >= stop:
                break
            part = run if end <= stop else list(cut(run, begin, stop))
            if held and len(held) + len(part) > most:
                yield from _episode(stretch, held, dropped)
                held = []
            held += part
            if end <= stop:
                break
            yield from _episode(waiting.pop(0), held, dropped)
            held = []
    if waiting:
        yield from _episode(waiting[0], held, dropped)


def _episode(stretch: Stretch, held: list[CodedPacket], dropped: Counter[str]) -> Iterator[tuple[Stretch, list[CodedPacket]]]:
    if len(held) > 1:
        start = held[0].frame - int(stretch.numbers[0])
        dropped[BEFORE_KEYFRAME] -= len(held)
        yield stretch.part(slice(start, start + len(held))), held
