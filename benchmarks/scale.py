"""Measure how loading, resuming and searching grow with the collection, on synthetic vectors.

Usage:
  python -m benchmarks.scale                                   # Milvus Lite, up to 100,000 rows
  python -m benchmarks.scale --sizes 10000 100000 1000000
  python -m benchmarks.scale --milvus-uri http://localhost:19530 --indexes flat hnsw

Writes: a table to the terminal, a size in each column
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import say, seconds
from similar_images.console import script_parser, whole_number
from similar_images.images.decoding import DecodedImage
from similar_images.images.image_files import FoundImage
from similar_images.loading.inventory import Inventory
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.collection import ImageCollection, existing_collection
from similar_images.milvus.connection import connect
from similar_images.milvus.vector_index import INDEXES, Index

NAME = "scale_benchmark"
CHUNK = 10_000  # rows made at a time
DIMENSION, LATENT = 512, 32  # of the vectors; their intrinsic one, which is low as in real ones
QUERIES, TOP_K = 1000, 10
COMPARED = 200  # queries whose recall is measured
KINDS = {**INDEXES, "ivf_sq8": Index("IVF_SQ8", {"nlist": 1000}, {"nprobe": 10})}


def unit_vectors(count: int, seed: int) -> np.ndarray:
    """Return (count, 512) float32 of unit length: LATENT normal numbers through a random layer.

    Non-negative and close to each other, like a network's embeddings after their ReLU.
    """
    layer = np.random.default_rng(0).standard_normal((LATENT, DIMENSION), dtype=np.float32)
    latent = np.random.default_rng(seed).standard_normal((count, LATENT), dtype=np.float32)
    vectors = np.maximum(latent @ layer, 0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def chunks(rows: int) -> Iterator[tuple[list[DecodedImage], np.ndarray]]:
    """Yield the collection's rows, CHUNK at a time."""
    for start in range(0, rows, CHUNK):
        numbers = range(start, min(start + CHUNK, rows))
        images = [DecodedImage(path_of(n), 2000, n, 32, 32) for n in numbers]
        yield images, unit_vectors(len(images), seed=start + 1)


def path_of(number: int) -> str:
    """Return a row's path, as long as CIFAR-10's."""
    return f"class_{number % 10}/{number:08}.png"


def fill(uri: str, rows: int) -> dict[str, float]:
    """Upsert the rows into a new collection; return the time without that of making them."""
    taken = 0.0
    with connect(uri) as client:
        properties = {"root": "/nowhere", "dimension": str(DIMENSION)}
        collection = ImageCollection.create(client, NAME, properties)
        with RowWriter(collection, measure.Rows().update) as writer:
            for images, vectors in chunks(rows):
                start = time.perf_counter()
                writer.add(images, vectors)
                writer.finish()
                taken += time.perf_counter() - start
        flush = seconds(collection.flush)
        assert collection.count() == rows
    return {"upsert, µs a row": 1e6 * (taken + flush) / rows, "flush, s": flush}


def resume(uri: str, rows: int) -> dict[str, float]:
    """Compare an unchanged folder with the collection."""
    with connect(uri) as client:
        collection = existing_collection(client, NAME)
        start = time.perf_counter()
        inventory = Inventory(collection.stored_images())
        for number in range(rows):
            inventory.compare(FoundImage(path_of(number), 2000, number), "")
        assert inventory.kept == rows
        return {"resume check, rows/s": rows / (time.perf_counter() - start)}


def search(uri: str, rows: int, kind: str) -> dict[str, float]:
    """Search with an index; compare some of what is found with an exact search in NumPy."""
    queries = unit_vectors(QUERIES, seed=0)
    found: list[list[str]] = []
    with connect(uri) as client:
        collection = existing_collection(client, NAME)
        build = seconds(lambda: collection.use_index(KINDS[kind]))

        def find() -> None:
            answers = collection.search(queries, TOP_K, "", KINDS[kind].search)
            found[:] = [[match.path for match in matches] for some in answers for matches in some]

        find()
        rate = QUERIES / seconds(find)
    exact = exact_matches(queries[:COMPARED], rows)
    return {
        f"{kind}: built in s": build,
        f"{kind}: queries/s": rate,
        f"{kind}: recall@1": recall(found, exact, 1),
        f"{kind}: recall@{TOP_K}": recall(found, exact, TOP_K),
    }


def exact_matches(queries: np.ndarray, rows: int) -> list[list[str]]:
    """Return the paths of each query's TOP_K nearest rows, nearest first."""
    numbers = np.empty((len(queries), 0), np.int64)
    similarities = np.empty((len(queries), 0), np.float32)
    for start, (_, vectors) in zip(range(0, rows, CHUNK), chunks(rows), strict=True):
        more = np.arange(start, start + len(vectors))
        numbers = np.hstack([numbers, np.tile(more, (len(queries), 1))])
        similarities = np.hstack([similarities, queries @ vectors.T])
        best = np.argsort(-similarities, axis=1)[:, :TOP_K]
        numbers = np.take_along_axis(numbers, best, axis=1)
        similarities = np.take_along_axis(similarities, best, axis=1)
    return [list(map(path_of, some)) for some in numbers.tolist()]


def recall(found: list[list[str]], exact: list[list[str]], count: int) -> float:
    """Return the share of the exact matches that are among as many found ones."""
    pairs = zip(found, exact, strict=False)  # the first queries alone are compared
    return float(np.mean([len({*a[:count]} & {*b[:count]}) / count for a, b in pairs]))


def measure_size(uri: str, rows: int, kinds: list[str]) -> dict[str, float]:
    """Fill a collection, check it for changes and search it, each in a new process."""
    figures: dict[str, float] = {}
    steps: list[tuple[Any, ...]] = [(fill,), (resume,), *((search, kind) for kind in kinds)]
    for step, *options in steps:
        say(step.__name__, rows, *options)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            before = pool.submit(own_peak_memory).result()
            figures |= pool.submit(step, uri, rows, *options).result()
            grown = pool.submit(own_peak_memory).result() - before
        if step is not search:
            figures[f"{step.__name__}: this process grew by, MiB"] = grown
    with connect(uri) as client:
        ImageCollection(client, NAME).drop()
    return figures


def own_peak_memory() -> float:
    """Return this process's peak memory in MiB; see peak_memory()."""
    return measure.peak_memory(os.getpid())


def run(args: argparse.Namespace) -> None:
    """Measure each size in turn, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        uri = args.milvus_uri or str(Path(folder, "scale.db"))
        columns = [measure_size(uri, rows, args.indexes) for rows in args.sizes]
    rows = [[name, *(f"{figures[name]:,.3f}" for figures in columns)] for name in columns[0]]
    print(f"{measure.conditions()}\n\nEach figure is one measurement of many requests.\n")
    print(measure.table(["", *(f"{size:,} rows" for size in args.sizes)], rows))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    parser = script_parser(__doc__)
    size, words = whole_number(1000, 10**9), "rows of a collection (default: 10000 100000)"
    sizes = [10_000, 100_000]
    parser.add_argument("--sizes", nargs="+", type=size, default=sizes, metavar="N", help=words)
    parser.add_argument("--milvus-uri", metavar="URI", help="a server (default: Milvus Lite)")
    words = "default: flat"
    parser.add_argument("--indexes", nargs="+", choices=KINDS, default=["flat"], help=words)
    return measure.measured(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
