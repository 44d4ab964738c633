"""The report of ``dreamer-ray inspect`` as lines for a terminal."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import median

from dreamer_ray.data.action_tally import AxesFigures, ChoiceFigures, ComponentFigures, KeyFigures
from dreamer_ray.data.inspection import Report
from dreamer_ray.data.set_facts import SetFacts
from dreamer_ray.progress import duration

WIDTH, TITLE = 132, 13
SHOWN = 12
"""Entries of a list, and bad recordings, beyond these are counted."""
BARS = " ▁▂▃▄▅▆▇█"
Lines = Iterator[tuple[str, str]]


def described(report: Report, part: str, *, decoded: bool) -> str:
    """The lines about one data set; ``part`` is its name in a run."""
    sections = [_recordings(report, decoded=decoded), _pictures(report), _set(report.set) if report.set else iter(()), _actions(report)]
    sections += [_tasks(report), _left_out(report), _provenance(report)]
    lines, before = [f"{part or report.path}: {report.kind}"], ""
    for title, text in (line for section in sections for line in section):
        lines.append(f"{'' if title == before else title:<{TITLE}}{text}".rstrip())
        before = title
    return "\n".join(map(_printable, lines)) + "\n"


def _printable(line: str) -> str:
    """Without what a foreign name could do to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _unit(report: Report) -> str:
    return "episodes" if report.set else "takes"


def _recordings(report: Report, *, decoded: bool) -> Lines:
    whole, tried = report.whole, report.read + len(report.bad)
    word = "episodes" if report.set else "recordings"
    groups = "" if whole.groups == whole.recordings else f" in {whole.groups:,} groups that a split keeps together"
    some = f"; what follows is of {tried:,} of them, spread evenly (--recordings N for more)" if tried else "; none was read"
    some = "" if tried == whole.recordings else some
    yield word, f"{whole.recordings:,}{groups}{some}"
    if report.bad:
        yield "bad", f"{len(report.bad):,} of {tried:,}"
        yield from (("bad", f"  {bad.name}: {bad.reason}") for bad in report.bad[:SHOWN])
        if len(report.bad) > SHOWN:
            yield "bad", f"  and {len(report.bad) - SHOWN:,} more (--json names all)"
        if not report.read and tried < whole.recordings:
            yield "bad", "  so no others were tried"
    elif report.shapes and not report.set:
        yield "bad", f"none of {tried:,}, of which {'all pictures were' if decoded else 'the first picture was'} decoded"
    if whole.hours is not None:
        about = "" if whole.hours_known else "about "
        read = "" if tried == whole.recordings else f"; read {_hours(report.hours)}"
        yield "hours", f"{about}{_hours(whole.hours)}{read} ({report.frames:,} frames at {report.fps:g} a second)"
    if report.takes and not report.set:
        yield "takes", f"{len(report.takes):,}"
    if report.takes:
        low, middle, high = min(report.takes), median(report.takes), max(report.takes)
        yield (
            "lengths",
            f"{low:,} / {middle:,.0f} / {high:,} frames, shortest / middle / longest; {report.terminal:,} terminal",
        )


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h ({duration(hours * 3600)})"


def _pictures(report: Report) -> Lines:
    if report.shapes:
        yield "pictures", _counted(report.shapes, report.read)
    if report.codecs:
        yield "video", _counted(report.codecs, sum(report.codecs.values()))
    if report.whole.bytes is not None:
        per_hour = f"; {_bytes(report.bytes_per_hour)} an hour" if report.bytes_per_hour else ""
        yield "bytes", f"{_bytes(report.whole.bytes)}{per_hour}"
    elif report.bytes_per_hour:
        yield "bytes", f"{_bytes(report.bytes_per_hour)} an hour"


def _counted(counts: Mapping[str, int], total: int) -> str:
    return ", ".join(name if count == total else f"{name} ({count:,} of {total:,})" for name, count in counts.items())


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def _set(facts: SetFacts) -> Lines:
    what = {"float16": "float16 latents of {} x {} channels", "link": "links to H.264 pictures, {} x {} when read"}
    shown = what.get(facts.codec, f"{facts.codec} pictures of {{}} x {{}}").format(*facts.shape)
    yield "set", f"split {facts.split}, fingerprint {facts.fingerprint}, {facts.files:,} files of {shown}"
    if facts.std:
        yield "deviation", f"{facts.std[0]:.3g} .. {facts.std[1]:.3g} of a number of a latent"
    if facts.layout:
        yield "layout", ", ".join(f"{name} {_value(value)}" for name, value in facts.layout.items())
    yield from (("from", source) for source in facts.sources)
    yield from (("note", note) for note in facts.notes)
    if facts.parents:
        yield "made of", ", ".join(f"{name} {fingerprint}" for name, fingerprint in facts.parents.items())


