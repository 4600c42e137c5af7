"""The parts of benchmarks.run: each measures figures of one kind."""

import argparse
import collections
import functools
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks import competitors
from benchmarks.measure import agreement, image_paths, run_script, say, seconds
from similar_images.images.decoding import decode
from similar_images.images.image_files import label_of
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.connection import connect
from similar_images.network.embedding import (
    PRECISIONS,
    Embedder,
    EmbeddingOptions,
    choose_device,
    embed_images,
    make_embedder,
)
from similar_images.network.find_network import find_network, torch_network

MANY = 10**6  # images: an embedder for a long run
HOMEWORK_IMAGES = 16  # of a repetition: each takes a tenth of a second
WARM_UP = 512  # images of a pipeline that are not counted
Embed = Callable[[], np.ndarray]  # returns (N, dimension) float32
Figures = dict[str, list[float] | float]  # several runs, or a single one


class Benchmark:
    """What all parts share: the images, the network, the device."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.database = image_paths(args.images, "--images")
        self.queries = image_paths(args.queries, "--queries")
        np.random.default_rng(0).shuffle(self.database)
        self.device = choose_device(args.device, MANY)
        self.network = find_network(args.model, args.weights)
        self.loaded = str(folder / "load.db")

    @functools.cached_property
    def layers(self) -> torch.nn.Module:
        """The network in torch, in float32 on the device."""
        return torch_network(self.args.model, self.args.weights).layers.to(self.device)

    @functools.cached_property
    def flop(self) -> float:
        """The network's floating-point operations per image."""
        shape = self.network.preprocessing.shape
        image = torch.zeros(1, *shape, dtype=torch.uint8, device=self.device)
        return competitors.flop_per_image(self.layers, image)

    def matrix_product(self, precision: str) -> float:
        """Return the images/s that the device's matrix product has operations for."""
        return competitors.matrix_product_rate(precision, self.device) / self.flop

    def embedder(self, precision: str = "auto", images: int = MANY) -> Embedder:
        """Return an embedder as the scripts make it for so many images."""
        # Of a network of its own: one in torch is moved and converted in place.
        network = find_network(self.args.model, self.args.weights)
        options = EmbeddingOptions(device=self.args.device, precision=precision)
        return make_embedder(network, options, images)

    def embed(self, root: Path, paths: list[str], precision: str) -> np.ndarray:
        """Return the embeddings of root/path, (N, dimension) float32."""
        batches = embed_images(self.embedder(precision, len(paths)), root, paths)
        return np.concatenate([batch.embeddings for batch in batches])

    def pixels(self) -> np.ndarray:
        """Return preprocessed database images, (--count, crop, crop, 3) uint8."""
        preprocess = self.network.preprocessing
        paths = self.database[: self.args.count]
        return np.stack([preprocess(decode(self.args.images, path)[1]) for path in paths])

    # --- Parts --------------------------------------------------------------------------------

    def network_alone(self) -> Figures:
        """Time ways to embed the same decoded images, and the matrix product, by turns."""
        pixels = self.pixels()
        exact, fast = self.embedder("float32"), self.embedder()
        ways: dict[str, Embed] = {
            f"similar_images, {embedder.words}": functools.partial(_embed_all, embedder, pixels)
            for embedder in (exact, fast)
        }
        ways |= self.competitors(pixels, max(competitors.EAGER_BATCH, fast.batch_size))
        reference = _embed_all(exact, pixels)
        found = {name: embed() for name, embed in ways.items()}  # warms up, too
        figures: Figures = {"network: GFLOP per image": self.flop / 1e9}
        rates: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(self.args.repetitions):
            for name, embed in ways.items():
                rates[f"{name}: images/s"].append(len(found[name]) / seconds(embed))
            for precision in dict.fromkeys((_precision(fast), "float32")):
                name = f"{precision} matrix product, {self.device}, as images/s"
                rates[name].append(self.matrix_product(precision))
        for name, vectors in found.items():
            cosines = (vectors * reference[: len(vectors)]).sum(1)
            figures[f"{name}: least cosine to float32"] = float(cosines.min())
        return {**rates, **figures}

    def competitors(self, pixels: np.ndarray, batch: int) -> dict[str, Embed]:
        """Return other ways to embed the images, of the same weights, each by its name.

        The homework's reads the first files itself, (HOMEWORK_IMAGES, dimension).
        """
        state = self.folder / "state.pth"
        competitors.save_state(self.args.model, self.layers.get_submodule("body"), state)
        files = [self.args.images / path for path in self.database[:HOMEWORK_IMAGES]]
        homework = functools.partial(competitors.embed_as_the_homework, self.args.model, state)
        eager = functools.partial(
            competitors.embed_eagerly, self.layers, self.device, batch, pixels
        )
        return {
            f"torch, eager, float32, {self.device}, batches of {batch}": eager,
            "homework: a network built and loaded for each image, cpu": lambda: np.stack(
                [homework(file) for file in files[: len(pixels)]]
            ),
        }

    def pipeline(self) -> Figures:
        """Compare decode, embed and upsert, overlapped, with the network alone."""
        paths = self.database[: 16 * self.args.count]
        pixels = self.pixels()
        embedder = self.embedder()
        precision = _precision(embedder)
        rates, of_network, of_product = [], [], []
        self.pipeline_rate(embedder, paths[: 2 * WARM_UP])

        def limits() -> tuple[float, float]:
            alone = len(pixels) / seconds(lambda: _embed_all(embedder, pixels))
            return alone, self.matrix_product(precision)

        for _ in range(self.args.repetitions):
            before = limits()
            rates.append(self.pipeline_rate(embedder, paths))
            after = limits()
            of_network.append(2 * rates[-1] / (before[0] + after[0]))
            of_product.append(2 * rates[-1] / (before[1] + after[1]))
        return {
            f"decode, embed, upsert, {len(paths):,} images: images/s": rates,
            "as a share of the network alone": of_network,
            f"as a share of the {precision} matrix product, {self.device}": of_product,
        }

    def pipeline_rate(self, embedder: Embedder, paths: list[str]) -> float:
        """Decode, embed and upsert into a new Milvus Lite file; return images/s after warm-up."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            connect(str(Path(folder, "x.db"))) as client,
        ):
            properties = {"root": "/nowhere", **self.network.model.properties()}
            collection = ImageCollection.create(client, "images", properties)
            rows = [(time.perf_counter(), 0)]  # how many were upserted when

            def update(count: int) -> None:
                rows.append((time.perf_counter(), rows[-1][1] + count))

            with RowWriter(collection, SimpleNamespace(update=update)) as writer:
                for batch in embed_images(embedder, self.args.images, paths):
                    writer.add(batch.images, batch.embeddings)
                writer.finish()
            begin = next((row for row in rows[:-1] if row[1] > WARM_UP), rows[0])
            return (rows[-1][1] - begin[1]) / (rows[-1][0] - begin[0])

    def agreement(self) -> Figures:
        """Compare the matches in the device's own precision with those in float32."""
        database = self.database[: self.args.agreement]
        made = []
        for precision in ("float32", "auto"):
            say(f"agreement: {len(database) + len(self.queries):,} images, {precision}")
            both = (self.args.queries, self.queries), (self.args.images, database)
            made.append(tuple(self.embed(root, paths, precision) for root, paths in both))
        labels = tuple([label_of(path) for path in paths] for paths in (self.queries, database))
        return {**agreement(made[0], made[1], labels)}  # type: ignore[arg-type]

    def load(self) -> Figures:
        """Time embed_and_load.py from start to end, and again when nothing is new."""
        file = Path(self.args.weights)
        weights = file.resolve() if file.exists() else self.args.weights
        options = ["--model", self.args.model, "--weights", weights, "--device", self.args.device]
        options += ["--images", self.args.images.resolve(), "--milvus-uri", self.loaded]
        first, again = (
            run_script("embed_and_load.py", *options, cwd=self.folder) for _ in range(2)
        )
        count = len(self.database)
        figures: Figures = {
            f"embed_and_load.py, {count:,} images: seconds": first[0],
            "embed_and_load.py: images/s, start to end": count / first[0],
            "embed_and_load.py again, nothing new: seconds": again[0],
        }
        if first[1]:
            figures["embed_and_load.py: peak MiB without the decode workers"] = first[1]
        return figures

    def query(self) -> Figures:
        """Time query_code.py with one image and with all queries."""
        if not Path(self.loaded).exists():
            self.load()
        options = ["--milvus-uri", self.loaded, "--device", self.args.device]
        image = (self.args.queries / self.queries[0]).resolve()
        one = [
            run_script("query_code.py", image, *options, cwd=self.folder)[0]
            for _ in range(self.args.repetitions + 1)
        ]
        folder = ["--queries", self.args.queries.resolve()]
        whole = run_script("query_code.py", *folder, *options, cwd=self.folder)[0]
        return {
            "query_code.py IMAGE: seconds": one[1:],  # the first run warms up
            f"query_code.py, {len(self.queries):,} images: seconds": whole,
        }


def _precision(embedder: Embedder) -> str:
    """Return the precision that an embedder computes in."""
    return next(name for name in PRECISIONS if name in embedder.words.split(", "))


def _embed_all(embedder: Embedder, pixels: np.ndarray) -> np.ndarray:
    """Embed preprocessed images as embed_images() does, without decoding."""
    size = embedder.batch_size
    parts = [pixels[i : i + size] for i in range(0, len(pixels), size)]
    with ThreadPoolExecutor(embedder.streams + 1) as pool:
        return np.concatenate(list(pool.map(embedder.embed, parts)))
