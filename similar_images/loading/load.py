"""One load: embed what the folder has and the collection lacks, upsert it, prune."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from similar_images.console import Console
from similar_images.images.image_files import Listing, Skipped, iter_images, left_out_in_words
from similar_images.images.labels import Labels
from similar_images.loading.inventory import Inventory, number_of
from similar_images.loading.known_content import Content, by_content, write_stored
from similar_images.loading.prepare import LoadOptions
from similar_images.loading.prune import certainly_gone, may_prune
from similar_images.loading.ranks import Ranks
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import BEGUN, LOAD, PRECISION, ImageCollection
from similar_images.network.embedding import Embedder, embed_images
from similar_images.text import counted


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a load works with.

    make_embedder: returns the network for these images of a folder; called if there are any.
    workers, max_megapixels: as of embed_images().
    """

    options: LoadOptions
    labels: Labels
    collection: ImageCollection
    make_embedder: Callable[[Path, Sequence[str]], Embedder]
    workers: int | None
    max_megapixels: int | None
    ranks: Ranks
    console: Console


@dataclass
class Tally:
    """The outcome of a load, on one rank or on all of them."""

    loaded: int = 0  # embedded
    known: int = 0  # rows written without embedding: of files of known content
    kept: int = 0  # rows of unchanged files
    gone: int = 0  # rows whose file is gone, no longer an image, or excluded
    removed: int = 0  # of those
    precision: str = ""  # in which images were embedded, and what that does to embeddings
    labelled: int = 0  # images for which the file of labels has a line
    unseen: int = 0  # rows whose file was not found, but may still be there
    skipped: list[Skipped] = field(default_factory=list)
    damaged: list[Skipped] = field(default_factory=list)  # loaded all the same
    left_out: str = ""  # in words

    def add(self, other: "Tally") -> None:
        """Add another rank's."""
        for name in vars(self).keys() - {"left_out", "precision"}:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.precision = self.precision or other.precision
        self.left_out = other.left_out  # every rank lists the whole folder

    @property
    def rows(self) -> int:
        """How many rows the collection should hold."""
        return self.loaded + self.known + self.kept + self.gone - self.removed + self.unseen


def load(job: Load) -> Tally:
    """Embed and upsert this rank's share of what is new or changed; prune if asked to.

    Returns the sum of all ranks.
    """
    ranks, listing, tally = job.ranks, Listing(), Tally()
    inventory = take_inventory(job, listing, tally)
    rows = max(inventory.rows, inventory.kept + len(inventory.todo))
    job.collection.client.warn_if_too_many(rows)
    if inventory.todo or inventory.relabelled:
        write_rows(job, inventory, tally)
    tally.kept, tally.left_out = inventory.kept, left_out_in_words(listing)
    prune(job, inventory, listing, tally)
    # All ranks meet a folder that can't be listed; one of them reports it.
    tally.skipped[:0] = [item for item in listing.skipped if ranks.mine(item.path)]
    total = Tally()
    for one in ranks.gather(tally):
        total.add(one)
    return total


def take_inventory(job: Load, listing: Listing, tally: Tally) -> Inventory:
    """Return the rows and images of this rank; CollectionError if others list other files."""
    ranks, folder, listed = job.ranks, job.options.folder, 0
    inventory = Inventory(job.collection.stored_images(), ranks.mine)

    def is_mine(path: str) -> bool:
        nonlocal listed
        listed += number_of(path)
        progress.update(1)
        return ranks.mine(path)

    with job.console.progress("files", None, ranks.prefix, ranks.local_rank) as progress:
        for image in iter_images(folder, listing, is_mine, job.collection.excluded):
            inventory.compare(image, job.labels.of(image.path))
            tally.labelled += image.path in job.labels
    ranks.in_turn(check_same_files, ranks.gather((progress.n, listed)), folder)
    return inventory


def check_same_files(listed: Sequence[tuple[int, int]], folder: Path) -> None:
    """Raise CollectionError unless all ranks have listed the same files.

    listed: for each rank, in their order, how many files, and the sum of number_of() their paths.
    """
    if len(set(listed)) > 1:
        counts = ", ".join(f"{count:,}" for count, _ in listed)
        raise CollectionError(
            f"the ranks list different files under {folder} ({counts}); give all machines the same "
            "folder. If it was changed meanwhile, run it again"
        )


def write_rows(job: Load, inventory: Inventory, tally: Tally) -> None:
    """Write the rows of new and changed images: without embedding if their content is known."""
    ranks, collection, images = job.ranks, job.collection, inventory.todo
    bar = ranks.prefix, ranks.local_rank
    with job.console.progress("files compared", len(images), *bar) as progress:
        content = by_content(collection, job.options.folder, images, inventory.sizes, progress)
    begun, embedder = {LOAD: BEGUN}, None
    if content.to_embed:
        embedder = job.make_embedder(job.options.folder, content.to_embed)
        tally.precision = ", ".join(filter(None, (embedder.precision, embedder.rounding)))
        if PRECISION not in collection.properties or len(content.to_embed) > inventory.kept:
            begun[PRECISION] = tally.precision
    collection.set_properties(**begun)
    with RowWriter(collection, lambda _: None) as writer:
        write_stored(collection, content, job.labels, writer)
        writer.finish()
        tally.known = writer.written
        for row, embedding in collection.embeddings_of(inventory.relabelled):
            writer.add([row._replace(label=job.labels.of(row.path))], embedding[np.newaxis])
        writer.finish()
    if embedder:
        embed_and_upsert(job, content, embedder, tally)


def embed_and_upsert(job: Load, content: Content, embedder: Embedder, tally: Tally) -> None:
    """Embed images while earlier ones are upserted; count them in tally."""
    ranks, paths = job.ranks, content.to_embed
    here = f" on the first of {ranks.count} ranks" if ranks.count > 1 else ""
    if ranks.first:
        job.console.say(f"{counted(len(paths), 'image')} to embed{here}: {embedder.words}")
    total = len(paths) + sum(len(others.images) for others in content.others.values())
    with (
        job.console.progress("images", total, ranks.prefix, ranks.local_rank) as progress,
        RowWriter(job.collection, progress.update) as writer,
    ):
        # At least one worker, even for a single image: one that kills it is skipped, see Decoder.
        most, folder = job.max_megapixels, job.options.folder
        for batch in embed_images(
            embedder, folder, paths, job.workers, max_megapixels=most, for_few=1
        ):
            images, embeddings = content.with_others(batch)
            writer.add([i._replace(label=job.labels.of(i.path)) for i in images], embeddings)
            tally.loaded += len(batch.images)
            tally.skipped += batch.skipped
            tally.damaged += batch.damaged
            progress.update(len(batch.skipped))
        writer.finish()
        tally.known += writer.written - tally.loaded


def prune(job: Load, inventory: Inventory, listing: Listing, tally: Tally) -> None:
    """Count this rank's rows that have no file; remove them if all ranks together may."""
    missing = inventory.missing(skipped.path for skipped in tally.skipped)
    skipped, excluded = tally.skipped + listing.skipped, job.collection.excluded
    gone = certainly_gone(missing, skipped, job.options.folder, excluded)
    tally.gone, tally.unseen = len(gone), len(missing) - len(gone)
    all_gone, all_rows = map(sum, zip(*job.ranks.gather((len(gone), inventory.rows)), strict=True))
    if may_prune(all_gone, all_rows, job.options):
        job.collection.delete(gone)
        tally.removed = len(gone)