def _value(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


def _actions(report: Report) -> Lines:
    if report.labelled is None:
        return
    null = "; which of them do nothing is not known" if report.actions and report.null is None else ""
    if report.null is not None:
        null = f"; {report.null:.1%} of these do nothing"
    yield "labelled", f"{report.labelled:.1%} of the frames" + null
    for name, component in report.actions.items():
        for number, line in enumerate(_component(component)):
            yield "actions", f"{name if number == 0 else '':<14}{line}"


def _component(component: ComponentFigures) -> Iterator[str]:
    if isinstance(component, KeyFigures):
        held = sorted(component.held.items(), key=lambda item: -item[1])
        yield from _wrapped(f"{name} {share:.1%}" for name, share in held if share > 0)
        if never := [name for name, share in held if share == 0]:
            yield f"never held: {_some(never)}"
    elif isinstance(component, ChoiceFigures):
        chosen = list(component.chosen.items())
        rest = sum(share for _, share in chosen[SHOWN:])
        more = [f"{len(chosen) - SHOWN} others {rest:.1%}"] if len(chosen) > SHOWN else []
        yield from _wrapped([f"{name} {share:.1%}" for name, share in chosen[:SHOWN]] + more)
        if len(chosen) < component.size:
            yield f"{len(chosen)} of {component.size} choices are made"
    else:
        yield from _axes(component)


def _axes(component: AxesFigures) -> Iterator[str]:
    names = list(component.axes)[:SHOWN]
    width = max(map(len, names)) + 2
    for name in names:
        axis = component.axes[name]
        most = max(axis.histogram)
        bars = "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in axis.histogram)
        yield f"{name:<{width}}{axis.low:>10.4g} .. {axis.high:<10.4g} mean {axis.mean:<11.4g} |{bars}| -1 .. 1 scaled"
    if len(component.axes) > SHOWN:
        yield f"and {len(component.axes) - SHOWN} more axes (--json names all)"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _wrapped(words: Iterable[str]) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(line) + len(word) > WIDTH - TITLE - 16:
            yield line
            line = ""
        line += ("  " if line else "") + word
    if line:
        yield line


def _tasks(report: Report) -> Lines:
    if not (takes := len(report.takes)):
        return
    for name, task in sorted(report.tasks.items(), key=lambda item: -item[1].takes):
        if task.events:
            yield "tasks", f"{name}: {task.events:,} events in {task.takes:,} of {takes:,} {_unit(report)}"
    if never := [name for name, task in report.tasks.items() if not task.events]:
        yield "tasks", f"never achieved: {_some(never)}"


def _left_out(report: Report) -> Lines:
    for reason, count in report.whole.left_out.items():
        yield "left out", f"{count:,} entries of the index: {reason}"
    for reason, count in report.dropped.items():
        yield "dropped", f"{count:,} {reason}"
    for what, count in report.mended.items():
        yield "mended", f"{count:,} {what}"
    if report.set:
        yield from (("dropped", f"{count:,} {reason} (when the set was made)") for reason, count in report.set.dropped.items())
        yield from (("left out", f"{count:,} entries of an index: {reason}") for reason, count in report.set.left_out.items())
        bad = list(report.set.bad.items())
        yield from (("unusable", f"{name}: {reason}") for name, reason in bad[:SHOWN])
        if len(bad) > SHOWN:
            yield "unusable", f"and {len(bad) - SHOWN:,} more (--json names all)"


def _provenance(report: Report) -> Lines:
    for name, number in report.numbers.items():
        span = f"{number.low:.10g}" if number.low == number.high else f"{number.low:.10g} .. {number.high:.10g}, mean {number.mean:.6g}"
        yield "noted", f"{name}: {span}"
    for name, counts in report.words.items():
        if any(counts) and (len(counts) < len(report.takes) or len(counts) == 1):
            yield "noted", f"{name}: {_some([f'{word} ({count:,})' if len(counts) > 1 else word for word, count in counts.items()])}"
