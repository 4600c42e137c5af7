"""Measure every figure of the README's performance section, side by side.

Usage:
  python -m benchmarks.run --weights random                # after "Try it", some minutes
  python -m benchmarks.run --images cifar-10/database_set --queries cifar-10/query_set
  python -m benchmarks.run --parts network pipeline --device cuda

Reads:  database_set and query_set as split_images.py left them, and weights
Writes: results.json and results.md in --output, of the parts that are measured

What is compared alternates, and each rate is set against what was measured beside it.
"""

import argparse
import collections
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image

from benchmarks.measure import (
    agreement,
    in_words,
    machine,
    matrix_limit,
    run_script,
    seconds,
    table,
)
from similar_images.console import script_parser, whole_number
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.connection import connect
from similar_images.network.embedding import (
    DEVICES,
    Embedder,
    EmbeddingOptions,
    add_weights_options,
    embed_images,
    make_embedder,
)
from similar_images.network.networks import find_network, torch_network
from similar_images.pictures.decoding import decode
from similar_images.pictures.image_files import Listing, iter_images, label_of

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
        few = torch.from_numpy(pixels[:64])
        files = [self.args.images / path for path in self.database[:16]]
        plain = torch_network(self.args.model, self.args.weights).layers
        ways: dict[str, tuple[int, Callable[[], object]]] = {}
        figures: dict[str, Any] = {}
        reference = _embed_all(self.embedder("float32"), pixels)
        for embedder in (self.embedder("float32"), self.embedder()):
            name = f"ours, {embedder.words}"
            ways[name] = len(pixels), functools.partial(_embed_all, embedder, pixels)
            cosines = (_embed_all(embedder, pixels) * reference).sum(1)
            figures[f"{name}: least cosine to float32"] = float(cosines.min())
        ways["torch, eager, float32"] = len(few), lambda: plain(few)
        homework = functools.partial(_homework, self.args.model)
        name = "the homework's way: a network for each image"
        ways[name] = len(files), lambda: list(map(homework, files))
        device = "cpu" if self.args.device in ("auto", "cpu") else self.args.device
        rates: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(self.args.repetitions):
            for name, (images, embed) in ways.items():
                with torch.inference_mode():
                    rates[name].append(images / seconds(embed))
            for precision in ("bfloat16", "float32"):
                name = f"{precision} matrix product, as images"
                rates[name].append(matrix_limit(precision, device))
        return {f"{name}: images/s": v for name, v in rates.items()} | figures

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
            f"decode, embed, upsert, {len(paths):,} images: images/s": rates,
            "of the network alone": of_network,
            "of the bfloat16 matrix product": of_product,
        }

    def pipeline_rate(self, embedder: Embedder, paths: list[str]) -> float:
        """Decode, embed and upsert into a new Milvus Lite file; return images/s after warm-up."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            connect(str(Path(folder, "x.db"))) as client,
        ):
            properties = {"root": "/nowhere", **self.network.model.properties()}
            collection = ImageCollection.create(client, "images", properties)
            rows = [(time.perf_counter(), 0)]  # when so many were in

            def update(count: int) -> None:
                rows.append((time.perf_counter(), rows[-1][1] + count))

            with RowWriter(collection, SimpleNamespace(update=update)) as writer:
                for batch in embed_images(embedder, self.args.images, paths):
                    writer.add(batch.images, batch.embeddings)
                writer.finish()
            begin = next((row for row in rows[:-1] if row[1] > WARM_UP), rows[0])
            return (rows[-1][1] - begin[1]) / (rows[-1][0] - begin[0])

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
        file = Path(self.args.weights)
        weights = file.resolve() if file.exists() else self.args.weights
        options = ["--model", self.args.model, "--weights", weights, "--device", self.args.device]
        options += ["--images", self.args.images.resolve(), "--milvus-uri", self.loaded]
        first, again = (
            run_script("embed_and_load.py", *options, cwd=self.folder) for _ in range(2)
        )
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
            "query_code.py PICTURE: seconds": one[1:],
            f"query_code.py, {len(self.queries):,} images: seconds": whole,
        }


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
        f"# Benchmarks\n\n{results['date']}, {results['machine']}; "
        f"{results['model']}, weights: {results['weights']}. Medians of {results['repetitions']} "
        "alternating repetitions, with the least and the most."
    ]
    for part in filter(results.get, PARTS):
        rows = [[name, in_words(figure)] for name, figure in results[part].items()]
        lines.append(f"## {part.capitalize()}\n\n{table(['', ''], rows)}")
    return "\n\n".join(lines) + "\n"


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
    for name, usual, what in (
        ("repetitions", 5, "of each measurement"),
        ("count", 512, "images of a repetition; the pipeline sixteen times as many"),
        ("agreement", 10_000, "database images whose matches are held against float32's"),
    ):
        number, words = whole_number(1, 10**9), f"{what} (default: {usual:,})"
        parser.add_argument(f"--{name}", type=number, default=usual, metavar="N", help=words)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure the parts in order; write the figures after each."""
    args = parse_args(argv)
    file = args.output / "results.json"
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "repetitions": args.repetitions,
        "model": args.model,
        "weights": Path(args.weights).name,
    }
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
