"""Embed a folder of images with a pretrained ResNet18 and load the vectors into Milvus.

Usage:
  python embed_and_load.py                                    # database_set into ./milvus.db
  python embed_and_load.py --images ~/Pictures --collection pictures
  python embed_and_load.py --milvus-uri http://localhost:19530
  python embed_and_load.py --weights random                   # no download, no meaning

Reads:  the folder, with sub-folders as labels; weights, downloaded once
Writes: a Milvus collection: path, embedding, insertion time, file size, width, height

Running it again embeds only what is new or changed.
"""

import argparse
import collections
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

import image_files
import image_to_embedding
from image_collection import (
    Client,
    CollectionError,
    ImageCollection,
    add_collection_options,
    connect,
    redact,
    resolve_uri,
)
from image_files import DecodedImage, FoundImage, ImageError, Skipped, printable
from image_to_embedding import Embedder, Model, ModelError

NEW_SUFFIX = "_being_recreated"  # of the collection that --recreate loads
UPSERT_ROWS = 256  # on Milvus Lite a row costs the same from 64 to 1,000 at a time: 0.15 ms
MAX_WAITING = 4  # upserts that may wait before the network does


@dataclass
class Plan:
    """What a load has to do: the images to embed, those already in, the rows without a file."""

    todo: list[FoundImage]
    changed: set[str]  # of those to embed: paths that have a row, of an older file
    kept: int
    gone: list[str]
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, skipped: list[Skipped]) -> None:
        """Note files that could not be read; a row of an older file counts as gone."""
        self.skipped += skipped
        self.gone += [path for path, _ in skipped if path in self.changed]


def find_images(root: Path, skipped: list[Skipped]) -> list[FoundImage]:
    """Return the folder's images; ImageError if there is none."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise ImageError(f"{root} {what}; run python split_images.py or choose --images")
    found = list(image_files.iter_images(root, skipped))
    if not found and not skipped:
        raise ImageError(f"{root} holds no images; run python split_images.py or choose --images")
    return found


def open_collection(client: Client, args: argparse.Namespace, model: Model) -> ImageCollection:
    """Return the collection to load into, made if need be; with --recreate, one beside it.

    Raises CollectionError if the collection holds another folder or another model's vectors.
    """
    root = str(args.images.resolve())
    properties = {"root": root, **model.properties()}
    beside_name = args.collection + NEW_SUFFIX
    found = ImageCollection.find(client, args.collection)
    beside = ImageCollection.find(client, beside_name)
    if beside and (found is None or args.recreate):  # left by a --recreate that did not end
        if beside.root == Path(root) and model.same_vectors(beside.properties):
            if found is None:
                beside.rename(args.collection)
            return beside
        beside.drop()
    if found is None:
        return ImageCollection.create(client, args.collection, properties)
    if args.recreate:
        return ImageCollection.create(client, beside_name, properties)
    check_same(found, root, model, args.moved)
    return found


def check_same(collection: ImageCollection, root: str, model: Model, moved: bool) -> None:
    """Raise CollectionError unless the collection holds this folder and this model's vectors."""
    name = collection.name
    if not model.same_vectors(collection.properties):
        raise CollectionError(
            f"the collection {name} was made with other weights "
            f"({collection.properties.get('weights')}); give those, choose another --collection, "
            "or add --recreate"
        )
    if str(collection.root) != root:
        if not moved:
            raise CollectionError(
                f"the collection {name} holds the folder {collection.root}; choose another "
                "--collection, or add --moved if that folder is here now"
            )
        collection.set_property("root", root)


def make_plan(found: list[FoundImage], collection: ImageCollection, skipped: list[Skipped]) -> Plan:
    """Compare the folder with the collection by path, file size and modification time."""
    stored = {image.path: image for image in collection.stored_images()}
    todo = [image for image in found if stored.get(image.path) != tuple(image)]
    changed = {image.path for image in todo if image.path in stored}
    gone = sorted(stored.keys() - {image.path for image in found})
    return Plan(todo, changed, len(found) - len(todo), gone, skipped)


