"""What tests share: CIFAR-10-like batches as Python 2 wrote them, scripts run, rows read back."""

import contextlib
import csv
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import embed_and_load
from similar_images.images.image_files import Listing, iter_images
from similar_images.milvus.collection import STRONG, existing_collection
from similar_images.milvus.connection import connect, resolve_uri
from similar_images.milvus.schema import COLUMNS
from similar_images.network import network_cache
from similar_images.network.embedding import Embedder, EmbeddingOptions, embed_images, make_embedder
from similar_images.network.find_network import find_network
from similar_images.network.network_cache import ConvertedNetwork

PROJECT = Path(__file__).resolve().parents[2]
# The network that embeds soonest, twelve times as fast as resnet18, which test_model.py and the
# README's lines have: untrained, its vectors lie further apart than resnet18's.
NAME = "mobilenet_v3_small"
DIMENSION = 1024
MODEL = ["--model", NAME, "--weights", "random", "--precision", "float32"]
LOAD = [*MODEL, "--workers", "0"]
TOKEN = "root:Milvus"  # a new server's own
# For tests of what Milvus answers: they run on a file, as all others do, and on a real server.
both_engines = pytest.mark.parametrize("milvus", ["lite", "server"], indirect=True)
LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


# Of a run, for the reports: see summary_of().
SUMMARY: dict[str, object] = (
    {"queries": 3, "pairs": 3, "images": 9, "model": "m", "index": "exact", "device": "cpu"}
    | {"recall": "", "filter": "", "min_similarity": None, "skipped": [], "unmatched": 0}
    | {"left_out": "", "changed": [], "elsewhere": False, "precision": ""}
    | {"compares": True, "not_compared": 0, "ignored": ""}
)


def _short(text: bytes) -> bytes:
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text
    return b"T" + struct.pack("<i", len(text)) + text


def _integer(n: int) -> bytes:
    return b"K" + bytes([n]) if n < 256 else b"J" + struct.pack("<i", n)


def _array(data: np.ndarray) -> bytes:
    """A two-dimensional uint8 array as NumPy pickled it under Python 2."""
    shape = b"".join(map(_integer, data.shape)) + b"\x86"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    content = b"T" + struct.pack("<i", data.nbytes) + data.tobytes()
    return new + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def python2_batch(number: int, data: np.ndarray, labels: list[int]) -> bytes:
    """Pickle a batch as the published archive holds it: protocol 2, byte strings."""
    items = {
        b"batch_label": _short(b"training batch %d of 5" % number),
        b"labels": b"](" + b"".join(map(_integer, labels)) + b"e",
        b"data": _array(data),
    }
    return b"\x80\x02}(" + b"".join(_short(key) + items[key] for key in items) + b"u."


def python2_meta() -> bytes:
    names = b"](" + b"".join(_short(name.encode()) for name in LABELS) + b"e"
    return b"\x80\x02}(" + _short(b"label_names") + names + b"u."


def write_batches(folder: Path, per_batch: int, seed: int = 0) -> np.ndarray:
    """Write five batches of smooth random images; return their pixels (N, 32, 32, 3)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    pixels = []
    for number in range(1, 6):
        coarse = rng.integers(0, 256, (per_batch, 4, 4, 3), dtype=np.uint8)
        pixels.append(coarse.repeat(8, axis=1).repeat(8, axis=2))
        planes = pixels[-1].transpose(0, 3, 1, 2).reshape(per_batch, 3072)
        labels = [int(label) for label in rng.integers(0, 10, per_batch)]
        (folder / f"data_batch_{number}").write_bytes(python2_batch(number, planes, labels))
    (folder / "batches.meta").write_bytes(python2_meta())
    return np.concatenate(pixels)


def run_script(
    script: str, *args: object, cwd: Path, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a script as a user would, in a process of its own."""
    command = [sys.executable, str(PROJECT / script), *map(str, args)]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def load(*args: object) -> int:
    return embed_and_load.main([*LOAD, *map(str, args)])


def rows(uri: str | None = None, name: str = "images") -> dict[str, dict[str, object]]:
    """All rows of a collection, by path."""
    with connect(resolve_uri(uri), must_exist=True) as client:
        collection = existing_collection(client, name)
        found = client.milvus.query(
            collection.name, filter='path != ""', output_fields=list(COLUMNS), **STRONG
        )
    assert len({row["path"] for row in found}) == len(found), "a path stands there twice"
    return {row["path"]: row for row in found}


def exact_embedder(weights: str = "random", name: str = NAME) -> Embedder:
    """A network in float32 on the processor."""
    options = EmbeddingOptions(device="cpu", precision="float32", batch_size=16)
    return make_embedder(find_network(name, weights), options, images=100)


def brute_force(root: Path, queries: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Database paths, query paths and all their similarities, without Milvus, in float32."""
    embedder = exact_embedder()
    names, vectors = [], []
    for folder in (root, queries):
        paths = sorted(image.path for image in iter_images(folder, Listing()))
        batches = embed_images(embedder, folder, paths, workers=0)
        names.append([str(folder / path) for path in paths])
        vectors.append(np.concatenate([batch.embeddings for batch in batches]))
    return names[0], names[1], vectors[1].astype(np.float64) @ vectors[0].T.astype(np.float64)


def pairings(folder: str = "results") -> list[dict[str, str]]:
    with open(Path(folder, "pairings.txt"), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def children(pid: int) -> list[int]:
    """The processes that a process has started, oldest first (Linux)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            found += map(int, (task / "children").read_text().split())
    return sorted(found)


def wait_until(condition: Callable[[], bool], what: str, alive: Callable[[], bool]) -> None:
    """Wait for something that must come, as long as what it comes from is alive."""
    while not condition():
        assert alive(), f"it ended before {what}"
        time.sleep(0.02)


def written(folder: Path) -> dict[int, Path]:
    """Return the images of a split's folder: the place in the published order → the file."""
    return {int(path.stem): path for path in folder.rglob("*.png")}


def saved_at(second: str, image: Image.Image, name: str, quality: int, fraction: str = "") -> None:
    """Save a JPEG as a camera does that took it at this second of a minute."""
    exif = Image.Exif()
    taken = f"2026:07:04 12:30:{second}"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    if fraction:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.SubsecTimeOriginal] = fraction
    image.save(name, quality=quality, exif=exif)


def cache_with(architecture: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep networks in this folder; an untrained one is there, as if it had just been converted."""
    network = find_network(architecture, "random")
    assert isinstance(network, ConvertedNetwork)
    assert isinstance(network.graph, Path)
    kept = network.graph.parent
    unmeasured = shutil.ignore_patterns(network_cache.MEASURED, "int8*")
    shutil.copytree(kept, folder / kept.parent.name / kept.name, ignore=unmeasured)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


def raising_at(
    number: int, error: BaseException, function: Callable[..., object]
) -> Callable[..., object]:
    """Return a function that raises at its call of this number, and else does as it did."""
    calls: list[object] = []

    def stopped(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == number:
            raise error
        return function(*arguments)

    return stopped
