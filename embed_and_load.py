"""Embed a folder of images with a pretrained ResNet18 and load the vectors into Milvus.

Usage:
  python embed_and_load.py                                    # database_set into ./milvus.db
  python embed_and_load.py --images ~/Pictures --collection pictures
  python embed_and_load.py --milvus-uri http://localhost:19530 --index hnsw
  python embed_and_load.py --weights random                   # no download, no meaning
  torchrun --nproc-per-node 4 embed_and_load.py --milvus-uri http://localhost:19530

Reads:  the folder, with sub-folders as labels; weights, downloaded once
Writes: a Milvus collection: path, embedding, insertion time, file size, width, height

Running it again embeds only what is new or changed.
"""

import argparse
import itertools
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import image_files
import image_to_embedding
from command_line import Console, add_quiet_option, counted, status_of
from image_collection import (
    EXACT_ROWS,
    INDEX_CHOICES,
    INDEXES,
    Client,
    CollectionError,
    ImageCollection,
    add_collection_options,
    check_processes,
    connect,
    redact,
    resolve_uri,
)
from image_files import ImageError, Skipped, printable
from image_to_embedding import Embedder, Model, ModelError
from inventory import Inventory, Todo
from ranks import RankError, Ranks, SharedProgress
from row_writer import RowWriter

NEW_SUFFIX = "_being_recreated"  # of the collection that --recreate loads


@dataclass
class Tally:
    """What a load has come to: on one rank, or on all of them."""

    loaded: int = 0
    kept: int = 0  # rows of unchanged files
    gone: int = 0  # rows without a readable file
    pruned: int = 0  # of those, removed
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, other: dict[str, Any]) -> None:
        """Add another rank's, as asdict() and JSON made it."""
        self.loaded += other["loaded"]
        self.kept += other["kept"]
        self.gone += other["gone"]
        self.pruned += other["pruned"]
        self.skipped += itertools.starmap(Skipped, other["skipped"])

    @property
    def rows(self) -> int:
        """How many rows the collection should hold."""
        return self.loaded + self.kept + self.gone - self.pruned


def check(args: argparse.Namespace, uri: str, ranks: Ranks) -> None:
    """Raise CollectionError or ImageError if it is plain that nothing can be loaded."""
    check_processes(uri, ranks.count)
    root = args.images
    image_files.check_folder(root, "--images")
    skipped: list[Skipped] = []
    if next(image_files.iter_images(root, skipped), None) is None and not skipped:
        raise ImageError(f"{root} holds no images; run python split_images.py or choose --images")


def open_collection(client: Client, args: argparse.Namespace, model: Model) -> ImageCollection:
    """Return the collection to load into, made if need be; with --recreate, one beside it.

    Raises CollectionError if the collection holds another folder or another model's vectors.
    """
    root = str(args.images.resolve())
    properties = {"root": root, "index": args.index or "auto", **model.properties()}
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


def load(
    collection: ImageCollection,
    embedder: Embedder,
    args: argparse.Namespace,
    ranks: Ranks,
    console: Console,
) -> Tally | None:
    """Embed and upsert this rank's share of what is new or changed; prune if asked to.

    Returns on the first rank what all ranks have done, on the others None.
    """
    tally = Tally()
    mine = (image for image in collection.stored_images() if ranks.mine(image.path))
    inventory = Inventory(mine)
    todo = Todo(args.images, ranks.mine, inventory, collection.client.warn_if_too_many)
    how = embedder.prepare(len(todo), args.batch_size, args.compile)
    if ranks.first:
        announce(todo, how, ranks, console)
        collection.client.warn_if_too_many(len(inventory))
    with SharedProgress(ranks, todo.expected, console.bar("images")) as progress:
        batches = image_to_embedding.embed_images(embedder, args.images, todo, args.workers)
        with RowWriter(collection, progress) as writer:
            for batch in batches:
                writer.add(batch.images, batch.embeddings)
                for skipped in batch.skipped:
                    inventory.lose(skipped.path)
                tally.skipped += batch.skipped
                progress.update(len(batch.skipped))
            writer.finish()
        tally.loaded, tally.kept, tally.gone = writer.written, todo.kept, inventory.gone()
        tally.skipped += todo.skipped
        if args.prune and tally.gone:
            stored = collection.stored_images()
            collection.delete([image.path for image in stored if inventory.is_gone(image.path)])
            tally.pruned = tally.gone
        others = ranks.gather("tally", asdict(tally), progress.update)
    if not ranks.first:
        return None
    total = Tally()
    for values in others:
        total.add(values)
    return total


