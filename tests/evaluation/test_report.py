"""The page stands alone, shows every part, and says the same as summary.json."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from PIL import Image

from dreamer_ray.evaluation import figures
from dreamer_ray.evaluation.intervals import success_rate
from dreamer_ray.evaluation.report import Report, Score, summary, text_table, write_report

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Collects attributes, text and ids; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def values(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


@pytest.fixture(scope="module")
def written(tmp_path_factory, report):
    folder = tmp_path_factory.mktemp("reports") / "run"
    write_report(folder, report)
    return folder


def decoded(uri: str) -> list[np.ndarray]:
    content = base64.b64decode(uri.removeprefix("data:video/mp4;base64,"))
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 4
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def test_page_needs_nothing_but_itself(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    for link in page.values("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
        assert link.startswith(("data:", "#")), link
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert sorted(path.name for path in written.iterdir()) == ["report.html", "summary.json"]
    ids = page.values("id")
    assert {link[1:] for link in page.values("xlink:href")} <= set(ids)


def test_page_shows_every_part_and_escapes_text(written, report):
    page = Page((written / "report.html").read_text())
    words = " ".join(page.words)
    for part in ("fresh worlds", "held-out", "bottleneck", "Dreams", "Actions", "Training", "Time", "made", "Recipe", "Notes"):
        assert part in words
    for value in ("Crafter <tiny>", "22.14", "0:05:02", "459.1 frames/s", "6 dB above", "make wood pickaxe", "random play", "# <no link>"):
        assert value in words
    assert "While imagination trained" in page.words
    assert (page.words.count("met"), page.words.count("missed")) == (1, 1)
    assert len([uri for uri in page.values("src") if uri.startswith("data:video")]) == len(report.dreams)


def test_video_shows_truth_and_dream_in_order(written, report):
    page = Page((written / "report.html").read_text())
    uri = next(uri for uri in page.values("src") if uri.startswith("data:video"))
    shown, dream = decoded(uri), report.dreams[0]
    assert len(shown) == len(dream.truth)
    for picture, truth, dreamed in zip(shown, dream.truth, dream.dream, strict=True):
        assert np.abs(picture[2:288:4, 2:288:4].astype(int) - truth).mean() < 8
        assert np.abs(picture[2:288:4, 298:584:4].astype(int) - dreamed).mean() < 8


def test_bar_tells_given_frames_from_dreamed_ones(report):
    dream = report.dreams[0]
    bars = figures.side_by_side(dream.truth, dream.dream, context=dream.context)[:, -1, -1]
    assert len(np.unique(bars[: dream.context], axis=0)) == 1
    assert len(np.unique(bars[dream.context :], axis=0)) == 1
    assert (bars[0] != bars[-1]).any()


def test_video_of_odd_pictures_has_even_sides():
    odd = np.zeros((2, 7, 5, 3), np.uint8)
    assert len(decoded(figures.video(figures.side_by_side(odd, odd, context=0, scale=1), 4))) == 2


def test_originals_stand_above_their_reconstructions_unchanged(written, report):
    page = Page((written / "report.html").read_text())
    uri = next(uri for uri in page.values("src") if uri.startswith("data:image/png"))
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    picture = np.asarray(Image.open(io.BytesIO(content)))
    assert np.array_equal(picture[:72, 74 : 74 + 72, :3], report.originals[1])
    assert np.array_equal(picture[74:, -72:, :3], report.reconstructions[-1])


def test_summary_holds_the_same_figures(written, report):
    found = json.loads((written / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found == json.loads(json.dumps(summary(report)))
    assert found["quality"][0]["model"] == 22.143
    assert found["quality"][2]["baseline_value"] is None
    assert found["success"][0]["variants"]["imagination"]["n"] == 80
    assert found["success"][0]["variants"]["imagination"]["low"] == report.success[0].variants["imagination"].low
    assert found["curves"]["tokenizer"]["perceptual"][-1] == [600, None]
    assert found["stages"][1] == {"name": "tokenizer", "seconds": 241.0, "steps": 3400, "rate": 14.1, "unit": "steps"}
    assert [[step, share["value"]] for step, share in found["rounds"]["place_table"]] == [[0, 0], [8, 0.25], [40, 1]]
    assert "originals" not in found


def test_console_table():
    rows = [
        Score("collect_wood", {"random play": success_rate(13, 40), "imagination": success_rate(62, 80)}),
        Score("collect_stone", {"imagination": success_rate(0, 80)}),
    ]
    lines = text_table(Report("t", "", {}, success=rows)).splitlines()
    assert lines[0].split("  ")[0] == "task"
    assert lines[0].index("random play (n = 40)") == lines[2].index("0.33 [0.20, 0.48]") == lines[3].index("-")
    assert lines[0].index("imagination (n = 80)") == lines[2].index("0.78 [0.67, 0.85]") == lines[3].index("0.00 [0.00, 0.05]")
    assert len({len(line) for line in lines[1:2]} | {len(lines[0])}) == 1


def test_empty_parts_are_left_out(tmp_path):
    write_report(tmp_path, Report("bare", "name: bare", {"machine": "any"}))
    words = " ".join(Page((tmp_path / "report.html").read_text()).words)
    assert "bare" in words
    for part in ("Dreams", "Training", "fresh worlds", "held-out", "Time", "targets"):
        assert part not in words


def test_failed_write_leaves_the_earlier_files_whole(tmp_path, monkeypatch):
    write_report(tmp_path, Report("first", "name: bare", {}))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self, *_, **__):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path, Report("second", "name: bare", {}))
    assert before.items() <= {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()


def test_curves_survive_gaps_and_single_points():
    for points in ([], [(0, math.nan)], [(5, 1.0)], [(0, 1e-6), (1, math.inf), (2, 1e3)]):
        assert figures.curve_chart(points).startswith("<svg ")


def test_smoothing_keeps_a_line_and_its_ends():
    values = np.linspace(3, 9, 61)
    smooth = figures._smooth(values)
    assert smooth.shape == values.shape
    np.testing.assert_allclose(smooth[4:-4], values[4:-4])
    assert abs(smooth[0] - 3) < 0.5 > abs(smooth[-1] - 9)