class RowWriter:
    """Upserts in a thread of its own, so that the network goes on meanwhile; a context manager.

    `progress` counts the rows that Milvus has taken, and no others.
    """

    def __init__(self, collection: ImageCollection, progress: "tqdm[None]") -> None:
        self.collection = collection
        self.progress = progress
        self.written = 0
        self._images: list[DecodedImage] = []
        self._embeddings: list[np.ndarray] = []
        self._upserts: collections.deque[tuple[int, Future[None]]] = collections.deque()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error:
            self.collection.client.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def add(self, images: list[DecodedImage], embeddings: np.ndarray) -> None:
        """Take rows in; raises what an earlier upsert raised."""
        self._images += images
        self._embeddings.append(embeddings)
        if len(self._images) >= UPSERT_ROWS:
            self._submit()
        while self._upserts and (self._upserts[0][1].done() or len(self._upserts) > MAX_WAITING):
            self._finish_one()

    def finish(self) -> None:
        """Wait until all rows are in."""
        if self._images:
            self._submit()
        while self._upserts:
            self._finish_one()

    def _submit(self) -> None:
        rows = self._images, np.concatenate(self._embeddings)
        self._upserts.append((len(rows[0]), self._thread.submit(self.collection.upsert, *rows)))
        self._images, self._embeddings = [], []

    def _finish_one(self) -> None:
        count, upsert = self._upserts.popleft()
        upsert.result()
        self.written += count
        self.progress.update(count)


def load(
    collection: ImageCollection, embedder: Embedder, args: argparse.Namespace, plan: Plan
) -> int:
    """Embed and upsert the plan's images; return how many rows went in."""
    paths = [image.path for image in plan.todo]
    batches = image_to_embedding.embed_images(embedder, args.images, paths, args.workers)
    with (
        tqdm(total=len(paths), unit=" images", disable=None) as progress,
        RowWriter(collection, progress) as writer,
    ):
        for batch in batches:
            writer.add(batch.images, batch.embeddings)
            plan.skip(batch.skipped)
            progress.update(len(batch.skipped))
        writer.finish()
        return writer.written


def finish(collection: ImageCollection, args: argparse.Namespace, plan: Plan, loaded: int) -> None:
    """Prune if asked to, flush, and check the collection's count against the folder's."""
    gone = len(plan.gone)
    if args.prune and plan.gone:
        collection.delete(plan.gone)
        gone = 0
    collection.flush()
    count, expected = collection.count(), loaded + plan.kept + gone
    if count != expected:
        raise CollectionError(
            f"the collection {collection.name} holds {count:,} rows instead of {expected:,}; "
            "run it again"
        )
    if collection.properties.get("rows") != str(count):
        collection.set_property("rows", str(count))  # a query sees by it that rows were lost


def replace(collection: ImageCollection, name: str) -> None:
    """Put a collection that --recreate has loaded whole in place of the old one."""
    old = ImageCollection.find(collection.client, name)
    if old:
        old.drop()
    collection.rename(name)


def report(
    collection: ImageCollection, plan: Plan, pruned: bool, loaded: int, seconds: float
) -> None:
    """Print what was loaded and what was not."""
    rate = f", {loaded / seconds:.1f} images/s" if loaded else ""
    total = loaded + plan.kept + (0 if pruned else len(plan.gone))
    print(f"Loaded {loaded:,} images in {seconds:.1f} s{rate}; {plan.kept:,} were in already")
    if plan.gone:
        what = "removed" if pruned else "kept; --prune removes them"
        print(f"{len(plan.gone):,} rows have no readable file any more: {what}")
    if plan.skipped:
        print(f"Skipped, since they could not be read: {len(plan.skipped):,}")
        for skipped in plan.skipped:
            print(f"  {printable(skipped.path)}: {printable(skipped.reason)}")
    place = f"{collection.name} in {redact(collection.client.uri)}"
    print(f"The collection {place} holds {total:,} images. Next: python query_code.py")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=Path,
        default=Path("database_set"),
        metavar="DIR",
        help="folder to load (default: database_set)",
    )
    image_to_embedding.add_weights_option(parser)
    add_collection_options(parser)
    image_to_embedding.add_model_options(parser)
    parser.add_argument(
        "--recreate", action="store_true", help="load anew, and replace the collection when done"
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove rows whose file is gone or unreadable"
    )
    parser.add_argument("--moved", action="store_true", help="the folder stands elsewhere now")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Find the images, embed what the collection lacks, upsert it, check the count."""
    start = time.perf_counter()
    uri = resolve_uri(args.milvus_uri)
    print(f"Loading {args.images} into {args.collection} in {redact(uri)}", flush=True)
    skipped: list[Skipped] = []
    found = find_images(args.images, skipped)
    embedder = Embedder(args.weights, args.device, args.precision)
    image_to_embedding.warn_if_random(embedder.model)
    with connect(uri) as client:
        collection = open_collection(client, args, embedder.model)
        plan = make_plan(found, collection, skipped)
        how = embedder.prepare(len(plan.todo), args.batch_size, args.compile)
        print(f"{len(plan.todo):,} images to embed: {how}", flush=True)
        loaded = load(collection, embedder, args, plan)
        finish(collection, args, plan, loaded)
        if collection.name != args.collection:
            replace(collection, args.collection)
        report(collection, plan, args.prune, loaded, time.perf_counter() - start)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    try:
        run(args)
    except (CollectionError, ImageError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}; make room or choose another folder", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what is loaded is kept; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
