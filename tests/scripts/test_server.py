"""A real Milvus server: killed, restarted, gone, hanging; shared by several loaders."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import LOAD, PROJECT, load, rows, wait_until
from milvus_proxy import running_proxy
from milvus_server import Server

import embed_and_load
import query_code
from similar_images.images import decode_workers
from similar_images.milvus import client as milvus
from similar_images.milvus.client import Client
from similar_images.milvus.collection import ImageCollection, existing_collection
from similar_images.milvus.connection import connect
from similar_images.network import weights as network_weights

Fails = Callable[..., str]
Rows = dict[str, dict[str, object]]
pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")


def kill_at_the_fifth_upsert(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    upsert, calls = ImageCollection.upsert, itertools.count(1)

    def kill_at_the_fifth(self: ImageCollection, *args: object) -> None:
        if next(calls) == 5:  # of two threads, one
            server.kill()
        upsert(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Client, "upsert_rows", 16)
    monkeypatch.setattr(ImageCollection, "upsert", kill_at_the_fifth)


def test_a_load_waits_for_a_server_that_was_killed(
    loaded: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = rows()
    warn, warnings = milvus.warn, itertools.count(1)

    def restart_at_the_third_warning(text: str) -> None:
        warn(text)
        if next(warnings) == 3:  # two requests were under way, and each has warned once
            server.restart()

    kill_at_the_fifth_upsert(server, monkeypatch)
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
    monkeypatch.setattr(milvus, "RETRY_SECONDS", 4)
    options = ["--milvus-uri", server.uri, "--batch-size", "8"]
    with monkeypatch.context() as patch:
        kill_at_the_fifth_upsert(server, patch)
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


@pytest.mark.parametrize("method", ["Upsert", "Search", "Query"])
def test_ctrl_c_does_not_wait_for_a_server_that_does_not_answer(
    method: str, loaded: Path, server: Server
) -> None:
    assert method == "Upsert" or load("--milvus-uri", server.uri) == 0
    script = ["query_code.py"] if method == "Search" else ["embed_and_load.py", *LOAD]
    with running_proxy(server.uri) as proxy:
        proxy.methods = (method,)
        proxy.hangs = True
        command = [sys.executable, PROJECT / script[0], *script[1:], "--milvus-uri", proxy.uri]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: bool(proxy.refused), "the request", lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        try:
            errors = process.communicate(timeout=5)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted: ")


def recreated_at_the_second_upsert(
    seed: int, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> Callable[[], Rows]:
    """Let a load be overtaken by a whole --recreate with weights of this seed; return its rows."""
    upsert, calls, stored = ImageCollection.upsert, itertools.count(1), {}

    def overtaken(self: ImageCollection, *arguments: object) -> None:
        if next(calls) == 2:
            with monkeypatch.context() as patch:
                patch.setattr(network_weights, "RANDOM_SEED", seed)
                patch.setenv("XDG_CACHE_HOME", str(cache))
                assert load("--recreate") == 0
            stored.update(rows())
        upsert(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageCollection, "upsert", overtaken)
    monkeypatch.setattr(Client, "upsert_rows", 16)
    return lambda: stored


def test_a_running_load_never_writes_into_the_collection_that_replaces_its_own(
    loaded: Path, server: Server, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILVUS_URI", server.uri)
    replaced = recreated_at_the_second_upsert(1, monkeypatch, loaded / "cache")
    error = fails(embed_and_load.main, *LOAD, "--batch-size", "8")
    assert error.endswith("it was dropped or replaced while it was used; run it again")
    assert len(replaced()) == 180
    assert rows() == replaced()
    assert "other weights" in fails(embed_and_load.main, *LOAD)


@pytest.mark.parametrize("same", [True, False])
def test_of_two_recreates_at_once_the_last_to_end_stays(
    same: bool, loaded: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same weights they load one collection together."""
    monkeypatch.setenv("MILVUS_URI", server.uri)
    assert load() == 0
    seed = network_weights.RANDOM_SEED + (0 if same else 1)
    first = recreated_at_the_second_upsert(seed, monkeypatch, loaded / "cache")
    assert load("--recreate", "--batch-size", "8") == 0
    assert len(first()) == 180
    assert server.collections() == ["images"]
    last = rows()
    assert last.keys() == first().keys()
    equal = [last[path]["embedding"] == first()[path]["embedding"] for path in last]
    assert all(equal) if same else not any(equal)
    assert load() == 0


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

    def note(folder: Path, path: str, *limits: object) -> object:
        opened.append(path)
        return decode(folder, path, *limits)

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
    assert "if the file is yours, give it with --weights" in fails(query_code.main, *queries)


def test_an_address_may_name_a_database(loaded: Path, server: Server, fails: Fails) -> None:
    there = f"{server.uri}/other"
    with connect(server.uri) as client:
        client.milvus.create_database("other")
    try:
        assert load("--milvus-uri", there) == 0
        assert query_code.main(["--milvus-uri", there]) == 0
        assert "there is no collection" in fails(query_code.main, "--milvus-uri", server.uri)
    finally:
        with connect(there) as client:
            client.milvus.drop_alias("images")
            for name in client.milvus.list_collections():
                client.milvus.drop_collection(name)
        with connect(server.uri) as client:
            client.milvus.drop_database("other")
