"""Measure every figure of the README's performance section, side by side.

Usage:
  python -m benchmarks.run --weights random                # after "Try it", a few minutes
  python -m benchmarks.run --cifar ~/cifar-10              # after the CIFAR-10 run: half an hour
  python -m benchmarks.run --parts embedding preprocessing

Reads:  database_set and query_set as split_images.py left them, and weights
Writes: benchmarks/results.json and benchmarks/results.md; with --parts, the others stay as they
        were measured on this machine

Competitors alternate: each repetition runs all of them, and each is set against the matrix
product that was measured just before it. Those that are not installed
(pip install -r benchmarks/requirements.txt) are left out.
"""

import argparse
import functools
import json
import logging
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image

import image_files
import image_to_embedding
from benchmarks import report, scripts, ways
from benchmarks.measure import MatrixLimit, agreement, machine, seconds, spread
from command_line import whole_number
from image_to_embedding import Embedder

PARTS = ("embedding", "preprocessing", "agreement", "pipeline", "load", "search", "query", "split")
CALIBRATION = 128  # images for int8


class Benchmark:
    """What all parts share: the folders, the weights as a file, the device and its limit."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.database = sorted(found.path for found in image_files.iter_images(args.images, []))
        self.queries = sorted(found.path for found in image_files.iter_images(args.queries, []))
        self.weights = folder / "resnet18.pth"
        state = torchvision.models.resnet18().state_dict()
        state.update(image_to_embedding.load_weights(args.weights))
        torch.save(state, self.weights)
        self.device = image_to_embedding.choose_device(args.device)
        self.precision = image_to_embedding.choose_precision("auto", self.device)
        self.limit = MatrixLimit(self.device, self.precision)
        self.collection = args.milvus_uri or str(folder / "load.db")
        np.random.default_rng(0).shuffle(self.database)

    def embedder(self, precision: str = "auto", images: int = 10**6) -> Embedder:
        """Return an embedder that is set as for so many images."""
        embedder = Embedder(str(self.weights), self.args.device, precision)
        embedder.prepare(images)
        return embedder

    def embed(self, embedder: Embedder, root: Path, paths: list[str]) -> np.ndarray:
        """Return the embeddings of root/path, (N, 512) float32."""
        batches = image_to_embedding.embed_images(embedder, root, paths)
        return np.concatenate([batch.embeddings for batch in batches])

    # --- Parts --------------------------------------------------------------------------------

    def embedding(self) -> dict[str, Any]:
        """Time each way to embed the same images, and hold it against float32."""
        read = ways.Images.read(self.args.images, self.database[: self.args.count])
        calibration = ways.Images.read(self.args.images, self.database[-CALIBRATION:]).normalised
        reference = self.embedder("float32", 0).embed(read.pixels)
        limits = {self.precision: self.limit, "float32": MatrixLimit(self.device, "float32")}
        results: list[dict[str, Any]] = []
        chosen = []
        for way in ways.all_ways(self.weights, self.device, self.precision, calibration):
            if self.args.ways not in way.name:
                continue
            if lacking := ways.missing(way):
                say(f"{way.name} ({way.precision}) is left out: {lacking} is not installed")
                continue
            say(f"preparing {way.name}, {way.precision}")
            images = read.first(max(2, int(len(read.files) * way.share)))
            embed = way.make()
            vectors = embed(images)
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            cosines = np.einsum("ij,ij->i", vectors, reference[: len(vectors)])
            result = {"name": way.name, "precision": way.precision, "images": len(images.files)}
            results.append({**result, "least_cosine": float(cosines.min())})
            chosen.append((embed, images))
        rates: list[list[float]] = [[] for _ in chosen]
        ratios: list[list[float]] = [[] for _ in chosen]
        bounds: dict[str, list[float]] = {name: [] for name in limits}
        for repetition in range(self.args.repetitions):
            say(f"repetition {repetition + 1} of {self.args.repetitions}")
            for i, (embed, images) in enumerate(chosen):
                now = {name: limit.measure() for name, limit in limits.items()}
                for name, bound in now.items():
                    bounds[name].append(bound)
                rate = len(images.files) / seconds(functools.partial(embed, images))
                rates[i].append(rate)
                bound = now["float32" if results[i]["precision"] == "float32" else self.precision]
                ratios[i].append(rate / bound)
        for result, rate_list, ratio_list in zip(results, rates, ratios, strict=True):
            result.update(rate=spread(rate_list), of_limit=spread(ratio_list))
        return {"ways": results, "limits": {name: spread(b) for name, b in bounds.items()}}

    def preprocessing(self) -> dict[str, Any]:
        """Time decoding and preprocessing against the published transforms, on one core."""
        transforms = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
        files = [self.args.images / path for path in self.database[:500]]
        pictures = []
        for file in files:
            with Image.open(file) as image:
                pictures.append(image.convert("RGB"))
        torch.set_num_threads(1)
        times: dict[str, list[float]] = {"transforms": [], "ours": [], "ours_and_decoding": []}
        for _ in range(self.args.repetitions):
            taken = {
                "transforms": seconds(lambda: [transforms(p) for p in pictures]),
                "ours": seconds(lambda: [image_files.preprocess(p) for p in pictures]),
                "ours_and_decoding": seconds(
                    lambda: [
                        image_files.preprocess(image_files.decode(self.args.images, path)[1])
                        for path in self.database[:500]
                    ]
                ),
            }
            for name, value in taken.items():
                times[name].append(1000 * value / len(files))
        torch.set_num_threads(image_to_embedding.core_count())
        mean, std = (
            torch.tensor(v).reshape(3, 1, 1)
            for v in (image_to_embedding.MEAN, image_to_embedding.STD)
        )
        levels = 0.0
        for picture in pictures:
            theirs = (transforms(picture) * std + mean) * 255
            pixels = torch.from_numpy(image_files.preprocess(picture).copy()).permute(2, 0, 1)
            levels = max(levels, float((theirs - pixels).abs().max()))
        return {
            "images": len(files),
            "milliseconds": {name: spread(values) for name, values in times.items()},
            "most_grey_levels_apart": round(levels, 3),
        }

    def agreement(self) -> dict[str, Any]:
        """Hold our way's matches against float32's on real queries."""
        database, queries = self.database[: self.args.agreement], self.queries[:5000]
        labels = tuple([image_files.label_of(path) for path in p] for p in (queries, database))
        made = []
        for precision in ("float32", self.precision):
            say(f"agreement: embedding {len(database) + len(queries):,} images in {precision}")
            embedder = self.embedder(precision, len(database) + len(queries))
            made.append(
                (
                    self.embed(embedder, self.args.queries, queries),
                    self.embed(embedder, self.args.images, database),
                )
            )
        result = agreement(made[0], made[1], (labels[0], labels[1]))
        return {"precision": self.precision, **result}

    def pipeline(self) -> dict[str, Any]:
        """Compare decode, embed and upsert, overlapped, with the machine's limit."""
        result = {}
        for precision in dict.fromkeys((self.precision, "float32")):
            say(f"pipeline in {precision}")
            embedder = self.embedder(precision)
            limit = (
                self.limit if precision == self.precision else MatrixLimit(self.device, precision)
            )
            paths = self.database[: 8 * self.args.count]
            scripts.pipeline_rate(embedder, self.args.images, paths[:512], self.warm_up_uri())
            result[precision] = scripts.pipeline(
                embedder, limit, self.args.images, paths, self.args.repetitions
            )
        return result

    def warm_up_uri(self) -> str:
        """Return a database for a run that is not counted."""
        return str(Path(tempfile.mkdtemp(dir=self.folder), "x.db"))

    def load(self) -> dict[str, Any]:
        """Run embed_and_load.py whole, between two measurements of the homework's way."""
        count = max(2, min(128, len(self.database)))
        images = ways.Images.read(self.args.images, self.database[:count])
        homework = ways.homework(self.weights)
        homework(images.first(2))
        say("load: the homework's way, embed_and_load.py, the homework's way again")
        rates = [count / seconds(lambda: homework(images))]
        self.collection = str(self.folder / "load.db")
        whole = scripts.whole_load(self.args.images, self.weights, self.collection)
        rates.append(count / seconds(lambda: homework(images)))
        few = scripts.whole_load(
            self.args.queries, self.weights, str(self.folder / "few.db"), "--compile", "on"
        )
        return {
            "whole": whole,
            "homework": spread(rates),
            "times_as_fast": whole["rate"] / (sum(rates) / len(rates)),
            "few": few,
        }

    def search(self) -> dict[str, Any]:
        """Time the search of all queries alone, against faiss."""
        self.need_collection()
        embedder = self.embedder(images=len(self.queries))
        queries = self.embed(embedder, self.args.queries, self.queries)
        return scripts.search(self.collection, queries, self.args.repetitions)

    def query(self) -> dict[str, Any]:
        """Time query_code.py on one image."""
        self.need_collection()
        image = self.args.queries / self.queries[0]
        return scripts.one_query(image, self.weights, self.collection, self.args.repetitions)

    def need_collection(self) -> None:
        """Load the collection if the part that does so was not asked for."""
        if not self.args.milvus_uri and not Path(self.collection).exists():
            say("loading the collection")
            scripts.whole_load(self.args.images, self.weights, self.collection)

    def split(self) -> dict[str, Any] | None:
        """Time split_images.py against the plain loop; None without CIFAR-10's batches."""
        if self.args.cifar is None:
            say("split is left out: give --cifar FOLDER with CIFAR-10's batches")
            return None
        return scripts.split(self.args.cifar, self.args.repetitions)


