"""Measure how fast rows are upserted, by rows in a request and requests at a time.

Usage:
  python -m benchmarks.upserts --milvus-uri http://localhost:19530
  python -m benchmarks.upserts --rows 256 1000       # Milvus Lite, one request at a time

Writes: a table on stdout
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.measure import conditions, say, table_of_figures
from benchmarks.scale import DIMENSION, path_of, unit_vectors
from similar_images.console import script_parser, status_of, whole_number
from similar_images.images.decoding import DecodedImage
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.client import UPSERT_ROWS, Client, CollectionError, is_lite
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.connection import connect

NAME = "upserts_benchmark"
BATCH = 64  # rows that are added at a time, as a network's batches are


def rate(client: Client, images: list[DecodedImage], vectors: np.ndarray) -> float:
    """Return the rows/s at which a new collection is filled, without the flush."""
    if old := ImageCollection.find(client, NAME):
        old.drop()
    properties = {"root": "/nowhere", "dimension": str(DIMENSION)}
    collection = ImageCollection.create(client, NAME, properties)
    start = time.perf_counter()
    with RowWriter(collection, SimpleNamespace(update=lambda _: None)) as writer:
        for i in range(0, len(images), BATCH):
            writer.add(images[i : i + BATCH], vectors[i : i + BATCH])
        writer.finish()
    taken = time.perf_counter() - start
    assert collection.count() == len(images)
    collection.drop()
    return len(images) / taken


def run(args: argparse.Namespace) -> None:
    """Measure all combinations by turns, and print them."""
    figures: dict[str, list[float]] = {}
    images = [DecodedImage(path_of(n), 2000, n, 32, 32) for n in range(args.total)]
    vectors = unit_vectors(args.total, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        uri = args.milvus_uri or str(Path(folder, "upserts.db"))
        at_once = [1] if is_lite(uri) else args.at_once
        for repetition in range(args.repetitions):
            for rows, requests in itertools.product(args.rows, at_once):
                say(f"{rows} rows in a request, {requests} at a time, repetition {repetition + 1}")
                with connect(uri) as client:
                    client.upsert_rows, client.upserts_at_once = rows, requests
                    name = f"{rows} rows in a request, {requests} at a time: rows/s"
                    figures.setdefault(name, []).append(rate(client, images, vectors))
    print(f"{conditions()['machine']}\n\n{table_of_figures(figures)}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("--milvus-uri", metavar="URI", help="a server (default: Milvus Lite)")
    numbers: list[tuple[str, int, list[int], str]] = [
        ("--rows", UPSERT_ROWS, [256, UPSERT_ROWS], "rows in a request"),
        ("--at-once", 64, [1, 2, 4], "requests at a time, on a server"),
    ]
    for option, most, default, meaning in numbers:
        parser.add_argument(
            option,
            nargs="+",
            type=whole_number(1, most),
            default=default,
            metavar="N",
            help=f"{meaning} (default: {' '.join(map(str, default))})",
        )
    parser.add_argument("--total", type=int, default=50_000, metavar="N", help="default: 50000")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="default: 3")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    args = parse_args(argv)
    return status_of(lambda: run(args), (CollectionError,), "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
