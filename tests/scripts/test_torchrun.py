"""Several loaders, started by torchrun, on a real server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import LOAD, PROJECT, children, rows, wait_until
from milvus_server import Server, free_ports

import split_images

pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")
Loader = "subprocess.Popen[str]"


def torchrun(ranks: int, uri: str, *options: str) -> Loader:
    """Start embed_and_load.py on several ranks of this machine."""
    launch = [sys.executable, "-m", "torch.distributed.run", *options]
    launch += ["--nproc-per-node", str(ranks), str(PROJECT / "embed_and_load.py")]
    return subprocess.Popen(
        [*launch, *LOAD, "--milvus-uri", uri, "--prune"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def images() -> set[str]:
    """A folder of 199 digits, and a file in it that is none."""
    assert split_images.main(["--sample", "--limit", "222"]) == 0
    paths = {path.relative_to("database_set").as_posix() for path in Path().glob("d*/*/*.png")}
    assert len(paths) == 199
    Path("database_set/text.png").write_text("no picture")
    return paths


def test_ranks_load_every_image_once(images: set[str], server: Server) -> None:
    load = torchrun(4, server.uri)
    out, errors = load.communicate()
    assert load.returncode == 0, errors
    assert out.count("Loaded") == 1
    assert "Loaded 199 images" in out
    assert "text.png: not a picture" in out
    stored = rows(server.uri)
    assert stored.keys() == images
    gone = sorted(images)[::25]
    for path in gone:
        Path("database_set", path).unlink()
    out = torchrun(2, server.uri).communicate()[0]  # whatever rank had loaded a picture before
    assert "Loaded 0 images" in out
    assert "191 were in already" in out
    assert f"{len(gone)} rows have no readable file any more: removed" in out
    assert rows(server.uri) == {path: stored[path] for path in images - set(gone)}


def test_ranks_of_two_nodes_load_every_image_once(images: set[str], server: Server) -> None:
    port = str(free_ports(1)[0])
    options = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port]
    nodes = [torchrun(1, server.uri, *options, "--node-rank", str(n)) for n in range(2)]
    outputs = [node.communicate() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert "Loaded 199 images" in outputs[0][0]
    assert outputs[1][0] == ""
    assert rows(server.uri).keys() == images


# Run by Python at its start: the second rank stops after its first upsert, and says so.
HELD_RANK = """
import os, sys
if os.environ.get("RANK") == "1" and "--multiprocessing-fork" not in sys.orig_argv:
    import threading
    from similar_images.loading import row_writer
    from similar_images.milvus.collection import ImageCollection
    row_writer.UPSERT_ROWS = 16
    upsert = ImageCollection.upsert

    def held(*args):
        upsert(*args)
        open("held", "w").close()
        threading.Event().wait()

    ImageCollection.upsert = held
"""


def test_a_rank_that_dies_is_finished_by_a_rerun(
    images: set[str], server: Server, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "sitecustomize.py").write_text(HELD_RANK)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{own_folder}{os.pathsep}{PROJECT}")
        load = torchrun(2, server.uri)
        wait_until(Path("held").exists, "the rank was held", lambda: load.poll() is None)
        ranks = {rank_of(pid): pid for pid in children(load.pid)}
        os.kill(ranks["1"], 9)
        load.communicate()
    assert load.returncode != 0
    assert 16 <= len(rows(server.uri)) < len(images)
    again = torchrun(2, server.uri)
    errors = again.communicate()[1]
    assert again.returncode == 0, errors
    assert rows(server.uri).keys() == images


def rank_of(pid: int) -> str:
    """The rank that torchrun gave a process (Linux)."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((line[5:].decode() for line in lines if line.startswith(b"RANK=")), "")


def test_milvus_lite_takes_one_rank(images: set[str]) -> None:
    load = torchrun(2, "./milvus.db")
    errors = load.communicate()[1]
    assert load.returncode != 0
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "takes one process" in lines[0]
    assert not Path("milvus.db").exists()


def test_a_mistake_is_named_once(server: Server) -> None:
    load = torchrun(3, server.uri)
    errors = load.communicate()[1]
    assert load.returncode != 0
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "database_set does not exist" in lines[0]
