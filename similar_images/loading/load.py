"""One load: what a folder has and its collection lacks is embedded and upserted, and counted."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from similar_images.console import Console
from similar_images.loading.inventory import Inventory, Todo
from similar_images.loading.ranks import Ranks, SharedProgress
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.client import Client, CollectionError, redact
from similar_images.milvus.collection import BEGUN, ENDED, LOAD, ROWS, ImageCollection
from similar_images.milvus.vector_index import FLAT, choose_index
from similar_images.network.embedding import Embedder, EmbeddingOptions, embed_images, make_embedder
from similar_images.network.model_description import Model
from similar_images.pictures.image_files import (
    ImageError,
    Listing,
    Skipped,
    check_folder,
    iter_images,
    left_out_in_words,
)
from similar_images.text import counted, printable

NEW_SUFFIX = "_being_recreated"  # of the collection that --recreate loads
MOST = 0.5  # a prune of more than this share of the rows asks for --prune-most


@dataclass
class Tally:
    """What a load has come to: on one rank, or on all of them."""

    loaded: int = 0
    kept: int = 0  # rows of unchanged files
    gone: int = 0  # rows without a readable file
    pruned: int = 0  # of those, removed
    unseen: int = 0  # rows under what could not be looked at: kept, whatever is asked
    skipped: list[Skipped] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)  # files that no decoder takes, by suffix

    def add(self, other: dict[str, Any]) -> None:
        """Add another rank's, as asdict() and JSON made it."""
        for name in ("loaded", "kept", "gone", "pruned", "unseen"):
            setattr(self, name, getattr(self, name) + other[name])
        self.skipped += itertools.starmap(Skipped, other["skipped"])
        self.left_out |= other["left_out"]  # every rank lists the whole folder

    @property
    def rows(self) -> int:
        """How many rows the collection should hold."""
        return self.loaded + self.kept + self.gone + self.unseen - self.pruned


@dataclass(frozen=True)
class LoadOptions:
    """What is to be loaded, and how, as the command line says it."""

    folder: Path
    collection: str
    index: str | None = None
    recreate: bool = False
    moved: bool = False
    prune: bool = False
    prune_most: bool = False


# --- The collection ---------------------------------------------------------------------------


def check_source(folder: Path) -> None:
    """Raise ImageError if it is plain that the folder holds nothing to load."""
    check_folder(folder, "--images")
    listing = Listing()
    if next(iter_images(folder, listing), None) is None and not listing.skipped:
        left_out = f" ({left_out_in_words(listing.left_out)})" if listing.left_out else ""
        raise ImageError(
            f"{folder} holds no images{left_out}; run python split_images.py or choose --images"
        )


def collection_to_load(client: Client, options: LoadOptions, model: Model) -> ImageCollection:
    """Return the collection to load into, made if need be; with --recreate, one beside it.

    Raises CollectionError if the collection holds another folder or another model's vectors.
    """
    root = str(options.folder.resolve())
    properties = {"root": root, "index": options.index or "auto", LOAD: BEGUN}
    properties |= model.properties()
    beside_name = options.collection + NEW_SUFFIX
    found = ImageCollection.find(client, options.collection)
    beside = ImageCollection.find(client, beside_name)
    if beside and (found is None or options.recreate):  # left by a --recreate that did not end
        if beside.root == Path(root) and model.same_vectors(beside.properties):
            if found is None:
                beside.rename(options.collection)
            return beside
        beside.drop()
    if found is None:
        return ImageCollection.create(client, options.collection, properties)
    if options.recreate:
        return ImageCollection.create(client, beside_name, properties)
    check_same_model(found, model)
    settle_root(found, root, options.moved)
    if not found.index():
        found.use_index(FLAT)
    return found


def check_same_model(collection: ImageCollection, model: Model) -> None:
    """Raise CollectionError unless the collection holds this model's vectors."""
    stored = collection.properties
    if not model.same_vectors(stored):
        raise CollectionError(
            f"the collection {collection.name} was made with another model or other weights "
            f"({stored.get('architecture')}, {stored.get('weights')}); give those, choose another "
            "--collection, or add --recreate"
        )


def settle_root(collection: ImageCollection, root: str, moved: bool) -> None:
    """Note where the collection's folder is now, if it has moved; CollectionError if it is not."""
    if str(collection.root) != root and not moved:
        raise CollectionError(
            f"the collection {collection.name} holds the folder {collection.root}; choose another "
            "--collection, or add --moved if that folder is here now"
        )
    collection.set_properties(root=root)


def finish(collection: ImageCollection, tally: Tally, index: str | None, console: Console) -> None:
    """Flush, check the collection's count against the folder's, note that the load has ended."""
    collection.flush()
    count = collection.count()
    if count != tally.rows:
        raise CollectionError(
            f"the collection {collection.name} holds {count:,} rows instead of {tally.rows:,}; "
            "run it again"
        )
    build_index(collection, index, count, console)
    collection.set_properties(**{ROWS: str(count), LOAD: ENDED})


def build_index(
    collection: ImageCollection, index: str | None, rows: int, console: Console
) -> None:
    """Build the index that was asked for now or when the collection was made.

    Not asked for now, it takes the place of the exact one that a collection begins with, and of
    no other: somebody may have built that by hand.
    """
    choice = index or collection.properties.get("index", "auto")
    collection.set_properties(index=choice)
    replaceable = index or collection.index().get("index_type") in (None, FLAT.type)
    kind = choose_index(choice, rows, collection.client.exact_rows)
    if replaceable and collection.use_index(kind):
        console.say(f"Index: {collection.index_in_words({})}")


