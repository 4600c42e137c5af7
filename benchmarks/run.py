"""Measure every figure of the README's performance section, side by side.

Usage:
  python -m benchmarks.run --weights random                # after "Try it", some minutes
  python -m benchmarks.run --images cifar-10/database_set --queries cifar-10/query_set
  python -m benchmarks.run --parts network pipeline --device cuda

Reads:  database_set and query_set as split_images.py left them, and weights
Writes: results.json and results.md in --output; with --parts, the others stay as they were
        measured on this machine

What is compared alternates, and each rate is set against what was measured beside it.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image

from benchmarks.measure import (
    agreement,
    in_words,
    machine,
    machine_in_words,
    matrix_limit,
    run_script,
    seconds,
    spread,
    table,
)
from similar_images.console import script_parser, whole_number
from similar_images.decoding import decode
from similar_images.embedding import (
    DEVICES,
    Embedder,
    EmbeddingOptions,
    add_weights_options,
    embed_images,
    make_embedder,
)
from similar_images.image_collection import ImageCollection
from similar_images.image_files import Listing, iter_images, label_of
from similar_images.loading import RowWriter
from similar_images.milvus import connect
from similar_images.networks import find_network, torch_network

PARTS = ("network", "pipeline", "agreement", "load", "query")
MANY = 10**6  # images: an embedder for a long run
WARM_UP = 512  # images of a pipeline that are not counted


class Benchmark:
    """What all parts share: the folders, the network, the device."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.database = _paths(args.images)
        self.queries = _paths(args.queries)
        np.random.default_rng(0).shuffle(self.database)
        self.network = find_network(args.model, args.weights)
        self.loaded = str(folder / "load.db")

    def embedder(self, precision: str = "auto", images: int = MANY) -> Embedder:
        """Return an embedder as for so many images."""
        options = EmbeddingOptions(self.args.device, precision)
        return make_embedder(self.network, options, images)

    def embed(self, root: Path, paths: list[str], precision: str = "auto") -> np.ndarray:
        """Return the embeddings of root/path, (N, dimension) float32."""
        batches = embed_images(self.embedder(precision, len(paths)), root, paths)
        return np.concatenate([batch.embeddings for batch in batches])

    def pixels(self, count: int) -> np.ndarray:
        """Return so many preprocessed database images."""
        preprocess = self.network.preprocessing
        some = self.database[:count]
        return np.stack([preprocess(decode(self.args.images, path)[1]) for path in some])

    # --- Parts --------------------------------------------------------------------------------

    def network_alone(self) -> dict[str, Any]:
        """Time ways to embed images that are decoded, beside the matrix product."""
        pixels = self.pixels(self.args.count)
        reference = _embed_all(self.embedder("float32"), pixels)
        device = "cpu" if self.args.device in ("auto", "cpu") else self.args.device
        ours = [self.embedder("float32"), self.embedder()]
        plain = torch_network(self.args.model, self.args.weights).layers
        files = [self.args.images / path for path in self.database[:16]]
        rates: dict[str, list[float]] = {}
        cosines = {}
        for _ in range(self.args.repetitions):
            for embedder in ours:
                vectors: list[np.ndarray] = []
                taken = seconds(lambda e=embedder, v=vectors: v.append(_embed_all(e, pixels)))  # type: ignore[misc]
                rates.setdefault(f"ours, {embedder.words}", []).append(len(pixels) / taken)
                cosines[f"ours, {embedder.words}"] = float((vectors[0] * reference).sum(1).min())
            few = torch.from_numpy(pixels[:64])
            with torch.inference_mode():
                eager = "torch, eager, float32"
                rates.setdefault(eager, []).append(len(few) / seconds(lambda: plain(few)))  # noqa: B023
            homework = "the homework's way: a network for each image"
            taken = seconds(lambda: [_homework(self.args.model, file) for file in files])
            rates.setdefault(homework, []).append(len(files) / taken)
            for precision in ("bfloat16", "float32"):
                name = f"{precision} matrix product, as images"
                rates.setdefault(name, []).append(matrix_limit(precision, device))
        figures: dict[str, Any] = {f"{name}: images/s": spread(v) for name, v in rates.items()}
        return figures | {f"{name}: least cosine to float32": c for name, c in cosines.items()}

    def pipeline(self) -> dict[str, Any]:
        """Compare decode, embed and upsert, overlapped, with the network alone."""
        paths = self.database[: 16 * self.args.count]
        pixels = self.pixels(self.args.count)
        embedder = self.embedder()
        rates, of_network, of_product = [], [], []
        self.pipeline_rate(embedder, paths[: 2 * WARM_UP])
        for _ in range(self.args.repetitions):
            before = len(pixels) / seconds(lambda: _embed_all(embedder, pixels))
            limit = matrix_limit("bfloat16")
            rates.append(self.pipeline_rate(embedder, paths))
            after = len(pixels) / seconds(lambda: _embed_all(embedder, pixels))
            of_network.append(2 * rates[-1] / (before + after))
            of_product.append(rates[-1] / limit)
        return {
            f"decode, embed, upsert into Milvus Lite, {len(paths):,} images: images/s": spread(
                rates
            ),
            "of the network alone": spread(of_network),
            "of the bfloat16 matrix product": spread(of_product),
        }

    def pipeline_rate(self, embedder: Embedder, paths: list[str]) -> float:
        """Decode, embed and upsert into a new Milvus Lite file; return images/s after warm-up."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            connect(str(Path(folder, "x.db"))) as client,
        ):
            properties = {"root": "/nowhere", **self.network.model.properties()}
            collection = ImageCollection.create(client, "images", properties)
            times = _Times()
            with RowWriter(collection, times) as writer:
                for batch in embed_images(embedder, self.args.images, paths):
                    writer.add(batch.images, batch.embeddings)
                writer.finish()
            return times.rate(min(WARM_UP, len(paths) // 4))

    def agreement(self) -> dict[str, Any]:
        """Hold the matches of this device's own precision against float32's."""
        database, queries = self.database[: self.args.agreement], self.queries[:5000]
        made = []
        for precision in ("float32", "auto"):
            say(f"agreement: {len(database) + len(queries):,} images, {precision}")
            both = (self.args.queries, queries), (self.args.images, database)
            made.append(tuple(self.embed(root, paths, precision) for root, paths in both))
        labels = tuple([label_of(path) for path in paths] for paths in (queries, database))
        return agreement(made[0], made[1], labels)  # type: ignore[arg-type]

    def load(self) -> dict[str, Any]:
        """Run embed_and_load.py whole, and again when there is nothing new."""
        known = self.args.weights in ("imagenet", "random")
        weights = self.args.weights if known else Path(self.args.weights).resolve()
        options = ["--model", self.args.model, "--weights", weights, "--device", self.args.device]
        options += ["--images", self.args.images.resolve(), "--milvus-uri", self.loaded]
        first = run_script("embed_and_load.py", *options, cwd=self.folder)
        again = run_script("embed_and_load.py", *options, cwd=self.folder)
        count = len(self.database)
        return {
            f"embed_and_load.py, {count:,} images: seconds": first[0],
            "embed_and_load.py: images/s, start to end": count / first[0],
            "embed_and_load.py: peak MiB without the decode workers": first[1],
            "embed_and_load.py again, nothing new: seconds": again[0],
        }

    def query(self) -> dict[str, Any]:
        """Time query_code.py on one image and on all."""
        if not Path(self.loaded).exists():
            self.load()
        where = ["--milvus-uri", self.loaded]
        image = (self.args.queries / self.queries[0]).resolve()
        one = [
            run_script("query_code.py", image, *where, cwd=self.folder)[0]
            for _ in range(self.args.repetitions + 1)
        ]
        folder = ["--queries", self.args.queries.resolve()]
        whole = run_script("query_code.py", *folder, *where, cwd=self.folder)[0]
        return {
            "query_code.py PICTURE: seconds": spread(one[1:]),
            f"query_code.py, {len(self.queries):,} images: seconds": whole,
        }


class _Times:
    """Notes when rows went in."""

    def __init__(self) -> None:
        self.rows = [(time.perf_counter(), 0)]

    def update(self, count: int) -> None:
        self.rows.append((time.perf_counter(), self.rows[-1][1] + count))

    def rate(self, warm_up: int) -> float:
        begin = next((when, rows) for when, rows in self.rows if rows > warm_up)
        end = self.rows[-1]
        return (end[1] - begin[1]) / (end[0] - begin[0])


def _paths(root: Path) -> list[str]:
    return sorted(found.path for found in iter_images(root, Listing()))


def _embed_all(embedder: Embedder, pixels: np.ndarray) -> np.ndarray:
    """Embed preprocessed images as embed_images() does, without decoding."""
    size = embedder.batch_size
    parts = [pixels[i : i + size] for i in range(0, len(pixels), size)]
    with ThreadPoolExecutor(embedder.streams + 1) as pool:
        return np.concatenate(list(pool.map(embedder.embed, parts)))


def _homework(model: str, file: Path) -> np.ndarray:
    """Embed one image as the original homework did: with a network built for it alone."""
    weights = torchvision.models.get_model_weights(model).DEFAULT
    network = torchvision.models.get_model(model, weights=None)
    body = torch.nn.Sequential(*list(network.children())[:-1]).eval()
    with torch.no_grad(), Image.open(file) as image:
        pixels = weights.transforms()(image.convert("RGB")).unsqueeze(0)
        return body(pixels).flatten().numpy()


def markdown(results: dict[str, Any]) -> str:
    """Return what has been measured so far."""
    lines = [
        f"# Benchmarks\n\n{results['date']}, {machine_in_words(results['machine'])}; "
        f"{results['model']}, weights: {results['weights']}. Medians of {results['repetitions']} "
        "alternating repetitions, with the least and the most."
    ]
    for part in filter(results.get, PARTS):
        rows = [[name, in_words(figure)] for name, figure in results[part].items()]
        lines.append(f"## {part.capitalize()}\n\n{table(['', ''], rows)}")
    return "\n\n".join(lines) + "\n"


# --- Command line -----------------------------------------------------------------------------


def earlier(file: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Return the parts measured before on the same machine, with the same weights."""
    if not file.exists():
        return {}
    before: dict[str, Any] = json.loads(file.read_text())
    same = all(before.get(k) == results[k] for k in ("machine", "repetitions", "weights", "model"))
    return {part: before[part] for part in PARTS if part in before} if same else {}


