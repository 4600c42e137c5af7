"""Several loaders, started by torchrun, on a real server."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from helpers import LOAD, PROJECT, children, rows, wait_until
from milvus_server import Server, free_ports

import split_images
from similar_images.milvus.collection import existing_collection
from similar_images.milvus.connection import connect

pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")
Loader = "subprocess.Popen[str]"


def torchrun(ranks: int, uri: str, *options: str, load: Sequence[str] = ("--prune",)) -> Loader:
    """Start embed_and_load.py on several ranks of this machine; load: its own options."""
    launch = [sys.executable, "-m", "torch.distributed.run", *options]
    launch += ["--nproc-per-node", str(ranks), str(PROJECT / "embed_and_load.py")]
    return subprocess.Popen(
        [*launch, *LOAD, "--milvus-uri", uri, *load],
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
    Path("database_set/text.png").write_text("no image")
    return paths


def test_ranks_load_every_image_once(images: set[str], server: Server) -> None:
    load = torchrun(4, server.uri)
    out, errors = load.communicate()
    assert load.returncode == 0, errors
    assert out.count("Loaded") == 1
    assert "Loaded 199 images" in out
    assert "text.png: not an image" in out
    stored = rows(server.uri)
    assert stored.keys() == images
    gone = sorted(images)[::25]
    for path in gone:
        Path("database_set", path).unlink()
    out = torchrun(2, server.uri).communicate()[0]  # whatever rank had loaded an image before
    assert "Loaded 0 images" in out
    assert "191 were already in the collection" in out
    assert f"{len(gone)} rows without a readable file: removed" in out
    assert rows(server.uri) == {path: stored[path] for path in images - set(gone)}


def test_ranks_recreate_one_collection(images: set[str], server: Server) -> None:
    load = torchrun(2, server.uri, load=["--recreate"])
    errors = load.communicate()[1]
    assert load.returncode == 0, errors
    assert rows(server.uri).keys() == images
    assert server.collections() == ["images"]


def two_nodes(uri: str) -> list[Loader]:
    """Start one rank on each of two "machines": two torchrun agents on this one."""
    port = str(free_ports(1)[0])
    options = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port]
    return [torchrun(1, uri, *options, "--node-rank", str(n)) for n in range(2)]


def errors_in(text: str) -> list[str]:
    """The scripts' own errors; torchrun adds a report and a traceback of its own."""
    assert 'embed_and_load.py", line' not in text, "a traceback"
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_ranks_of_two_nodes_load_every_image_once(images: set[str], server: Server) -> None:
    nodes = two_nodes(server.uri)
    outputs = [node.communicate() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert "Loaded 199 images" in outputs[0][0]
    assert outputs[1][0] == ""
    assert rows(server.uri).keys() == images


# Run by Python at its start: the second rank lists another folder than the one that it is given.
OTHER_FOLDER = """
import os, sys
if os.environ.get("RANK") == "1" and "--multiprocessing-fork" not in sys.orig_argv:
    from similar_images.loading import inventory
    iter_images = inventory.iter_images
    inventory.iter_images = lambda folder, *args: iter_images("other", *args)
"""


def test_machines_with_different_folders_are_refused(
    images: set[str], server: Server, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "sitecustomize.py").write_text(OTHER_FOLDER)
    shutil.copytree("database_set", "other")
    for path in owned_by(1, images)[:5]:
        Path("other", path).unlink()

    def refused() -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{own_folder}{os.pathsep}{PROJECT}")
            nodes = two_nodes(server.uri)
            outputs = [node.communicate() for node in nodes]
        assert [node.returncode for node in nodes] == [1, 1], outputs
        (error,) = errors_in(outputs[0][1])
        assert "rank 0 lists 200 files under database_set" in error
        assert "1 (195 files)" in error
        assert "run it again" in error
        (error,) = errors_in(outputs[1][1])
        assert error.startswith("error: rank 1: ")
        assert error.endswith("; run it again")

    refused()
    with connect(server.uri) as client:
        assert not existing_collection(client, "images").is_whole
    assert torchrun(2, server.uri).wait() == 0
    refused()
    assert rows(server.uri).keys() == images, "nothing was pruned"


def owned_by(rank: int, paths: Iterable[str], ranks: int = 2) -> list[str]:
    return sorted(path for path in paths if zlib.crc32(path.encode()) % ranks == rank)


def test_the_limit_for_pruning_is_that_of_all_ranks_together(
    images: set[str], server: Server
) -> None:
    first, second = owned_by(0, images), owned_by(1, images)
    assert torchrun(2, server.uri).wait() == 0
    gone = {*first[::10], *second[::5], *second[1::5], *second[2::5]}
    for path in gone:
        Path("database_set", path).unlink()
    load = torchrun(2, server.uri)
    out, errors = load.communicate()
    assert load.returncode == 0, errors
    assert f"{len(gone)} rows without a readable file: removed" in out
    left = images - gone
    assert rows(server.uri).keys() == left
    first, second = owned_by(0, left), owned_by(1, left)
    for path in [*first[::3], *second[1:]]:
        Path("database_set", path).unlink()
    load = torchrun(2, server.uri)
    out, errors = load.communicate()
    assert load.returncode == 1, out
    (error,) = errors_in(errors)
    assert "too many to remove unasked" in error
    assert rows(server.uri).keys() == left, "nothing was removed"


def test_many_unreadable_files_are_counted_and_some_named(images: set[str], server: Server) -> None:
    """With their long paths, all names together are more than the ranks' store takes."""
    number, deep = 6000, Path("database_set", *["d" * 250] * 12)
    deep.mkdir(parents=True)
    for n in range(number):
        (deep / f"{n}.png").touch()
    os.symlink(Path.cwd() / "database_set", "database_set/circle")
    load = torchrun(2, server.uri)
    out, errors = load.communicate()
    assert load.returncode == 0, errors
    assert (
        f"Skipped unreadable files: {number + 2:,}" in out
    )  # and the two of the fixture and the link
    assert "others" in out
    assert out.count("a link to a folder that it lies in") == 1
    assert rows(server.uri).keys() == images


# Run by Python at its start: a rank stops after its first upsert, and writes its process number.
HELD_RANK = """
import os, sys
if "RANK" in os.environ and "--multiprocessing-fork" not in sys.orig_argv:
    import threading
    from similar_images.loading import ranks
    from similar_images.milvus.client import Client
    from similar_images.milvus.collection import ImageCollection
    ranks.SILENT_BEATS = 5
    Client.upsert_rows = 16
    Client.upserts_at_once = 1
    upsert = ImageCollection.upsert

    def held(*args):
        upsert(*args)
        with open(".held", "w") as file:
            file.write(str(os.getpid()))
        os.rename(".held", "held")
        threading.Event().wait()

    if os.environ["RANK"] == os.environ["HELD_RANK"]:
        ImageCollection.upsert = held
"""


@pytest.mark.parametrize("fate", ["killed", "machine lost"])
@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_rank_or_its_machine_dies_the_others_end(
    rank: int,
    fate: str,
    images: set[str],
    server: Server,
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (own_folder / "sitecustomize.py").write_text(HELD_RANK)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{own_folder}{os.pathsep}{PROJECT}")
        patch.setenv("HELD_RANK", str(rank))
        nodes = two_nodes(server.uri)
    try:
        wait_until(Path("held").exists, "the rank was held", lambda: nodes[rank].poll() is None)
        victim = int(Path("held").read_text())
        if fate == "killed":
            os.kill(victim, signal.SIGKILL)
        else:  # nothing answers, and no connection is closed
            for pid in (nodes[rank].pid, victim):
                os.kill(pid, signal.SIGSTOP)
        other = nodes[1 - rank]
        errors = other.communicate(timeout=60)[1]
    finally:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(Path("held").read_text()), signal.SIGKILL)
        for node in nodes:
            node.kill()
            node.wait()
    assert other.returncode == 1, errors
    (error,) = errors_in(errors)
    assert error.startswith(f"error: rank {1 - rank}: ")
    assert error.endswith("; run it again")
    assert 16 <= len(rows(server.uri)) < len(images)


def test_a_rank_that_dies_is_finished_by_a_rerun(
    images: set[str], server: Server, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "sitecustomize.py").write_text(HELD_RANK)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{own_folder}{os.pathsep}{PROJECT}")
        patch.setenv("HELD_RANK", "1")
        load = torchrun(2, server.uri)
        wait_until(Path("held").exists, "the rank was held", lambda: load.poll() is None)
    pid = int(Path("held").read_text())
    assert pid in children(load.pid)
    os.kill(pid, 9)
    errors = load.communicate()[1]
    assert load.returncode != 0
    assert len(errors_in(errors)) <= 1  # none if torchrun ends the other rank first
    assert 16 <= len(rows(server.uri)) < len(images)
    again = torchrun(2, server.uri)
    errors = again.communicate()[1]
    assert again.returncode == 0, errors
    assert rows(server.uri).keys() == images


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
    assert "there is no folder database_set" in lines[0]
