"""client.py: addresses, secrets, requests that are repeated."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import DIMENSION, PROJECT, TOKEN, load
from milvus_server import Server

import query_code
from similar_images.milvus import client as milvus
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import ImageCollection, existing_collection
from similar_images.milvus.connection import connect
from similar_images.milvus.vector_index import INDEXES

Fails = Callable[..., str]


def test_a_password_opens_the_server_and_is_never_printed(
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


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://root:p/hush@host:19530", "http://…"),
        ("http://root:p#hush@host:19530", "http://…"),
        ("http://root:p?hush@host:19530", "http://…"),
        ("http://root:1/hush@host:19530", "http://…"),
        ("http://root:p[hush@host:19530", "http://host:19530"),
        ("http://root:hush\u2100@host:19530", "http://host:19530"),  # urlsplit repeats this one
        ("https:/root:hush@host:19530", "https:/host:19530"),
        ("https:/root:p/hush@host/x.db", "https:/…"),
        ("root:hush@host:19530", "host:19530"),
        ("http://root:hush@", "http://"),
        ("http://root:hush@host:port", "http://host:port"),
        ("http://root:hush@host:1?x=hush#hush@", "http://…"),
    ],
)
def test_of_a_mistyped_address_no_password_is_printed(
    uri: str, said: str, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.png").touch()
    for main, options in ((query_code.main, ["a.png"]), (lambda args: load(*args), [])):
        line = fails(main, *options, "--milvus-uri", uri)
        assert f" {said} is not a Milvus address; give http://HOST:PORT or a file" in line
        assert "hush" not in line + capsys.readouterr().out


SETTINGS = """
import os
from similar_images.milvus.connection import connect
with connect(os.environ["MILVUS_URI"]) as client:
    print(client.uri, os.environ["MILVUS_URI"], os.environ.get("MILVUS_TOKEN"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for a permission to link")
def test_an_address_in_the_environment_is_ours_to_read_and_no_env_file_is(own_folder: Path) -> None:
    """pymilvus, as it is imported, takes a file as an address for a mistake, and reads a .env."""
    found = importlib.util.find_spec("pymilvus")
    Path("site").mkdir()
    Path("site/pymilvus").symlink_to(Path(str(found and found.origin)).parent)  # it looks above
    Path("site/.env").write_text("MILVUS_TOKEN=root:hush\nMILVUS_CONN_TIMEOUT=soon\n")
    paths = os.pathsep.join(map(str, (PROJECT, Path("site").resolve())))
    environment = {**os.environ, "PYTHONPATH": paths, "MILVUS_URI": "./own.db"}
    command = [sys.executable, "-c", SETTINGS]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("./own.db ./own.db None\n", "")


REQUESTS: dict[str, Callable[[ImageCollection], object]] = {
    "describe": lambda collection: ImageCollection(collection.client, "images"),
    "has": lambda collection: ImageCollection.find(collection.client, "images"),
    "read": lambda collection: list(collection.stored_images()),
    "count": lambda collection: collection.count(),
    "search": lambda collection: list(collection.search(np.eye(DIMENSION, dtype=np.float32)[:3])),
    "index": lambda collection: collection.use_index(INDEXES["hnsw"]),
    "property": lambda collection: collection.set_properties(rows="1"),
    "delete": lambda collection: collection.delete(["no.png"]),
    "flush": lambda collection: collection.flush(),
}


def test_every_request_is_repeated_with_a_warning(
    loaded: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("--milvus-uri", server.uri) == 0
    said: list[str] = []
    monkeypatch.setattr(milvus, "warn", said.append)
    monkeypatch.setattr(milvus, "RETRY_SECONDS", 1.1)
    with connect(server.uri) as client:
        collection = existing_collection(client, "images")
        server.kill()
        for name, request in REQUESTS.items():
            said.clear()
            with pytest.raises(CollectionError, match="Milvus at http"):
                request(collection)
            assert "trying again in 1 s" in said[0], name
    assert "images" in server.collections(), "it is back for the next test"
