"""A real Milvus server: killed, restarted, gone; with a password and without the right one."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import load, rows
from milvus_server import Server

import query_code
from similar_images.images import decode_workers
from similar_images.milvus import client as milvus
from similar_images.milvus.client import Client
from similar_images.milvus.collection import ImageCollection, existing_collection
from similar_images.milvus.connection import connect

Fails = Callable[..., str]
pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")


def test_tests_that_share_a_server_share_a_process(
    server: Server, request: pytest.FixtureRequest
) -> None:
    """Else each process starts one of its own, and twenty collections more are made."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@server 1"), "pytest-xdist overlooks the groups"


def test_a_load_waits_for_a_server_that_was_killed(
    loaded: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = rows()
    monkeypatch.setattr(Client, "upsert_rows", 16)
    upsert, warn, calls, warnings = (
        ImageCollection.upsert,
        milvus.warn,
        itertools.count(1),
        itertools.count(1),
    )

    def kill_at_the_fifth(self: ImageCollection, *args: object) -> None:
        if next(calls) == 5:  # of two threads, one
            server.kill()
        upsert(self, *args)  # type: ignore[arg-type]

    def restart_at_the_third_warning(text: str) -> None:
        warn(text)
        if next(warnings) == 3:  # two requests were under way, and each has warned once
            server.restart()

    monkeypatch.setattr(ImageCollection, "upsert", kill_at_the_fifth)
    monkeypatch.setattr(milvus, "warn", restart_at_the_third_warning)
    assert load("--milvus-uri", server.uri, "--batch-size", "8") == 0
    errors = capsys.readouterr().err
    assert "trying again in 1 s" in errors
    assert "trying again in 2 s" in errors
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
    monkeypatch.setattr(Client, "upsert_rows", 16)
    monkeypatch.setattr(milvus, "RETRY_SECONDS", 4)
    upsert, calls = ImageCollection.upsert, itertools.count(1)

    def kill_at_the_fifth(self: ImageCollection, *args: object) -> None:
        if next(calls) == 5:  # of two threads, one
            server.kill()
        upsert(self, *args)  # type: ignore[arg-type]

    options = ["--milvus-uri", server.uri, "--batch-size", "8"]
    with monkeypatch.context() as patch:
        patch.setattr(ImageCollection, "upsert", kill_at_the_fifth)
        assert load(*options) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "trying again" not in line]
    errors = [line for line in lines if not line.startswith("warning")]
    assert len(errors) == 1, lines
    assert errors[0].startswith("error: Milvus at http://127.0.0.1")
    assert "run it again: what is loaded is kept" in errors[0]
    assert "Connection refused" in fails(query_code.main, "--milvus-uri", server.uri)
    assert server.collections() == ["images"], "it is back"
    assert len(rows(server.uri)) >= 48  # the fourth may have been on its way
    capsys.readouterr()
    assert load(*options) == 0
    out = capsys.readouterr().out
    assert "Loaded 180 images" not in out
    assert set(rows(server.uri)) == set(rows())


def test_paths_that_others_wrote_are_not_opened(
    loaded: Path,
    server: Server,
    fails: Fails,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a server anyone may have written the collection's folder and weights."""
    assert load("--milvus-uri", server.uri) == 0
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    queries = ["--queries", str(loaded / "query_set"), "--milvus-uri", server.uri]
    opened: list[str] = []
    decode = decode_workers.decode

    def note(folder: Path, path: str, least_side: int | None) -> object:
        opened.append(path)
        return decode(folder, path, least_side)

    monkeypatch.setattr(decode_workers, "decode", note)
    monkeypatch.chdir(elsewhere)
    assert query_code.main(queries) == 0
    assert not any("database_set" in path for path in opened)
    assert "not opened" in Path("results/gallery.html").read_text()
    assert query_code.main([*queries, "--collection-images", str(loaded / "database_set")]) == 0
    assert any("database_set" in path for path in opened)
    with connect(server.uri) as client:
        collection = existing_collection(client, "images")
        collection.set_properties(weights="/somebody/elses.pth", weights_sha256="0" * 64)
    assert "give the file with --weights" in fails(query_code.main, *queries)
