"""Measure how loading, resuming and searching grow with the collection, on synthetic vectors.

Usage:
  python -m benchmarks.scale                                   # Milvus Lite, up to 100,000 rows
  python -m benchmarks.scale --sizes 10000 100000 1000000
  python -m benchmarks.scale --milvus-uri http://localhost:19530 --server-data DIR

Writes: scale.json and scale.md in --output; those of another engine, size or index stay

The rows go through the same code as embed_and_load.py's and query_code.py's. The collection that
is made is dropped in the end.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, seconds
from benchmarks.report import table
from command_line import whole_number
from exact_search import recall
from image_collection import INDEXES, ImageCollection, Index, Match, connect, is_lite
from image_files import DecodedImage, FoundImage
from image_to_embedding import DIMENSION
from inventory import Inventory, State
from row_writer import UPSERT_ROWS

NAME = "scale_benchmark"
SIZES = [10_000, 100_000]
CHUNK = 10_000  # rows made at a time
LATENT = 32  # dimensions that the vectors really have, as real embeddings have few
REQUESTS = (1, 100, 1000)  # queries in a request
RECALL_QUERIES = 200
TOP_K = 10
SEARCH_SECONDS = 5.0  # a kind of request is repeated for so long, and at least once
HOMEWORK = Index("IVF_SQ8", {"nlist": 1000}, {"nprobe": 10})
KINDS = {**INDEXES, "ivf_sq8": HOMEWORK}


def unit_vectors(count: int, seed: int) -> np.ndarray:
    """Return (count, 512) float32 of unit length: LATENT normal numbers through a random layer.

    Not negative and near to each other, like a network's embeddings after their ReLU.
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
    """Make the collection and upsert its rows; return rows/s and the last flush's seconds."""
    with connect(uri) as client:
        old = ImageCollection.find(client, NAME)
        if old:
            old.drop()
        collection = ImageCollection.create(client, NAME, {"root": "/nowhere"})
        taken = 0.0
        for images, vectors in chunks(rows):
            start = time.perf_counter()
            for i in range(0, len(images), UPSERT_ROWS):
                collection.upsert(images[i : i + UPSERT_ROWS], vectors[i : i + UPSERT_ROWS])
            taken += time.perf_counter() - start
        flush = seconds(collection.flush)
        assert collection.count() == rows
        return {"upsert_rows_per_s": rows / (taken + flush), "flush_s": flush}


def resume(uri: str, rows: int) -> dict[str, float]:
    """Compare an unchanged folder with the collection; return seconds and the memory it took."""
    with connect(uri) as client:
        collection = ImageCollection(client, NAME)
        collection.count()
        before = peak_bytes()
        start = time.perf_counter()
        inventory = Inventory(collection.stored_images())
        read = time.perf_counter()
        found = (FoundImage(path_of(number), 2000, number) for number in range(rows))
        assert all(inventory.find(image) is State.KEPT for image in found)
        end = time.perf_counter()
        return {
            "resume_s": end - start,
            "resume_rows_per_s": rows / (end - start),
            "resume_read_s": read - start,
            "resume_bytes_per_row": (peak_bytes() - before) / rows,
        }


def search(uri: str, rows: int, kind: str) -> dict[str, Any]:
    """Search with an index; return what building it took, queries/s, and recall."""
    queries = unit_vectors(max(REQUESTS), seed=0)
    with connect(uri) as client:
        collection = ImageCollection(client, NAME)
        build = seconds(lambda: collection.use_index(KINDS[kind]))
        parameters = dict(KINDS[kind].search)

        def find(count: int, top_k: int) -> list[list[Match]]:
            answers = collection.search(queries[:count], top_k, "", parameters)
            return [matches for some in answers for matches in some]

        rates = {}
        for count in REQUESTS:
            find(count, 1)
            begin, times = time.perf_counter(), 0
            while not times or time.perf_counter() - begin < SEARCH_SECONDS:
                find(count, 1)
                times += 1
            rates[str(count)] = times * count / (time.perf_counter() - begin)
        found = find(RECALL_QUERIES, TOP_K)
    exact = brute_force(queries[:RECALL_QUERIES], rows)
    firsts = [[matches[:1] for matches in side] for side in (found, exact)]
    return {
        "build_s": build,
        "queries_per_s": rates,
        "recall_1": recall(*firsts),
        "recall_10": recall(found, exact),
    }


def brute_force(queries: np.ndarray, rows: int) -> list[list[Match]]:
    """Return each query's TOP_K nearest, by a matrix product over vectors made anew."""
    best: list[list[Match]] = [[] for _ in queries]
    for images, vectors in chunks(rows):
        similarities = queries @ vectors.T
        nearest = np.argsort(-similarities, axis=1)[:, :TOP_K]
        for row, columns in enumerate(nearest):
            best[row] += [Match(images[i].path, float(similarities[row, i])) for i in columns]
    return [sorted(row, key=lambda match: -match.similarity)[:TOP_K] for row in best]


