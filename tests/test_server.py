"""A real Milvus server: killed, restarted, gone; with a password and without the right one."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Server
from test_pipeline import load, rows

import embed_and_load
import image_collection
import query_code
from image_collection import ImageCollection, connect

Fails = Callable[..., str]
pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")


@pytest.fixture
def own_server(own_folder: Path) -> Iterator[Server]:
    """A server that the test may kill."""
    server = Server(own_folder / "server")
    yield server
    server.stop()


def test_a_load_waits_for_a_server_that_was_killed(
    loaded: Path,
    own_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = rows()
    monkeypatch.setattr(embed_and_load, "UPSERT_ROWS", 16)
    upsert, calls = ImageCollection.upsert, []
    back: list[threading.Thread] = []

    def kill_at_the_fifth(self: ImageCollection, *args: object) -> None:
        calls.append(time.monotonic())
        if len(calls) == 5:
            own_server.kill()
            back.append(threading.Thread(target=restart_later))
            back[0].start()
        upsert(self, *args)  # type: ignore[arg-type]

    def restart_later() -> None:
        time.sleep(5)
        own_server.restart()

    monkeypatch.setattr(ImageCollection, "upsert", kill_at_the_fifth)
    assert load("--milvus-uri", own_server.uri, "--batch-size", "8") == 0
    back[0].join()
    errors = capsys.readouterr().err
    assert "trying again in 1 s" in errors
    assert "trying again in 2 s" in errors
    assert max(np.diff(calls)) > 5
    stored = rows(own_server.uri)
    assert set(stored) == set(expected)
    for path, row in stored.items():
        np.testing.assert_allclose(row["embedding"], expected[path]["embedding"], atol=1e-6)


def test_a_server_that_stays_away_ends_in_one_line_and_a_later_run_resumes(
    loaded: Path,
    own_server: Server,
    fails: Fails,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(embed_and_load, "UPSERT_ROWS", 16)
    monkeypatch.setattr(image_collection, "RETRY_SECONDS", 4)
    upsert, calls = ImageCollection.upsert, []

    def kill_at_the_fifth(self: ImageCollection, *args: object) -> None:
        calls.append(args)
        if len(calls) == 5:
            own_server.kill()
        upsert(self, *args)  # type: ignore[arg-type]

    options = ["--milvus-uri", own_server.uri, "--batch-size", "8"]
    with monkeypatch.context() as patch:
        patch.setattr(ImageCollection, "upsert", kill_at_the_fifth)
        start = time.monotonic()
        assert load(*options) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "trying again" not in line]
    errors = [line for line in lines if not line.startswith("warning")]
    assert len(errors) == 1, lines
    assert errors[0].startswith("error: Milvus at http://127.0.0.1")
    assert "run it again: what is loaded is kept" in errors[0]
    assert "no Milvus answers" in fails(query_code.main, "--milvus-uri", own_server.uri)
    assert time.monotonic() - start < 600
    own_server.restart()
    assert len(rows(own_server.uri)) >= 64
    capsys.readouterr()
    assert load(*options) == 0
    out = capsys.readouterr().out
    assert "Loaded 180 images" not in out
    assert set(rows(own_server.uri)) == set(rows())


def test_a_password_lets_in_and_is_never_printed(
    loaded: Path,
    fails: Fails,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    server = Server(tmp_path / "guarded", **{"common.security.authorizationEnabled": "true"})
    try:
        address = server.uri.removeprefix("http://")
        monkeypatch.setenv("MILVUS_TOKEN", "root:wrong-hush")
        printed = fails(embed_and_load.main, "--weights", "random", "--milvus-uri", server.uri)
        with_user = f"http://root:wrong-mum@{address}"
        printed += fails(query_code.main, "--milvus-uri", with_user)
        monkeypatch.setenv("MILVUS_TOKEN", "root:Milvus")
        assert load("--milvus-uri", server.uri) == 0
        assert query_code.main(["--milvus-uri", server.uri]) == 0
        monkeypatch.delenv("MILVUS_TOKEN")
        assert query_code.main(["--milvus-uri", f"http://root:Milvus@{address}"]) == 0
        with connect(f"http://root:Milvus@{address}") as client:
            printed += str(client.milvus.describe_collection("images"))
    finally:
        server.stop()
    captured = capfd.readouterr()
    written = "".join(path.read_text() for path in Path("results").glob("*.[mt]*"))
    everything = printed + captured.out + captured.err + written
    assert address in everything
    for secret in ("hush", "mum", "Milvus@", "root:"):
        assert secret not in everything
    assert os.environ.get("MILVUS_TOKEN") is None