def announce(todo: Todo, how: str, ranks: Ranks, console: Console) -> None:
    """Say how many images will be embedded, and how."""
    expected = todo.expected()
    number = counted(expected or len(todo), "image")
    if expected is None:
        number = f"more than {number}"
    share = f" by the first of {ranks.count} ranks" if ranks.count > 1 else ""
    console.say(f"{number} to embed{share}: {how}")


def finish(collection: ImageCollection, tally: Tally, index: str | None, console: Console) -> None:
    """Flush, check the collection's count against the folder's, and see to the index."""
    collection.flush()
    count = collection.count()
    if count != tally.rows:
        raise CollectionError(
            f"the collection {collection.name} holds {count:,} rows instead of {tally.rows:,}; "
            "run it again"
        )
    if collection.properties.get("rows") != str(count):
        collection.set_property("rows", str(count))  # a query sees by it that rows were lost
    see_to_index(collection, index, console)


def see_to_index(collection: ImageCollection, index: str | None, console: Console) -> None:
    """Build the index that was asked for now or when the collection was made.

    Not asked for now, it takes the place of the exact one that a collection begins with, and of
    no other: somebody may have built that by hand.
    """
    choice = index or collection.properties.get("index", "auto")
    if collection.properties.get("index") != choice:
        collection.set_property("index", choice)
    replaceable = index or collection.index().get("index_type") in (None, INDEXES["flat"].type)
    kind = collection.choose_index(choice, int(collection.properties["rows"]))
    if replaceable and collection.use_index(kind):
        console.say(f"Index: {collection.index_in_words({})}")


def replace(collection: ImageCollection, name: str) -> None:
    """Put a collection that --recreate has loaded whole in place of the old one."""
    old = ImageCollection.find(collection.client, name)
    if old:
        old.drop()
    collection.rename(name)


def report(collection: ImageCollection, tally: Tally, seconds: float, console: Console) -> None:
    """Print what was loaded and what was not."""
    rate = f", {tally.loaded / seconds:.1f} images/s" if tally.loaded else ""
    loaded = f"Loaded {counted(tally.loaded, 'image')} in {seconds:.1f} s{rate}"
    console.say(f"{loaded}; {tally.kept:,} were in already")
    if tally.gone:
        what = "removed" if tally.pruned else "kept; --prune removes them"
        console.say(f"{tally.gone:,} rows have no readable file any more: {what}")
    if tally.skipped:
        console.trouble(f"Skipped, since they could not be read: {len(tally.skipped):,}")
        for skipped in tally.skipped:
            console.trouble(f"  {printable(skipped.path)}: {printable(skipped.reason)}")
    place = f"{collection.name} in {redact(collection.client.uri)}"
    console.say(f"The collection {place} holds {tally.rows:,} images. Next: python query_code.py")


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
    parser.add_argument(
        "--index",
        choices=INDEX_CHOICES,
        help=f"auto: exact (flat) up to {EXACT_ROWS:,} images and on Milvus Lite, else hnsw "
        "(default: the collection's, auto for a new one)",
    )
    parser.add_argument("--moved", action="store_true", help="the folder stands elsewhere now")
    add_quiet_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace, ranks: Ranks) -> None:
    """Find the images, embed what the collection lacks, upsert it, check the count."""
    start = time.perf_counter()
    console = Console(args.quiet or not ranks.first)
    with ranks.after(ranks.first, "check"):
        uri = resolve_uri(args.milvus_uri)
        console.say(f"Loading {args.images} into {args.collection} in {redact(uri)}")
        check(args, uri, ranks)
    with ranks.after(ranks.local_rank == 0, f"weights on {ranks.node}"):
        embedder = Embedder(args.weights, args.device, args.precision)
    if ranks.first:
        image_to_embedding.warn_if_random(embedder.model)
    with connect(uri) as client:
        with ranks.after(ranks.first, "collection"):
            collection = open_collection(client, args, embedder.model)
        tally = load(collection, embedder, args, ranks, console)
        if tally is None:  # the first rank does the rest
            return
        finish(collection, tally, args.index, console)
        if collection.name != args.collection:
            replace(collection, args.collection)
        report(collection, tally, time.perf_counter() - start, console)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    ranks = Ranks()
    expected = (CollectionError, ImageError, ModelError)
    interrupted = "what is loaded is kept; run it again to go on"
    try:
        return status_of(lambda: run(args, ranks), expected, interrupted, ranks.prefix)
    except RankError:  # the rank that failed has said why
        return 1


if __name__ == "__main__":
    sys.exit(main())