def put_in_place(collection: ImageCollection, name: str) -> None:
    """Give a collection that --recreate has loaded whole the name of the old one."""
    if collection.name != name:
        old = ImageCollection.find(collection.client, name)
        if old:
            old.drop()
        collection.rename(name)


# --- Rows -------------------------------------------------------------------------------------


class LazyEmbedder:
    """The network, compiled when the first image needs it: a rerun often has none."""

    def __init__(self, network: Any, options: EmbeddingOptions) -> None:
        self._network = network
        self.options = options
        self.model: Model = network.model

    def ready(self, images: int) -> Embedder:
        """Return the embedder for about so many images."""
        return make_embedder(self._network, self.options, images)


def load(
    collection: ImageCollection,
    network: LazyEmbedder,
    options: LoadOptions,
    ranks: Ranks,
    console: Console,
) -> Tally | None:
    """Embed and upsert this rank's share of what is new or changed; prune if asked to.

    Returns on the first rank what all ranks have done, on the others None.
    """
    mine = (image for image in collection.stored_images() if ranks.mine(image.path))
    inventory = Inventory(mine)
    todo = Todo(options.folder, ranks.mine, inventory, collection.client.warn_if_too_many)
    if ranks.first:
        collection.client.warn_if_too_many(len(inventory))
    tally = Tally()
    with SharedProgress(ranks, todo.expected, console.progress("images")) as progress:
        if len(todo):
            embed_and_upsert(collection, network, options.folder, todo, tally, progress, console)
        for skipped in tally.skipped:
            inventory.lose(skipped.path)
        tally.skipped += todo.listing.skipped
        tally.kept, tally.left_out = todo.kept, dict(todo.listing.left_out)
        prune(collection, inventory, options, tally)
        others = ranks.gather("tally", asdict(tally), lambda: progress.update(0))
    if not ranks.first:
        return None
    total = Tally()
    for values in others:
        total.add(values)
    return total


def embed_and_upsert(
    collection: ImageCollection,
    network: LazyEmbedder,
    folder: Path,
    todo: Todo,
    tally: Tally,
    progress: SharedProgress,
    console: Console,
) -> None:
    """Embed what is to be done, upserting beside it; note in tally what came of it."""
    embedder = network.ready(len(todo))
    expected = todo.expected()
    number = counted(expected or len(todo), "image")
    console.say(
        f"{number if expected else f'more than {number}'} to embed{progress.words}: "
        f"{embedder.words}"
    )
    collection.set_properties(**{LOAD: BEGUN})
    with RowWriter(collection, progress) as writer:
        for batch in embed_images(embedder, folder, todo, network.options.workers):
            writer.add(batch.images, batch.embeddings)
            tally.skipped += batch.skipped
            progress.update(len(batch.skipped))
        writer.finish()
        tally.loaded = writer.written


def prune(
    collection: ImageCollection, inventory: Inventory, options: LoadOptions, tally: Tally
) -> None:
    """Count the rows that have no readable file any more; remove them if that is asked for.

    Nothing is removed under what could not be looked at, nor more than MOST of the rows without
    a word more: a folder that was not mounted looks empty.
    """
    if not inventory.gone():
        return
    unseen = Listing(tally.skipped).unseen()
    gone = []
    for image in collection.stored_images():
        if inventory.is_gone(image.path):
            if unseen and any(part in unseen for part in _itself_and_above(image.path)):
                tally.unseen += 1
            else:
                gone.append(image.path)
    tally.gone = len(gone)
    if options.prune and (options.prune_most or len(gone) <= MOST * len(inventory)):
        collection.delete(gone)
        tally.pruned = len(gone)


def _itself_and_above(path: str) -> Iterator[str]:
    """Yield a path and the folders that it lies in.

    >>> list(_itself_and_above("a/b/c.png"))
    ['a', 'a/b', 'a/b/c.png']
    """
    return itertools.accumulate(path.split("/"), lambda above, name: f"{above}/{name}")


# --- What came of it --------------------------------------------------------------------------


def report(collection: ImageCollection, tally: Tally, seconds: float, console: Console) -> None:
    """Print what was loaded and what was not."""
    rate = f", {tally.loaded / seconds:.1f} images/s" if tally.loaded else ""
    loaded = f"Loaded {counted(tally.loaded, 'image')} in {seconds:.1f} s{rate}"
    console.say(f"{loaded}; {tally.kept:,} were in already")
    if tally.gone:
        what = "removed" if tally.pruned else "kept; --prune removes them"
        console.say(f"{tally.gone:,} rows have no readable file any more: {what}")
    if tally.unseen:
        rows = counted(tally.unseen, "row")
        console.say(f"{rows} of files that could not be looked at: kept")
    if tally.skipped:
        console.trouble(f"Skipped, since they could not be read: {len(tally.skipped):,}")
        for skipped in tally.skipped:
            console.trouble(f"  {printable(skipped.path)}: {printable(skipped.reason)}")
    if tally.left_out:
        console.say(left_out_in_words(tally.left_out))
    place = f"{collection.name} in {redact(collection.client.uri)}"
    console.say(f"The collection {place} holds {tally.rows:,} images. Next: python query_code.py")


def check_pruned(tally: Tally, options: LoadOptions) -> None:
    """Raise CollectionError if a prune was asked for and not carried out."""
    if options.prune and tally.gone and not tally.pruned:
        raise CollectionError(
            f"{tally.gone:,} of {tally.rows:,} rows have no file under {options.folder}, too many "
            "to remove unasked: is a disk missing? Nothing was removed; add --prune-most if they "
            "are really gone"
        )
