"""Downloads from a server that cuts connections, forgets ranges and lies."""

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dreamer_ray.data.download import RemoteFile, fetch, unpack, zenodo_files
from dreamer_ray.errors import RunError, UserError

CONTENT = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Serves ``CONTENT`` under /file and ``record`` under /records/7; ``cuts`` are how many bytes each of the next connections gives."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        self.ranges, self.status, self.record = True, 200, b"{}"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server: Server = self.server  # pyright: ignore[reportAssignmentType]
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        body, start = (CONTENT, 0) if self.path == "/file" else (server.record, 0)
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts and self.path == "/file" else len(body)
        self.wfile.write(body[start : start + cut])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.serve_forever, args=(0.05,))
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def remote(server: Server, content: bytes = CONTENT) -> RemoteFile:
    values = {"key": "set.zip", "size": len(CONTENT), "checksum": f"md5:{hashlib.md5(content).hexdigest()}"}
    return RemoteFile.model_validate(values | {"links": {"self": f"{server.address}/file"}})


def download(server: Server, folder: Path, **options) -> Path:
    return fetch(remote(server, **options), folder, pause=0.001)


def test_a_file_is_fetched_once(server, tmp_path):
    assert download(server, tmp_path).read_bytes() == CONTENT
    assert download(server, tmp_path) == tmp_path / "set.zip"
    assert server.asked == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_cut_connections_are_taken_up_where_they_were_cut(server, tmp_path):
    server.cuts = [1000, 50_000, 0, 7]
    assert download(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=51000-", "bytes=51000-", "bytes=51007-"]


def test_a_run_that_was_killed_goes_on(server, tmp_path):
    (tmp_path / ".set.zip.partial").write_bytes(CONTENT[:123_456])
    assert download(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=123456-"]


def test_a_server_without_ranges_is_read_from_the_beginning(server, tmp_path):
    server.ranges, server.cuts = False, [5000]
    assert download(server, tmp_path).read_bytes() == CONTENT


def test_a_server_that_gives_nothing_more_is_given_up_and_what_came_is_kept(server, tmp_path):
    server.cuts = [777] + [0] * 20
    with pytest.raises(RunError, match=rf"cut at 777 of {len(CONTENT)} bytes .*these are kept"):
        download(server, tmp_path)
    server.cuts = []
    assert download(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=777-"


def test_a_refusal_is_not_asked_for_again(server, tmp_path):
    server.status = 404
    with pytest.raises(RunError, match="404"):
        download(server, tmp_path)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = 503
    with pytest.raises(RunError, match="503"):
        download(server, tmp_path)
    assert len(server.asked) == 8


def test_another_checksum_is_refused_and_the_file_removed(server, tmp_path):
    with pytest.raises(RunError, match=r"its md5 is .* Zenodo says"):
        download(server, tmp_path, content=b"else")
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_of_something_else_is_found_out(server, tmp_path):
    (tmp_path / ".set.zip.partial").write_bytes(b"x" * 100)
    with pytest.raises(RunError, match="run it again to begin anew"):
        download(server, tmp_path)
    assert download(server, tmp_path).read_bytes() == CONTENT


def test_no_server_at_all(tmp_path, server):
    file = remote(server)
    gone = file.model_copy(update={"links": file.links.model_copy(update={"url": "http://127.0.0.1:9/file"})})
    with pytest.raises(RunError, match=r"127\.0\.0\.1:9/file: cut at 0"):
        fetch(gone, tmp_path, pause=0.001)


def test_a_file_larger_than_the_disk_is_refused_before_it_comes(server, tmp_path):
    with pytest.raises(RunError, match="the disk has"):
        fetch(remote(server).model_copy(update={"size": 2**49}), tmp_path)
    assert server.asked == []


def entry(**options) -> dict:
    links = {"self": "https://zenodo.org/api/records/7/files/a.zip/content"}
    return {"key": "a.zip", "size": 3, "checksum": "md5:" + "0" * 32, "links": links} | options


def test_the_files_of_a_record(server):
    server.record = json.dumps({"id": 7, "files": [entry()], "metadata": {"title": "t"}}).encode()
    (file,) = zenodo_files(7, f"{server.address}/records/")
    assert (file.key, file.size, file.links.url) == ("a.zip", 3, entry()["links"]["self"])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "Input should be"),
        ({"files": []}, "files"),
        ({"files": [entry(key="../../a.zip")]}, "leads out"),
        ({"files": [entry(key="b/a.zip")]}, "another folder"),
        ({"files": [entry(size=-1)]}, "size"),
        ({"files": [entry(size=10**40)]}, "size"),
        ({"files": [entry(checksum="sha1:00")]}, "checksum"),
        ({"files": [entry(links={"self": "file:///etc/passwd"})]}, "links.self"),
    ],
)
def test_a_record_that_nobody_should_serve_is_refused(server, record, message):
    server.record = json.dumps(record).encode()
    with pytest.raises(UserError, match="is 7 a Zenodo record") as caught:
        zenodo_files(7, f"{server.address}/records/")
    assert message in str(caught.value)


def test_no_record_where_the_server_does_not_answer(server):
    server.status = 500
    with pytest.raises(RunError, match="is this machine online"):
        zenodo_files(7, f"{server.address}/records/")


def test_an_archive_is_unpacked_whole(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("env/one/rendered.npz", b"123")
    unpack(tmp_path / "a.zip", tmp_path / "a")
    assert (tmp_path / "a/env/one/rendered.npz").read_bytes() == b"123"


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a\\..\\out"])
def test_an_archive_that_leads_out_leaves_nothing(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", b"1")
        archive.writestr(name, b"2")
    with pytest.raises(RunError, match=r"a\.zip: cannot be unpacked .*leads out"):
        unpack(tmp_path / "a.zip", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_damaged_archive_leaves_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", b"1" * 1000)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[100] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(RunError, match="cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
