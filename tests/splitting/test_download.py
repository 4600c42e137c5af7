"""download.py: continues, retries, gives up in time; only the published file is accepted."""

import hashlib
import http.server
import socketserver
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import write_batches, written

import split_images
from similar_images.splitting import cifar10, download

Fails = Callable[..., str]
ARCHIVE, PARTIAL = Path("cifar-10-python.tar.gz"), Path(".cifar-10-python.tar.gz.partial")


class Server(socketserver.ThreadingTCPServer):
    """Serves one file; it may break connections in the middle, stall, or know no ranges."""

    daemon_threads = True
    content = b""
    ranges = True
    breaks = 0  # connections that end in the middle
    stalls = False
    asked: list[str]
    over: threading.Event


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        rest = server.content[int(asked[len("bytes=") : -1]) if server.ranges else 0 :]
        if not server.content or not rest:
            return self.send_error(416 if server.content else 404)
        self.send_response(206 if server.ranges else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.stalls:
            self.wfile.write(rest[:1000])
            server.over.wait()
        self.wfile.write(rest[: len(rest) // 2] if server.breaks else rest)
        server.breaks = max(0, server.breaks - 1)
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of a small CIFAR-10, in place of the published one."""
    write_batches(own_folder / "made/batches", per_batch=40)
    with tarfile.open("made/archive", "w:gz") as tar:
        tar.add("made/batches", "cifar-10-batches-py")
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.over = [], threading.Event()
        server.content = Path("made/archive").read_bytes()
        monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{server.server_address[1]}/x")
        monkeypatch.setattr(cifar10, "MD5", hashlib.md5(server.content).hexdigest())
        monkeypatch.setattr(download, "PAUSES", (0, 0, 0, 0))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


def assert_split(server: Server) -> None:
    assert split_images.main([]) == 0
    assert ARCHIVE.read_bytes() == server.content
    assert not PARTIAL.exists()
    assert len(written(Path("database_set"))) == 180


@pytest.mark.parametrize("have", [0, 5000, None])
def test_what_has_come_is_not_asked_for_again(have: int | None, server: Server) -> None:
    PARTIAL.write_bytes(server.content[:have])
    assert_split(server)
    assert server.asked == [f"bytes={len(server.content) if have is None else have}-"]


def test_a_server_without_ranges_sends_all_of_it(server: Server) -> None:
    server.ranges = False
    PARTIAL.write_bytes(b"x" * 5000)
    assert_split(server)


def test_a_broken_connection_is_continued(server: Server) -> None:
    server.breaks = 4
    assert_split(server)
    half = len(server.content) // 2
    assert server.asked[:2] == ["bytes=0-", f"bytes={half}-"]
    assert len(server.asked) == 5


def test_one_that_breaks_again_and_again_ends_the_run_and_the_next_continues(
    server: Server, fails: Fails
) -> None:
    server.breaks = 5
    error = fails(split_images.main)
    assert "the connection broke" in error
    assert "run it again to continue" in error
    have = PARTIAL.stat().st_size
    assert have > len(server.content) * 0.9
    assert_split(server)
    assert server.asked[5:] == [f"bytes={have}-"]


def test_a_server_that_sends_nothing_more_ends_the_run(
    server: Server, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stalls = True
    monkeypatch.setattr(download, "STALL_SECONDS", 0.5)
    error = fails(split_images.main)
    assert "nothing has come for 0.5 seconds); run it again to continue, put cifar-10" in error
    assert PARTIAL.read_bytes() == server.content[:1000]
    server.stalls = False
    assert_split(server)
    assert server.asked == ["bytes=0-", "bytes=1000-"]


def test_another_file_is_deleted(server: Server, fails: Fails) -> None:
    PARTIAL.write_bytes(b"x" * 5000)
    assert "another MD5 and was deleted" in fails(split_images.main)
    assert not PARTIAL.exists()
    assert not ARCHIVE.exists()
    assert_split(server)


def test_no_file_and_no_server(
    server: Server, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = b""
    assert "could not be downloaded (HTTP Error 404" in fails(split_images.main)
    assert len(server.asked) == 1
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/x")
    assert "Connection refused" in fails(split_images.main)
    assert not PARTIAL.exists()


def test_quiet_hides_the_bar(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MB", 1000)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert split_images.main([]) == 0
    assert "MB/s" in capsys.readouterr().err
    for name in (ARCHIVE, "database_set", "query_set"):
        Path(name).rename(Path("made", name))
    assert split_images.main(["--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
