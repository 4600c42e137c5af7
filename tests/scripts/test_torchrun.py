"""Several loaders, started by torchrun, on a real server."""

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
from helpers import load as load_alone
from milvus_server import Server, free_ports

import split_images

pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")
Loader = "subprocess.Popen[str]"
LOST = "error: rank {}: lost the connection to another rank; run it again"


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


def errors_in(text: str) -> list[str]:
    """The scripts' own errors; torchrun adds a report and a traceback of its own."""
    assert 'embed_and_load.py", line' not in text, "a traceback"
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_ranks_load_every_image_once(
    images: set[str], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    os.symlink(Path.cwd() / "database_set", "database_set/circle")
    load = torchrun(3, server.uri)
    out, errors = load.communicate()
    assert load.returncode == 0, errors
    assert out.count("Loaded") == 1
    assert "Loaded 199 images" in out
    assert "Skipped unreadable files: 2" in out
    assert "text.png: not an image" in out
    assert out.count("circle: a folder that is listed under another path") == 1
    stored = rows(server.uri)
    assert stored.keys() == images
    gone = sorted(images)[::25]
    for path in gone:
        Path("database_set", path).unlink()
    assert load_alone("--milvus-uri", server.uri, "--prune") == 0  # whichever rank loaded an image
    out = capsys.readouterr().out
    assert "Loaded 0 images" in out
    assert "191 were already in the collection" in out
    assert f"{len(gone)} rows without a readable file, or left out: removed" in out
    assert rows(server.uri) == {path: stored[path] for path in images - set(gone)}


def test_ranks_recreate_one_collection(images: set[str], server: Server) -> None:
    load = torchrun(2, server.uri, load=["--recreate"])
    errors = load.communicate()[1]
    assert load.returncode == 0, errors
    assert rows(server.uri).keys() == images
    assert server.collections() == ["images"]


def two_nodes(uri: str) -> list[Loader]:
    """Start one rank on each of two "machines": two torchrun agents on this one."""
    options = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "load"]
    options += ["--rdzv-endpoint", f"localhost:{free_ports(1)[0]}"]
    return [torchrun(1, uri, *options) for _ in range(2)]


# Run by Python at its start: the second rank lists another folder than the one that it is given.
OTHER_FOLDER = """
import os, sys
if os.environ.get("RANK") == "1" and "--multiprocessing-fork" not in sys.orig_argv:
    from similar_images.loading import load
    iter_images = load.iter_images
    load.iter_images = lambda folder, *args: iter_images("other", *args)
"""


def test_machines_with_different_folders_are_refused(
    images: set[str], server: Server, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "sitecustomize.py").write_text(OTHER_FOLDER)
    shutil.copytree("database_set", "other")
    for path in owned_by(1, images)[:5]:
        Path("other", path).unlink()

    nodes = two_nodes(server.uri)
    outputs = sorted(node.communicate()[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert outputs[0] == ""
    assert "Loaded 199 images" in outputs[1]
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{own_folder}{os.pathsep}{PROJECT}")
        nodes = two_nodes(server.uri)
        refused = [node.communicate() for node in nodes]
    assert [node.returncode for node in nodes] == [1, 1], refused
    first, *others = sorted(error for _, text in refused for error in errors_in(text))
    assert "the ranks list different files under database_set (200, 195)" in first
    assert first.endswith("run it again")
    assert others in ([], [LOST.format(1)])  # none if torchrun ends that rank first
    assert rows(server.uri).keys() == images, "nothing was pruned"


def owned_by(rank: int, paths: Iterable[str], ranks: int = 2) -> list[str]:
    return sorted(path for path in paths if zlib.crc32(path.encode()) % ranks == rank)


def test_the_limit_for_pruning_is_that_of_all_ranks_together(
    images: set[str], server: Server
) -> None:
    first, second = owned_by(0, images), owned_by(1, images)
    assert load_alone("--milvus-uri", server.uri) == 0
    gone = {*first[::10], *second[::5], *second[1::5], *second[2::5]}
    for path in gone:
        Path("database_set", path).unlink()
    load = torchrun(2, server.uri)
    out, errors = load.communicate()
    assert load.returncode == 0, errors
    assert f"{len(gone)} rows without a readable file, or left out: removed" in out
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


# Run by Python at its start: a rank stops after its first upsert, and writes its process number.
HELD_RANK = """
import os, sys
if "RANK" in os.environ and "--multiprocessing-fork" not in sys.orig_argv:
    import threading
    from similar_images.milvus.client import Client
    from similar_images.milvus.collection import ImageCollection
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


@pytest.mark.parametrize(("rank", "lost"), [(1, "rank"), (0, "machine")])
def test_when_a_rank_or_its_machine_dies_the_others_end_and_a_rerun_finishes(
    rank: int,
    lost: str,
    images: set[str],
    server: Server,
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (own_folder / "sitecustomize.py").write_text(HELD_RANK)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{own_folder}{os.pathsep}{PROJECT}")
        patch.setenv("HELD_RANK", str(rank))
        nodes = [torchrun(2, server.uri)] if lost == "rank" else two_nodes(server.uri)
    try:
        wait_until(
            Path("held").exists,
            "the rank was held",
            lambda: all(node.poll() is None for node in nodes),
        )
        victim = int(Path("held").read_text())
        (its_node,) = (node for node in nodes if victim in children(node.pid))
        if lost == "machine":
            its_node.kill()
        os.kill(victim, signal.SIGKILL)
        left = nodes[-1] if its_node is nodes[0] else nodes[0]
        errors = left.communicate(timeout=60)[1]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    assert left.returncode == 1, errors
    assert errors_in(errors) in ([], [LOST.format(1 - rank)])  # none if torchrun ends it first
    assert 16 <= len(rows(server.uri)) < len(images)
    assert load_alone("--milvus-uri", server.uri) == 0
    assert rows(server.uri).keys() == images


def test_milvus_lite_takes_one_rank(images: set[str]) -> None:
    load = torchrun(2, "./milvus.db")
    errors = load.communicate()[1]
    assert load.returncode != 0
    (error,) = errors_in(errors)
    assert "takes one process" in error
    assert not Path("milvus.db").exists()


def test_a_mistake_is_named_once(server: Server) -> None:
    load = torchrun(2, server.uri)
    errors = load.communicate()[1]
    assert load.returncode != 0
    (error,) = errors_in(errors)
    assert "there is no folder database_set" in error