def earlier(file: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Return the parts measured before on the same machine, with the same weights."""
    if not file.exists():
        return {}
    before: dict[str, Any] = json.loads(file.read_text())
    same = all(before.get(key) == results[key] for key in ("machine", "repetitions", "weights"))
    return {part: before[part] for part in PARTS if part in before} if same else {}


def say(text: str) -> None:
    """Print what is going on, on stderr."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folders = {
        "--images": Path("database_set"),
        "--queries": Path("query_set"),
        "--output": Path(__file__).parent,
    }
    for name, default in folders.items():
        parser.add_argument(name, type=Path, default=default, metavar="DIR")
    parser.add_argument("--cifar", type=Path, metavar="DIR", help="CIFAR-10's batches, for split")
    image_to_embedding.add_weights_option(parser)
    parser.add_argument("--device", choices=image_to_embedding.DEVICES, default="auto")
    parser.add_argument("--repetitions", type=whole_number(1, 1000), default=5, metavar="N")
    parser.add_argument(
        "--count",
        type=whole_number(16, 10**6),
        default=256,
        metavar="N",
        help="images that a way embeds in a repetition; the pipeline eight times as many",
    )
    parser.add_argument(
        "--agreement",
        type=whole_number(1, 10**9),
        default=10_000,
        metavar="N",
        help="database images for the agreement with float32 (default: 10,000)",
    )
    parser.add_argument(
        "--ways", default="", metavar="TEXT", help="only ways to embed whose name holds this"
    )
    parser.add_argument(
        "--milvus-uri",
        metavar="URI",
        help="where the images are loaded already, for search and query without load",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Measure the parts in order; write the figures after each."""
    warnings.simplefilter("ignore")  # other people's libraries warn of each other
    logging.disable(logging.WARNING)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "repetitions": args.repetitions,
        "weights": args.weights if args.weights in ("imagenet", "random") else "file",
    }
    results = {**earlier(args.output / "results.json", results), **results}
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(args, Path(folder))
        for part in PARTS:
            if part not in args.parts:
                continue
            say(part)
            results[part] = getattr(benchmark, part)()
            args.output.mkdir(parents=True, exist_ok=True)
            (args.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
            (args.output / "results.md").write_text(report.markdown(results))
    print((args.output / "results.md").read_text())


if __name__ == "__main__":
    run(parse_args())
