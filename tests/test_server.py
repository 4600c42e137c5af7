"""A real Milvus server: killed, restarted, gone; with a password and without the right one."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TOKEN, Server
from test_pipeline import load, rows

import image_collection
import query_code
import row_writer
from image_collection import ImageCollection, connect

Fails = Callable[..., str]
pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")


def test_a_load_waits_for_a_server_that_was_killed(
    loaded: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = rows()
    monkeypatch.setattr(row_writer, "UPSERT_ROWS", 16)
    upsert, calls = ImageCollection.upsert, []
    back: list[threading.Thread] = []

    def kill_at_the_fifth(self: ImageCollection, *args: object) -> None:
        calls.append(time.monotonic())
        if len(calls) == 5:
            server.kill()
            back.append(threading.Thread(target=restart_later))
            back[0].start()
        upsert(self, *args)  # type: ignore[arg-type]

    def restart_later() -> None:
        time.sleep(5)
        server.restart()

    monkeypatch.setattr(ImageCollection, "upsert", kill_at_the_fifth)
    assert load("--milvus-uri", server.uri, "--batch-size", "8") == 0
    back[0].join()
    errors = capsys.readouterr().err
    assert "trying again in 1 s" in errors
    assert "trying again in 2 s" in errors
    assert max(np.diff(calls)) > 5
    stored = rows(server.uri)
    assert set(stored) == set(expected)
    for path, row in stored.items():
        np.testing.assert_allclose(row["embedding"], expected[path]["embedding"], atol=1e-6)


def test_a_server_that_stays_away_ends_in_one_line_and_a_later_run_resumes(
    loaded: Path,
    server: Server,
    fails: Fails,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(row_writer, "UPSERT_ROWS", 16)
    monkeypatch.setattr(image_collection, "RETRY_SECONDS", 4)
    upsert, calls = ImageCollection.upsert, []

    def kill_at_the_fifth(self: ImageCollection, *args: object) -> None:
        calls.append(args)
        if len(calls) == 5:
            server.kill()
        upsert(self, *args)  # type: ignore[arg-type]

    options = ["--milvus-uri", server.uri, "--batch-size", "8"]
    with monkeypatch.context() as patch:
        patch.setattr(ImageCollection, "upsert", kill_at_the_fifth)
        start = time.monotonic()
        assert load(*options) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "trying again" not in line]
    errors = [line for line in lines if not line.startswith("warning")]
    assert len(errors) == 1, lines
    assert errors[0].startswith("error: Milvus at http://127.0.0.1")
    assert "run it again: what is loaded is kept" in errors[0]
    assert "server unavailable" in fails(query_code.main, "--milvus-uri", server.uri)
    assert time.monotonic() - start < 600
    assert server.collections() == ["images"], "it is back"
    assert len(rows(server.uri)) >= 64
    capsys.readouterr()
    assert load(*options) == 0
    out = capsys.readouterr().out
    assert "Loaded 180 images" not in out
    assert set(rows(server.uri)) == set(rows())


def test_a_password_lets_in_and_is_never_printed(
    loaded: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, address = server.uri, server.uri.removeprefix("http://")
    monkeypatch.setenv("MILVUS_TOKEN", "root:wrong-hush")
    assert load("--milvus-uri", uri) == 1
    assert query_code.main(["--milvus-uri", f"http://root:wrong-mum@{address}"]) == 1
    monkeypatch.setenv("MILVUS_TOKEN", TOKEN)
    assert load("--milvus-uri", uri) == 0
    assert query_code.main(["--milvus-uri", uri]) == 0
    monkeypatch.delenv("MILVUS_TOKEN")
    assert query_code.main(["--milvus-uri", f"http://{TOKEN}@{address}"]) == 0
    with connect(f"http://{TOKEN}@{address}") as client:
        properties = str(client.milvus.describe_collection("images"))
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error")]
    assert len(errors) == 2
    written = "".join(path.read_text() for path in Path("results").glob("*.[mt]*"))
    everything = captured.out + captured.err + written + properties
    assert address in everything
    for secret in ("hush", "mum", "Milvus@", "root:"):
        assert secret not in everything
