"""What the parts of benchmarks.run share: the images, the network, the device."""

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import MANY, Run, complete, read, run_script
from similar_images.images.decode_workers import core_count
from similar_images.images.image_files import ImageError
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.connection import connect
from similar_images.network.embedding import (
    Embedder,
    EmbeddingOptions,
    choose_device,
    embed_images,
    make_embedder,
)
from similar_images.network.find_network import find_network
from similar_images.network.model_description import named_or_path


class Setup:
    """Two folders' paths, those of the database in random order, and the network.

    few: the database's first --count paths. loaded: the Milvus Lite file of the last load.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.loaded = args, folder, ""
        self.database = measure.image_paths(args.images, "--images")
        self.queries = measure.image_paths(args.queries, "--queries")
        np.random.default_rng(0).shuffle(self.database)
        self.few = self.database[: args.count]
        if len(self.few) < 2 and "steady" in args.parts:
            raise ImageError("steady needs two images; choose other --images, --count or --parts")
        self.device = choose_device(args.device, MANY)
        network = find_network(args.model, args.weights)
        self.model, self.preprocessing = network.model, network.preprocessing
        self.least_side = 2 * network.preprocessing.resize

    @functools.cached_property
    def torch(self) -> Any:
        """The network in torch, on the device: a competitors.Torch."""
        from benchmarks.competitors import Torch  # slow; see run.py

        return Torch(self.args.model, self.args.weights, self.device)

    def embedder(self, precision: str = "auto", images: int = MANY) -> Embedder:
        """Return an embedder as the scripts make it for so many images."""
        # Of a network of its own: one in torch is moved and converted in place.
        network = find_network(self.args.model, self.args.weights)
        options = EmbeddingOptions(device=self.args.device, precision=precision)
        return make_embedder(network, options, images)

    def preprocessed(self, path: str, least_side: int | None = None) -> np.ndarray:
        """Return a database image as the network takes it, (crop, crop, 3) uint8; see decode()."""
        return self.preprocessing(read(self.args.images, path, least_side).rgb)

    def embed(self, embedder: Embedder, root: Path, paths: list[str]) -> np.ndarray:
        """Return the embeddings of root/path as the scripts make them, (N, dimension) float32."""
        measure.say(f"embed {len(paths):,} images, {embedder.words}")
        batches = complete(root, embed_images(embedder, root, paths))
        return np.concatenate([batch.embeddings for batch in batches])

    def upsert(self, embedder: Embedder, paths: list[str]) -> measure.Rows:
        """Decode, embed and upsert into a new Milvus Lite file, as embed_and_load.py does.

        Few images have all worker processes, too, so that their start-up can be subtracted.
        """
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            connect(str(Path(folder, "x.db"))) as client,
        ):
            properties = {"root": "/nowhere", **self.model.properties()}
            collection, rows = ImageCollection.create(client, "images", properties), measure.Rows()
            with RowWriter(collection, rows.update) as writer:
                images = embed_images(embedder, self.args.images, paths, core_count())
                for batch in complete(self.args.images, images):
                    writer.add(batch.images, batch.embeddings)
                writer.finish()
        return rows

    def run_load(self) -> Run:
        """Run embed_and_load.py with all images of the database."""
        images, weights = self.args.images.resolve(), named_or_path(self.args.weights)
        options = ["--images", images, "--model", self.args.model, "--weights", weights]
        return self._run("embed_and_load.py", *options)

    def run_query(self, *queries: object) -> Run:
        """Run query_code.py on what was loaded."""
        return self._run("query_code.py", *queries)

    def _run(self, script: str, *options: object) -> Run:
        options += "--milvus-uri", self.loaded, "--device", self.args.device
        return run_script(script, *options, cwd=self.folder)
