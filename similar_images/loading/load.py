"""One load: embed what the folder has and the collection lacks, upsert it, check the count."""

import itertools
from dataclasses import asdict, dataclass, field
from typing import Any

from similar_images.console import Console
from similar_images.loading.inventory import Inventory, Todo
from similar_images.loading.prepare import LoadOptions
from similar_images.loading.prune import Pruned, prune
from similar_images.loading.ranks import Ranks, SharedProgress
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.client import CollectionError, redact
from similar_images.milvus.collection import BEGUN, ENDED, LOAD, ROWS, ImageCollection
from similar_images.milvus.vector_index import FLAT, choose_index
from similar_images.network.embedding import Embedder, EmbeddingOptions, embed_images, make_embedder
from similar_images.network.model_description import Model
from similar_images.pictures.image_files import Listing, Skipped, left_out_in_words
from similar_images.text import counted, printable


class LazyEmbedder:
    """The network, compiled when the first image needs it: a rerun often has none."""

    def __init__(self, network: Any, options: EmbeddingOptions) -> None:
        self._network = network
        self.options = options
        self.model: Model = network.model

    def ready(self, images: int) -> Embedder:
        """Return the embedder for about so many images."""
        return make_embedder(self._network, self.options, images)


@dataclass(frozen=True, kw_only=True)
class Load:
    """A load: what from, where to, with which network, by which rank, and who is told."""

    options: LoadOptions
    collection: ImageCollection
    network: LazyEmbedder
    ranks: Ranks
    console: Console


@dataclass
class Tally:
    """What a load has come to: on one rank, or on all of them."""

    loaded: int = 0
    kept: int = 0  # rows of unchanged files
    pruned: Pruned = field(default_factory=Pruned)
    skipped: list[Skipped] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)  # files that no decoder takes, by suffix

    def add(self, other: dict[str, Any]) -> None:
        """Add another rank's, as asdict() and JSON made it."""
        self.loaded += other["loaded"]
        self.kept += other["kept"]
        ours = asdict(self.pruned)
        self.pruned = Pruned(**{name: ours[name] + n for name, n in other["pruned"].items()})
        self.skipped += itertools.starmap(Skipped, other["skipped"])
        self.left_out |= other["left_out"]  # every rank lists the whole folder

    @property
    def rows(self) -> int:
        """How many rows the collection should hold."""
        rows_without_file = self.pruned.gone + self.pruned.unseen - self.pruned.removed
        return self.loaded + self.kept + rows_without_file


def load(job: Load) -> Tally | None:
    """Embed and upsert this rank's share of what is new or changed; prune if asked to.

    Returns on the first rank what all ranks have done, on the others None.
    """
    ranks, client = job.ranks, job.collection.client
    inventory = Inventory(i for i in job.collection.stored_images() if ranks.mine(i.path))
    todo = Todo(job.options.folder, ranks.mine, inventory)
    client.warn_if_too_many(len(inventory))
    tally = Tally()
    with SharedProgress(ranks, todo.total, job.console.progress("images")) as progress:
        if len(todo):
            embed_and_upsert(job, todo, tally, progress)
        for skipped in tally.skipped:
            inventory.lose(skipped.path)
        tally.skipped += todo.listing.skipped
        tally.kept, tally.left_out = todo.kept, dict(todo.listing.left_out)
        unseen = Listing(tally.skipped).unseen()
        tally.pruned = prune(job.collection, inventory, unseen, job.options)
        others = ranks.gather("tally", asdict(tally), lambda: progress.update(0))
    if not ranks.first:
        return None
    total = Tally()
    for values in others:
        total.add(values)
    return total


def embed_and_upsert(job: Load, todo: Todo, tally: Tally, progress: SharedProgress) -> None:
    """Embed what is to be done while rows are upserted; note the outcome in tally."""
    embedder = job.network.ready(len(todo))
    number = counted(len(todo), "image")
    job.console.say(
        f"{number if todo.total() else f'more than {number}'} to embed{progress.words}: "
        f"{embedder.words}"
    )
    job.collection.set_properties(**{LOAD: BEGUN})
    with RowWriter(job.collection, progress) as writer:
        for batch in embed_images(embedder, job.options.folder, todo, job.network.options.workers):
            writer.add(batch.images, batch.embeddings)
            tally.skipped += batch.skipped
            progress.update(len(batch.skipped))
            job.collection.client.warn_if_too_many(todo.kept + len(todo))
        writer.finish()
        tally.loaded = writer.written


# --- What came of it --------------------------------------------------------------------------


def finish(job: Load, tally: Tally) -> None:
    """Flush, check the collection's count against the folder's, record that the load has ended."""
    collection = job.collection
    collection.flush()
    count = collection.count()
    if count != tally.rows:
        raise CollectionError(
            f"the collection {collection.name} holds {count:,} rows instead of {tally.rows:,}; "
            "run it again"
        )
    build_index(job, count)
    collection.set_properties(**{ROWS: str(count), LOAD: ENDED})
    put_in_place(collection, job.options.collection)


def build_index(job: Load, rows: int) -> None:
    """Build the index that was asked for now or when the collection was created.

    If none is asked for now, only the exact index that a collection begins with is replaced: any
    other may have been built by hand.
    """
    collection = job.collection
    choice = job.options.index or collection.properties.get("index", "auto")
    collection.set_properties(index=choice)
    replaceable = job.options.index or collection.index.current().get("index_type") in (
        None,
        FLAT.type,
    )
    kind = choose_index(choice, rows, collection.client.exact_rows)
    if replaceable and collection.use_index(kind):
        job.console.say(f"Index: {collection.index.words({})}")


def put_in_place(collection: ImageCollection, name: str) -> None:
    """Give a collection that --recreate has fully loaded the name of the old one."""
    if collection.name != name:
        old = ImageCollection.find(collection.client, name)
        if old:
            old.drop()
        collection.rename(name)


def report(job: Load, tally: Tally, seconds: float) -> None:
    """Print what was loaded and what was not."""
    say, trouble = job.console.say, job.console.trouble
    rate = f", {tally.loaded / seconds:.1f} images/s" if tally.loaded else ""
    loaded = f"Loaded {counted(tally.loaded, 'image')} in {seconds:.1f} s{rate}"
    say(f"{loaded}; {tally.kept:,} were in already")
    if tally.pruned.gone:
        what = "removed" if tally.pruned.removed else "kept; --prune removes them"
        say(f"{tally.pruned.gone:,} rows have no readable file any more: {what}")
    if tally.pruned.unseen:
        rows = counted(tally.pruned.unseen, "row")
        say(f"{rows} of files that could not be looked at: kept")
    if tally.skipped:
        trouble(f"Skipped, since they could not be read: {len(tally.skipped):,}")
        for skipped in tally.skipped:
            trouble(f"  {printable(skipped.path)}: {printable(skipped.reason)}")
    if tally.left_out:
        say(left_out_in_words(tally.left_out))
    place = f"{job.collection.name} in {redact(job.collection.client.uri)}"
    say(f"The collection {place} holds {tally.rows:,} images. Next: python query_code.py")
