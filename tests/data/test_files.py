"""Files of others: folders that go round in circles, pipes, what only names other files, and servers that fail for a while."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dreamer_ray.data import files
from dreamer_ray.data.files import fetch, list_files, open_file
from dreamer_ray.data.inspection import video_head
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.video import video_info
from dreamer_ray.data.videos import VideosConfig, VideosSource
from dreamer_ray.data.vpt import VptConfig, VptSource
from dreamer_ray.errors import UserError

pytestmark = pytest.mark.timeout(60)
NAME = "cheeky-cornflower-setter-02e496ce4abb-20220421-092639"


def test_links_to_folders_above_are_not_followed(tmp_path):
    deep = tmp_path / "in" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "x.mp4").touch()
    (deep / ".hidden.mp4").touch()
    (tmp_path / "secret.mp4").touch()
    for number in range(12):
        (deep / f"up{number}").symlink_to(tmp_path / "in", target_is_directory=True)
    (deep / "out").symlink_to(tmp_path, target_is_directory=True)
    assert list_files(str(tmp_path / "in"), (".mp4",)) == ["a/b/x.mp4"]


def test_a_vpt_file_that_is_a_link_out_of_its_folder_costs_its_recording(tmp_path, videos):
    folder = tmp_path / "in"
    folder.mkdir()
    videos.write(tmp_path / "outside.mp4", 12)
    (folder / f"{NAME}.mp4").symlink_to(tmp_path / "outside.mp4")
    (folder / f"{NAME}.jsonl").write_text("{}\n")
    found = VptSource(VptConfig(path=str(folder)))
    with pytest.raises(BadRecordingError, match="is a link that leads out of"):
        found.read(found.index()[0])


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path, videos):
    videos.write(tmp_path / "a.mp4", 12)
    os.mkfifo(tmp_path / "actions.yaml")
    with pytest.raises(UserError, match=r"actions\.yaml: is not a plain file"):
        _ = VideosSource(VideosConfig(kind="videos", path=str(tmp_path))).form
    (tmp_path / "actions.yaml").unlink()
    (tmp_path / "actions.yaml").write_bytes(b" " * 2_000_000)
    with pytest.raises(UserError, match=r"actions\.yaml: has 2000000 bytes, more than"):
        _ = VideosSource(VideosConfig(kind="videos", path=str(tmp_path))).form


class OnlyGet(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(405)

    def log_message(self, format, *args):  # noqa: A002
        pass


@contextmanager
def serving(handler: type[OnlyGet]) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield running
        running.shutdown()


@pytest.fixture
def asked():
    """A server that fails as often as its path says, ``/STATUS/TIMES/...``, and the paths that it was asked for."""
    paths: list[str] = []

    class Handler(OnlyGet):
        def do_GET(self):
            paths.append(self.path)
            _, status, times, *_ = self.path.split("/")
            fails = paths.count(self.path) <= int(times)
            self.send_response(int(status) if fails else 200)
            body = b"" if fails else b"content"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

    with serving(Handler) as running:
        yield f"http://127.0.0.1:{running.server_port}", paths


def test_what_names_another_place_is_no_video_and_nobody_is_asked(tmp_path, asked):
    server, paths = asked
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{server}/200/0/part.ts\n#EXT-X-ENDLIST\n"
    session = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    for number, text in enumerate([playlist, session, f"ffconcat version 1.0\nfile {server}/200/0/x.mp4\n"]):
        path = tmp_path / f"{number}.mp4"
        path.write_text(text)
        with pytest.raises(BadRecordingError, match="cannot be read as a video"):
            video_info(str(path))
        with pytest.raises(UserError, match="none of its 1 videos can be read"):
            _ = VideosSource(VideosConfig(kind="videos", path=str(tmp_path))).fps
        path.unlink()
    assert not paths


@pytest.mark.parametrize("read", [open_file, fetch])
def test_a_server_that_fails_for_a_while_is_asked_again(asked, monkeypatch, read):
    monkeypatch.setattr(files, "PAUSES", (0.01, 0.02, 0.03))
    server, _ = asked
    with read(f"{server}/503/2/{read.__name__}") as file:
        assert file.read() == b"content"


def test_a_server_that_fails_for_ever_is_named_with_its_status(asked, monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.01, 0.02, 0.03))
    server, paths = asked
    with pytest.raises(OSError, match=r"127\.0\.0\.1:\d+: ClientResponseError 503"):
        fetch(f"{server}/503/99/x")
    assert len(paths) == 4


@pytest.fixture
def broken():
    """A server that sends half of what it promised as often as ``FAILS`` says, and a folder for what it is to send."""
    content: dict[str, bytes] = {}
    left = {"fails": 2}

    class Handler(OnlyGet):
        def do_GET(self):
            body = content[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            left["fails"] -= 1
            self.wfile.write(body if left["fails"] < 0 else body[: len(body) // 2])

    with serving(Handler) as running:
        yield f"http://127.0.0.1:{running.server_port}", content, left


INDEX = json.dumps({"basedir": "https://example.org/", "relpaths": [f"data/10.0/{NAME}.mp4"] * 100}).encode()


def test_an_index_that_breaks_off_is_asked_for_again_and_kept(broken, monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.01, 0.02, 0.03))
    server, content, left = broken
    content["/all.json"] = INDEX
    found = VptSource(VptConfig(path=f"{server}/all.json"))
    assert len(found.index()) == 1
    left["fails"] = 99
    assert found.left_out() == {"listed twice": 99}, "nobody is asked again for what is known"


def test_an_index_that_cannot_be_had_is_named(broken, asked, monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.01,))
    server, content, left = broken
    content["/all.json"], left["fails"] = INDEX, 99
    with pytest.raises(UserError, match=r"index http://127\.0\.0\.1.*all\.json: cannot be read .*ContentLengthError"):
        VptSource(VptConfig(path=f"{server}/all.json")).index()
    with pytest.raises(UserError, match=r"all\.json: cannot be read .*ClientResponseError 503"):
        VptSource(VptConfig(path=f"{asked[0]}/503/99/all.json")).index()


def test_the_head_of_a_video_on_a_server_that_fails_is_asked_for_again_and_then_named(asked, monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.01,))
    server, paths = asked
    with pytest.raises(BadRecordingError, match=r"x\.mp4: cannot be read as a video .*503"):
        video_head(f"{server}/503/99/x.mp4")
    assert len(paths) > 1


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_file_larger_than_what_is_read_is_refused_before_it_is_taken(tmp_path, asked, where):
    (tmp_path / "x").write_bytes(b"content")
    place = str(tmp_path / "x") if where == "here" else f"{asked[0]}/200/0/x"
    with fetch(place, most=7) as file:
        assert file.read() == b"content"
    with pytest.raises(OSError, match="has 7 bytes or more, and 6 are the most"):
        fetch(place, most=6)


def test_a_file_that_is_not_there_is_asked_for_once(asked, monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (5.0,))
    server, paths = asked
    with pytest.raises(OSError, match="404"):
        fetch(f"{server}/404/99/x")
    assert len(paths) == 1
