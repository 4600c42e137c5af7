"""Benchmarks of the three scripts as a user runs them, and of the pipeline's steady state."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import image_to_embedding
from benchmarks.measure import MatrixLimit, seconds, spread
from image_collection import ImageCollection, connect
from image_to_embedding import Embedder
from row_writer import RowWriter

PROJECT = Path(__file__).resolve().parent.parent
WARM_UP = 512  # images of a pipeline that are not counted


def run_script(*arguments: str | Path, cwd: Path) -> tuple[float, float]:
    """Run a script of the project; return its seconds and its peak memory in MiB.

    Raises RuntimeError with what it printed if it fails.
    """
    command = [sys.executable, str(PROJECT / arguments[0]), *map(str, arguments[1:])]
    return run_command(command, cwd)


def run_command(command: list[str], cwd: Path) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MiB, without its children's."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak_memory(process.pid))
            time.sleep(0.02)
        taken = time.perf_counter() - start
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{output.read()}")
    return taken, peak / 1024


def _peak_memory(pid: int) -> int:
    """Return a process's peak resident memory in KiB so far; 0 where the system hides it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) if lines else 0


# --- The pipeline's steady state --------------------------------------------------------------


class _Times(tqdm):
    """A progress bar that only notes when rows went in."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self.rows = [(time.perf_counter(), 0)]

    def update(self, n: float | None = 1) -> None:
        self.rows.append((time.perf_counter(), self.rows[-1][1] + int(n or 0)))


def pipeline_rate(embedder: Embedder, root: Path, paths: list[str], uri: str) -> float:
    """Decode, embed and upsert images into a new collection; return images/s after warm-up."""
    with connect(uri) as client:
        properties = {"root": str(root), **embedder.model.properties()}
        collection = ImageCollection.create(client, "images", properties)
        times = _Times()
        with RowWriter(collection, times) as writer:
            for batch in image_to_embedding.embed_images(embedder, root, paths):
                writer.add(batch.images, batch.embeddings)
            writer.finish()
        collection.drop()
    warm_up = min(WARM_UP, len(paths) // 4)
    begin = next((when, rows) for when, rows in times.rows if rows > warm_up)
    end = times.rows[-1]
    return (end[1] - begin[1]) / (end[0] - begin[0])


def pipeline(
    embedder: Embedder, limit: MatrixLimit, root: Path, paths: list[str], repetitions: int
) -> dict[str, Any]:
    """Compare the pipeline's steady state with the matrix product's rate, alternating."""
    rates, limits = [], [limit.measure()]
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            rates.append(pipeline_rate(embedder, root, paths, str(Path(folder, "x.db"))))
        limits.append(limit.measure())
    around = [(a + b) / 2 for a, b in itertools.pairwise(limits)]
    ratios = [rate / bound for rate, bound in zip(rates, around, strict=True)]
    return {"images": len(paths), "rate": spread(rates), "of_limit": spread(ratios)}


# --- The scripts ------------------------------------------------------------------------------


def whole_load(images: Path, weights: Path, uri: str, *options: str) -> dict[str, float]:
    """Run embed_and_load.py on a folder, start-up and compilation included."""
    count = sum(1 for path in images.rglob("*") if path.is_file())
    arguments: list[str | Path] = [
        "--images",
        images.resolve(),
        "--weights",
        weights,
        "--milvus-uri",
        uri,
    ]
    taken, memory = run_script("embed_and_load.py", *arguments, *options, cwd=Path.cwd())
    return {"images": count, "seconds": taken, "rate": count / taken, "peak_memory_mib": memory}


def one_query(image: Path, weights: Path, uri: str, repetitions: int) -> dict[str, Any]:
    """Time query_code.py on one image, alternating with importing torch and loading weights."""
    load = f"import torch; torch.load({str(weights)!r}, weights_only=True)"
    queries, imports = [], []
    with tempfile.TemporaryDirectory() as folder:
        arguments: list[str | Path] = [image.resolve(), "--weights", weights, "--milvus-uri", uri]
        for _ in range(repetitions + 1):
            imports.append(run_command([sys.executable, "-c", load], Path(folder))[0])
            queries.append(run_script("query_code.py", *arguments, cwd=Path(folder))[0])
    more = [query - load_ for query, load_ in zip(queries[1:], imports[1:], strict=True)]
    return {"query": spread(queries[1:]), "import": spread(imports[1:]), "more": spread(more)}


PLAIN_SPLIT = """
import pickle, random, sys
from pathlib import Path
from PIL import Image
batches, out = Path(sys.argv[1]), Path(sys.argv[2])
images = []
names = pickle.loads((batches / "batches.meta").read_bytes(), encoding="bytes")[b"label_names"]
for number in range(1, 6):
    batch = pickle.loads((batches / f"data_batch_{number}").read_bytes(), encoding="bytes")
    images += zip(batch[b"data"], batch[b"labels"])
random.Random(42).shuffle(images)
for place, (data, label) in enumerate(images):
    folder = out / ("query_set" if place < len(images) // 10 else "database_set")
    folder = folder / names[label].decode()
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.reshape(3, 32, 32).transpose(1, 2, 0)).save(folder / f"{place:05d}.png")
"""


def split(cifar: Path, repetitions: int) -> dict[str, Any]:
    """Time split_images.py on CIFAR-10's batches, alternating with the plain loop."""
    meta = next(cifar.rglob("batches.meta"))
    ours, plain = [], []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            arguments: list[str | Path] = ["--cifar", cifar.resolve()]
            ours.append(run_script("split_images.py", *arguments, cwd=folder)[0])
            loop = [sys.executable, "-c", PLAIN_SPLIT, str(meta.parent.resolve()), name + "/plain"]
            plain.append(run_command(loop, folder)[0])
    ratios = [b / a for a, b in zip(ours, plain, strict=True)]
    return {"ours": spread(ours), "plain_loop": spread(plain), "times_as_fast": spread(ratios)}


# --- Search -----------------------------------------------------------------------------------


def search(uri: str, queries: np.ndarray, repetitions: int) -> dict[str, Any]:
    """Time the search of all queries alone, alternating with faiss's exact search.

    Reports how many of the nearest paths are equal, too.
    """
    import faiss  # comes with Milvus Lite

    with connect(uri, must_exist=True) as client:
        collection = ImageCollection.find(client, "images")
        if collection is None:
            raise RuntimeError(f"there is no collection in {uri}")
        pages = list(collection.stored_embeddings())
        paths = [path for some, _ in pages for path in some]
        database = np.concatenate([embeddings for _, embeddings in pages])
        index = faiss.IndexFlatIP(database.shape[1])
        index.add(database)
        found: list[str] = []

        def ours() -> None:
            found[:] = [matches[0].path for part in collection.search(queries) for matches in part]

        times, faiss_times = [], []
        ours()
        for _ in range(repetitions):
            faiss_times.append(seconds(lambda: index.search(queries, 1)))
            times.append(seconds(ours))
        nearest = index.search(queries, 1)[1][:, 0]
    equal = np.mean([paths[row] == path for row, path in zip(nearest, found, strict=True)])
    ratios = [b / a for a, b in zip(times, faiss_times, strict=True)]
    return {
        "queries": len(queries),
        "rows": len(paths),
        "threads": os.cpu_count(),
        "ours": spread(times),
        "faiss": spread(faiss_times),
        "of_faiss": spread(ratios),
        "equal": float(equal),
    }