def drop(uri: str) -> None:
    """Remove the collection."""
    with connect(uri) as client:
        ImageCollection(client, NAME).drop()


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def size_of(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def in_new_process(function: Any, *args: object) -> Any:
    """Return what a function returns in a process of its own, and how much memory it took."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        before = pool.submit(peak_bytes).result()
        answer = pool.submit(function, *args).result()
        if isinstance(answer, dict):
            answer["memory_mib"] = (pool.submit(peak_bytes).result() - before) / 2**20
        return answer


def measure(uri: str, folder: Path | None, rows: int, kinds: list[str]) -> dict[str, Any]:
    """Fill a collection, and measure all that is asked of it."""
    before = size_of(folder) if folder and folder.exists() else 0
    say(f"{rows:,} rows: upsert")
    figures: dict[str, Any] = {"rows": rows, "upsert": in_new_process(fill, uri, rows)}
    grown = size_of(folder) - before if folder else 0
    figures["disk_bytes_per_row"] = grown / rows if grown > 0 else None  # or it gave space back
    say("resume")
    figures["resume"] = in_new_process(resume, uri, rows)
    figures["search"] = {}
    for kind in kinds:
        say(f"search: {kind}")
        figures["search"][kind] = in_new_process(search, uri, rows, kind)
    in_new_process(drop, uri)
    return figures


def markdown(results: dict[str, Any]) -> str:
    """Return the figures as tables: growth by size, and the indexes."""
    host = results["machine"]
    versions = ", ".join(f"{name} {host['packages'][name]}" for name in ("pymilvus", "milvus-lite"))
    lines = [
        "# Growth with the collection",
        "",
        f"{results['date']}, {host['cores']} cores of {host['processor']}, "
        f"{host['memory_gib']} GiB, {host['system']}, Python {host['python']}, {versions}; the "
        f"server is Milvus {results['server']} on the same machine. Each figure is one "
        "measurement of many requests. Memory is this process's, so on Milvus Lite also Milvus's.",
        "",
    ]
    header = ["engine, rows", "upsert µs/row", "flush s", "upsert MiB", "disk bytes/row"]
    header += ["resume rows/s", "resume bytes/row"]
    rows, indexes = [], []
    for engine, sizes in results["engines"].items():
        for part in sizes.values():
            upsert, check = part["upsert"], part["resume"]
            name = f"{engine}, {part['rows']:,}"
            disk = part["disk_bytes_per_row"]
            rows.append(
                [
                    name,
                    f"{1e6 / upsert['upsert_rows_per_s']:.0f}",
                    f"{upsert['flush_s']:.1f}",
                    f"{upsert['memory_mib']:,.0f}",
                    f"{disk:,.0f}" if disk else "",
                    f"{check['resume_rows_per_s']:,.0f}",
                    f"{check['resume_bytes_per_row']:,.0f}",
                ]
            )
            for kind, found in part["search"].items():
                rates = [f"{found['queries_per_s'][str(n)]:,.1f}" for n in REQUESTS]
                recalls = [f"{found['recall_1']:.4f}", f"{found['recall_10']:.4f}"]
                indexes.append([f"{name}, {kind}", f"{found['build_s']:.1f}", *rates, *recalls])
    lines += [table(header, rows), "", "## Search", ""]
    columns = [f"queries/s, {n} a request" for n in REQUESTS]
    lines.append(
        table(["engine, rows, index", "build s", *columns, "recall@1", "recall@10"], indexes)
    )
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    """Print what is going on, on stderr."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", type=whole_number(1000, 10**9), default=SIZES, metavar="N"
    )
    parser.add_argument(
        "--milvus-uri", metavar="URI", help="a server (default: Milvus Lite in a new folder)"
    )
    parser.add_argument(
        "--server-data", type=Path, metavar="DIR", help="the server's files, to measure the disk"
    )
    parser.add_argument(
        "--indexes", nargs="+", choices=KINDS, default=["flat"], help="default: flat"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, metavar="DIR", help="default: here"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure each size in turn; write the figures after each."""
    args = parse_args(argv)
    file = args.output / "scale.json"
    results: dict[str, Any] = {"engines": {}, "server": "(not measured)"}
    if file.exists():
        results = json.loads(file.read_text())
    results["machine"] = machine()
    results["date"] = datetime.now(UTC).date().isoformat()
    with tempfile.TemporaryDirectory() as folder:
        uri = args.milvus_uri or str(Path(folder, "scale.db"))
        engine = "Milvus Lite" if is_lite(uri) else "server"
        data = Path(uri) if is_lite(uri) else args.server_data
        if not is_lite(uri):
            with connect(uri) as client:
                results["server"] = str(client.milvus.get_server_version())
        for rows in args.sizes:
            sizes = results["engines"].setdefault(engine, {})
            figures = measure(uri, data, rows, args.indexes)
            before = sizes.get(str(rows), {}).get("search", {})
            sizes[str(rows)] = {**figures, "search": {**before, **figures["search"]}}
            args.output.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(results, indent=1) + "\n")
            (args.output / "scale.md").write_text(markdown(results))
    print((args.output / "scale.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
