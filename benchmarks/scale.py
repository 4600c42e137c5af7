"""Measure how loading, resuming and searching grow with the collection, on synthetic vectors.

Usage:
  python -m benchmarks.scale                                   # Milvus Lite, up to 100,000 rows
  python -m benchmarks.scale --sizes 10000 100000 1000000
  python -m benchmarks.scale --milvus-uri http://localhost:19530 --indexes flat hnsw

Reads:  scale.json in --output: the figures of other engines and sizes stay
Writes: scale.json and scale.md in --output
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.measure import (
    add_output_option,
    conditions,
    peak_memory,
    say,
    seconds,
    table,
    write_results,
)
from similar_images.console import script_parser, status_of, whole_number
from similar_images.images.decoding import DecodedImage
from similar_images.images.image_files import FoundImage
from similar_images.loading.inventory import Inventory
from similar_images.loading.row_writer import RowWriter
from similar_images.matching.recall import compare_exactly, recall
from similar_images.milvus.client import CollectionError, is_lite
from similar_images.milvus.collection import ImageCollection, existing_collection
from similar_images.milvus.connection import connect
from similar_images.milvus.schema import Match
from similar_images.milvus.vector_index import INDEXES, Index

NAME = "scale_benchmark"
CHUNK = 10_000  # rows made at a time
DIMENSION, LATENT = 512, 32  # of the vectors; their intrinsic one, which is low as in real ones
QUERIES, TOP_K = 1000, 10
HOMEWORK = Index("IVF_SQ8", {"nlist": 1000}, {"nprobe": 10})
KINDS = {**INDEXES, "ivf_sq8": HOMEWORK}


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
    """Make the collection and upsert its rows; return the time that takes."""
    with connect(uri) as client:
        properties = {"root": "/nowhere", "dimension": str(DIMENSION)}
        collection = ImageCollection.create(client, NAME, properties)
        taken = 0.0
        with RowWriter(collection, SimpleNamespace(update=lambda _: None)) as writer:
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
            inventory.compare(FoundImage(path_of(number), 2000, number))
        assert inventory.kept == rows
        return {"resume check, rows/s": rows / (time.perf_counter() - start)}


def search(uri: str, kind: str) -> dict[str, float]:
    """Search with an index, compared with an exact search outside Milvus."""
    queries = unit_vectors(QUERIES, seed=0)
    with connect(uri) as client:
        collection = existing_collection(client, NAME)
        build = seconds(lambda: collection.use_index(KINDS[kind]))
        found: list[list[Match]] = []

        def find() -> None:
            answers = collection.search(queries, TOP_K, "", KINDS[kind].search)
            found[:] = [matches for some in answers for matches in some]

        find()
        rate = QUERIES / seconds(find)
        exact, ours = compare_exactly(collection, queries[:200], found[:200], TOP_K)
    firsts = [[matches[:1] for matches in side] for side in (ours, exact)]
    return {
        f"{kind}: built in s": build,
        f"{kind}: queries/s": rate,
        f"{kind}: recall@1": recall(firsts[0], firsts[1]),
        f"{kind}: recall@{TOP_K}": recall(ours, exact),
    }


def own_peak_memory() -> float:
    """Return this process's peak memory in MiB; see peak_memory()."""
    return peak_memory(os.getpid())


def measure(uri: str, rows: int, kinds: list[str]) -> dict[str, float]:
    """Fill a collection, check it for changes and search it, each in a new process."""
    figures: dict[str, float] = {}
    steps: list[tuple[Any, ...]] = [(fill, rows), (resume, rows)]
    for function, *args in [*steps, *((search, kind) for kind in kinds)]:
        say(function.__name__, *args)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            before = pool.submit(own_peak_memory).result()
            figures |= pool.submit(function, uri, *args).result()
            if before and function in (fill, resume):
                grown = pool.submit(own_peak_memory).result() - before
                figures[f"{function.__name__}: this process grew by, MiB"] = grown
    with connect(uri) as client:
        ImageCollection(client, NAME).drop()
    return figures


def markdown(results: dict[str, Any]) -> str:
    """Return the figures as a table, an engine and size in each column."""
    columns = results["figures"]
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    rows = [
        [name, *(f"{f[name]:,.3f}" if name in f else "" for f in columns.values())]
        for name in names
    ]
    return (
        f"# Growth with the collection\n\n{results['date']}, "
        f"{results['machine']}. Each figure is one measurement of many "
        "requests. On Milvus Lite the process's memory is also Milvus's.\n\n"
        f"{table(['', *columns], rows)}\n"
    )


def run(args: argparse.Namespace) -> None:
    """Measure each size in turn; write the figures after each."""
    file = args.output / "scale.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    results |= conditions()
    with tempfile.TemporaryDirectory() as folder:
        uri = args.milvus_uri or str(Path(folder, "scale.db"))
        for rows in args.sizes:
            name = f"{'Milvus Lite' if is_lite(uri) else 'server'}, {rows:,} rows"
            results.setdefault("figures", {})[name] = measure(uri, rows, args.indexes)
            write_results(args.output, "scale", results, markdown(results))
    print(markdown(results))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=whole_number(1000, 10**9),
        default=[10_000, 100_000],
        metavar="N",
        help="rows of a collection (default: 10000 100000)",
    )
    parser.add_argument("--milvus-uri", metavar="URI", help="a server (default: Milvus Lite)")
    parser.add_argument(
        "--indexes", nargs="+", choices=KINDS, default=["flat"], help="default: flat"
    )
    add_output_option(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    args = parse_args(argv)
    interrupted = f"the figures of the sizes that had ended are in {args.output}"
    return status_of(lambda: run(args), (CollectionError,), interrupted)


if __name__ == "__main__":
    sys.exit(main())