def say(text: str) -> None:
    """Print what is going on, on stderr."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    here = Path(__file__).parent
    for name, default in (("images", "database_set"), ("queries", "query_set"), ("output", here)):
        parser.add_argument(f"--{name}", type=Path, default=Path(default), metavar="DIR")
    add_weights_options(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--repetitions", type=whole_number(1, 1000), default=5, metavar="N")
    parser.add_argument(
        "--count",
        type=whole_number(16, 10**6),
        default=512,
        metavar="N",
        help="images of a repetition; the pipeline sixteen times as many (default: 512)",
    )
    parser.add_argument(
        "--agreement",
        type=whole_number(1, 10**9),
        default=10_000,
        metavar="N",
        help="database images for the agreement with float32 (default: 10,000)",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure the parts in order; write the figures after each."""
    args = parse_args(argv)
    file = args.output / "results.json"
    known = args.weights in ("imagenet", "random")
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "repetitions": args.repetitions,
        "model": args.model,
        "weights": args.weights if known else "file",
    }
    results = {**earlier(file, results), **results}
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(args, Path(folder))
        for part in args.parts:
            say(part)
            measure = benchmark.network_alone if part == "network" else getattr(benchmark, part)
            results[part] = measure()
            file.write_text(json.dumps(results, indent=1) + "\n")
            (args.output / "results.md").write_text(markdown(results))
    print((args.output / "results.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
