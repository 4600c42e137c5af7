"""The parts of benchmarks.photographs: speed, exactness, whole runs and memory."""

import argparse
import collections
import functools
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

from benchmarks import competitors
from benchmarks.measure import TreeMemory, image_paths, run_script, say, seconds
from similar_images.images.decode_workers import FEW_IMAGES, core_count
from similar_images.images.decoding import DecodedImage, decode
from similar_images.images.image_files import ImageError
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.connection import connect
from similar_images.network.embedding import (
    Embedder,
    EmbeddingOptions,
    embed_images,
    make_embedder,
)
from similar_images.network.find_network import find_network, torch_network
from similar_images.text import printable

LARGE = (11547, 8660)  # pixels: 100 megapixels
LARGE_FILES = 2  # that are made; the others are links to them
LARGE_COUNT = FEW_IMAGES + 1  # the fewest that worker processes decode
Figures = dict[str, list[float] | float]  # several runs, or a single one


class Photographs:
    """What all parts share: the images and the network, on the processor."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        """Read all images once, so that the system holds their files in memory."""
        self.args = args
        self.folder = folder
        self.root = args.photographs
        self.network = find_network(args.model, args.weights)
        self.least_side = 2 * self.network.preprocessing.resize
        paths = image_paths(self.root, "--photographs")
        np.random.default_rng(0).shuffle(paths)
        self.reductions = self.readable(paths[: args.count])
        self.paths = [image.path for image in self.reductions]
        if len(self.paths) < 4:
            raise ImageError(f"{self.root} holds fewer than 4 images; choose --photographs")

    def readable(self, paths: list[str]) -> list[DecodedImage]:
        """Return the images that can be decoded; the others are named on stderr."""
        found = []
        for path in paths:
            try:
                found.append(decode(self.root, path, self.least_side)[0])
            except ImageError as error:
                say(f"left out {printable(path)}: {printable(str(error))}")
        return found

    @property
    def words(self) -> str:
        """How many images there are, and of what size."""
        sizes = [image.width * image.height / 1e6 for image in self.reductions]
        suffixes = sorted({Path(path).suffix.lower() for path in self.paths})
        return (
            f"{len(sizes):,} images ({', '.join(suffixes)}) of {min(sizes):.1f} to "
            f"{max(sizes):.1f} megapixels, {statistics.mean(sizes):.1f} on average"
        )

    @functools.cached_property
    def body(self) -> nn.Module:
        """The network in torch: normalised images → embeddings of any length."""
        return torch_network(self.args.model, self.args.weights).layers.get_submodule("body")

    @functools.cached_property
    def transforms(self) -> Callable[[Image.Image], torch.Tensor]:
        """The preprocessing that torchvision publishes for the network."""
        return torchvision.models.get_model_weights(self.args.model).DEFAULT.transforms()

    def embedder(self, precision: str = "auto") -> Embedder:
        """Return an embedder as the scripts make it for these images."""
        options = EmbeddingOptions(device="cpu", precision=precision)
        return make_embedder(self.network, options, len(self.paths))

    def preprocessed(self, path: str, least_side: int | None) -> np.ndarray:
        """Return an image as the network takes it, (crop, crop, 3) uint8; see decode()."""
        return self.network.preprocessing(decode(self.root, path, least_side)[1])

    # --- Parts --------------------------------------------------------------------------------

    def rates(self) -> Figures:
        """Compare loads without their start-up with torch's DataLoader and with the cores."""
        embedder, workers = self.embedder(), core_count()
        whole = _decoding_whole(embedder)
        ours = f"load, {embedder.words}"
        whole_name = "load, the same, images decoded whole"
        torchs = f"torch, DataLoader with {workers} workers, eager, float32"
        limit = f"what {workers} cores can do"
        ways: dict[str, Callable[[list[str]], None]] = {
            ours: functools.partial(self.load, embedder),
            whole_name: functools.partial(self.load, whole),
            torchs: self.load_with_torch,
        }
        rates: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(self.args.repetitions):
            for name, load in ways.items():
                say(name)
                rates[f"{name}: images/s"].append(self.steady_rate(load))
            costs = self.costs(embedder)
            for name, cost in costs.items():
                rates[f"{name}, alone: CPU ms an image"].append(1000 * cost)
            least = costs["scaled decode and preprocess"] + costs["network"]
            rates[f"{limit}: images/s"].append(workers / least)
        for name, other in (
            ("load / torch", torchs),
            ("load / load, images decoded whole", whole_name),
            ("load / what the cores can do", limit),
        ):
            pairs = zip(rates[f"{ours}: images/s"], rates[f"{other}: images/s"], strict=True)
            rates[name] = [one / another for one, another in pairs]
        return {**rates}

    def steady_rate(self, load: Callable[[list[str]], None]) -> float:
        """Return the images/s of a load after its start-up: what more images take longer.

        Every worker has the same number of batches, if there are images enough.
        """
        each = competitors.LOADER_BATCH * core_count()
        few = each if len(self.paths) >= 2 * each else len(self.paths) // 4
        many = len(self.paths) // few * few
        started, all_done = (
            seconds(functools.partial(load, self.paths[:count])) for count in (few, many)
        )
        return (many - few) / (all_done - started)

    def load(self, embedder: Embedder, paths: list[str]) -> None:
        """Decode, embed and upsert into a new Milvus Lite file, as embed_and_load.py does."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            connect(str(Path(folder, "x.db"))) as client,
        ):
            properties = {"root": "/nowhere", **self.network.model.properties()}
            collection = ImageCollection.create(client, "images", properties)
            progress = SimpleNamespace(update=lambda count: None)
            with RowWriter(collection, progress) as writer:
                for batch in embed_images(embedder, self.root, paths, workers=core_count()):
                    writer.add(batch.images, batch.embeddings)
                writer.finish()

    def load_with_torch(self, paths: list[str]) -> None:
        """Decode and embed as a user of torch usually would."""
        files = [self.root / path for path in paths]
        reductions = competitors.Images(files, self.transforms)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            embed = competitors.embed_with_loader
            pool.submit(embed, self.body, reductions, core_count()).result()

    def costs(self, embedder: Embedder) -> dict[str, float]:
        """Return the CPU seconds of each step per image, measured alone on a quarter of them."""
        paths = self.paths[: len(self.paths) // 4]
        pixels = [self.preprocessed(path, self.least_side) for path in paths]
        size = embedder.batch_size
        batches = [np.stack(pixels[i : i + size]) for i in range(0, len(pixels), size)]
        full = [batch for batch in batches if len(batch) == size] or batches[:1]
        embedder.embed(batches[0])  # warms up

        def embed() -> None:
            for batch in full:
                embedder.embed(batch)

        def decode_all(least_side: int | None) -> None:
            for path in paths:
                self.preprocessed(path, least_side)

        return {
            "whole decode and preprocess": _cpu_seconds(lambda: decode_all(None)) / len(paths),
            "scaled decode and preprocess": _cpu_seconds(lambda: decode_all(self.least_side))
            / len(paths),
            "network": _cpu_seconds(embed) / sum(map(len, full)),
        }

    def exactness(self) -> Figures:
        """Compare embeddings with torchvision's in float32, of one image at a time."""
        say("reference")
        reference = np.concatenate([self.reference(path) for path in self.paths])
        fast, exact = self.embedder(), self.embedder("float32")
        scaled = [self.preprocessed(path, self.least_side) for path in self.paths]
        ways = {
            f"as loaded, {fast.words}": self.embed(fast),
            "scaled decode alone, float32": np.concatenate(
                [exact.embed(one[np.newaxis]) for one in scaled]
            ),
            f"--precision float32, {exact.words}": self.embed(exact),
        }
        figures: Figures = {"images": len(reference)}
        for name, vectors in ways.items():
            cosines = (vectors.astype(np.float64) * reference).sum(1)
            figures[f"{name}: least cosine"] = float(cosines.min())
            figures[f"{name}: mean cosine"] = float(cosines.mean())
        differences = np.abs(ways[f"--precision float32, {exact.words}"] - reference)
        figures["--precision float32: largest difference of a component"] = float(differences.max())
        return figures

    def reference(self, path: str) -> np.ndarray:
        """Return an image's embedding by torchvision alone, (1, dimension) float32."""
        rgb = decode(self.root, path)[1]
        with torch.inference_mode():
            embedding = self.body(self.transforms(rgb).unsqueeze(0))
            return nn.functional.normalize(embedding.flatten(1)).numpy()

    def embed(self, embedder: Embedder) -> np.ndarray:
        """Return the images' embeddings as the scripts make them, (N, dimension) float32."""
        say(embedder.words)
        batches = embed_images(embedder, self.root, self.paths)
        return np.concatenate([batch.embeddings for batch in batches])

    def runs(self) -> Figures:
        """Time the scripts from start to end."""
        if self.args.queries:
            queries, database = self.args.queries.resolve(), self.root.resolve()
            count = len(image_paths(queries, "--queries"))
            return self.run_scripts(database, queries, count, self.args.repetitions)
        half = len(self.paths) // 2
        folders = {"database": self.paths[:half], "queries": self.paths[half : 2 * half]}
        for name, paths in folders.items():
            for path in paths:
                copy = self.folder / name / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.root / path, copy)
        database, queries = (self.folder / name for name in folders)
        return self.run_scripts(database, queries, half, self.args.repetitions)

    def large(self) -> Figures:
        """Time the scripts with images of 100 megapixels, matched with each other."""
        database, queries = self.folder / "large", self.folder / "large queries"
        database.mkdir()
        for number in range(LARGE_COUNT):
            file = database / f"{number:03}.jpg"
            if number < LARGE_FILES:
                rgb = decode(self.root, self.paths[number])[1]
                rgb.resize(LARGE, Image.Resampling.BICUBIC).save(file, quality=88)
            else:
                os.link(database / f"{number % LARGE_FILES:03}.jpg", file)
        shutil.copytree(database, queries, copy_function=os.link)
        return self.run_scripts(database, queries, LARGE_COUNT, repetitions=1)

    def run_scripts(
        self, database: Path, queries: Path, query_count: int, repetitions: int
    ) -> Figures:
        """Load a folder into a new collection and query it, so many times."""
        count = len(image_paths(database, "--photographs"))
        weights = Path(self.args.weights)
        network = ["--model", self.args.model]
        network += ["--weights", weights.resolve() if weights.exists() else self.args.weights]
        figures: dict[str, list[float]] = collections.defaultdict(list)
        for number in range(repetitions):
            options = ["--milvus-uri", self.folder / f"{database.name}{number}.db", "--device"]
            options.append("cpu")
            scripts = {
                f"embed_and_load.py, {count:,} images": ["--images", database, *network],
                f"query_code.py, {query_count:,} images": ["--queries", queries],
            }
            taken = []
            for name, own in scripts.items():
                say(name)
                script = name.partition(",")[0]
                measured = functools.partial(run_script, cwd=self.folder, memory=TreeMemory())
                time_taken, peak = measured(script, *own, *options)
                taken.append(time_taken)
                figures[f"{name}: seconds"].append(time_taken)
                if peak:
                    figures[f"{script}: peak MiB, all processes"].append(peak)
            figures["query_code.py / embed_and_load.py"].append(taken[1] / taken[0])
        return {**figures}


def _decoding_whole(embedder: Embedder) -> Embedder:
    """Return an embedder for which every image is decoded whole, whatever its precision."""
    names = ("preprocessing", "batch_size", "streams", "words", "embed")
    same = {name: getattr(embedder, name) for name in names}
    return SimpleNamespace(**same, exact=True, least_side=None)


def _cpu_seconds(function: Callable[[], object]) -> float:
    """Return the time that a call takes of all cores together."""
    start = time.process_time()
    function()
    return time.process_time() - start
