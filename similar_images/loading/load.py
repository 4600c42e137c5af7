"""One load: embed what the folder has and the collection lacks, upsert it, prune."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from similar_images.console import Console
from similar_images.images.image_files import Listing, Skipped, iter_images
from similar_images.loading.inventory import Inventory, number_of
from similar_images.loading.prepare import LoadOptions
from similar_images.loading.prune import certainly_gone, may_prune
from similar_images.loading.ranks import Ranks
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import BEGUN, LOAD, ImageCollection
from similar_images.network.embedding import Embedder, embed_images
from similar_images.text import counted


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a load works with.

    make_embedder: returns the network, compiled for so many images; called if there are any.
    workers, max_megapixels: as of embed_images().
    """

    options: LoadOptions
    collection: ImageCollection
    make_embedder: Callable[[int], Embedder]
    workers: int | None
    max_megapixels: int | None
    ranks: Ranks
    console: Console


@dataclass
class Tally:
    """The outcome of a load, on one rank or on all of them."""

    loaded: int = 0
    kept: int = 0  # rows of unchanged files
    gone: int = 0  # rows whose file is gone, no longer an image, or excluded
    removed: int = 0  # of those
    unseen: int = 0  # rows whose file was not found, but may still be there
    skipped: list[Skipped] = field(default_factory=list)
    damaged: list[Skipped] = field(default_factory=list)  # loaded all the same
    left_out: dict[str, int] = field(default_factory=dict)  # as of Listing

    def add(self, other: "Tally") -> None:
        """Add another rank's."""
        for name in ("loaded", "kept", "gone", "removed", "unseen", "skipped", "damaged"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.left_out = other.left_out  # every rank lists the whole folder

    @property
    def rows(self) -> int:
        """How many rows the collection should hold."""
        return self.loaded + self.kept + self.gone - self.removed + self.unseen


def load(job: Load) -> Tally:
    """Embed and upsert this rank's share of what is new or changed; prune if asked to.

    Returns the sum of all ranks.
    """
    ranks, listing, tally = job.ranks, Listing(), Tally()
    inventory = take_inventory(job, listing)
    rows = max(inventory.rows, inventory.kept + len(inventory.todo))
    job.collection.client.warn_if_too_many(rows)
    if inventory.todo:
        embed_and_upsert(job, inventory.todo, tally)
    tally.kept, tally.left_out = inventory.kept, dict(listing.left_out)
    prune(job, inventory, listing, tally)
    # All ranks meet a folder that can't be listed; one of them reports it.
    tally.skipped[:0] = [item for item in listing.skipped if ranks.mine(item.path)]
    total = Tally()
    for one in ranks.gather(tally):
        total.add(one)
    return total


def take_inventory(job: Load, listing: Listing) -> Inventory:
    """Return the rows and images of this rank; CollectionError if others list other files."""
    ranks, folder, listed = job.ranks, job.options.folder, 0
    inventory = Inventory(i for i in job.collection.stored_images() if ranks.mine(i.path))

    def is_mine(path: str) -> bool:
        nonlocal listed
        listed += number_of(path)
        progress.update(1)
        return ranks.mine(path)

    with job.console.progress("files", None, ranks.prefix, ranks.local_rank) as progress:
        for image in iter_images(folder, listing, is_mine, job.collection.excluded):
            inventory.compare(image)
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


def embed_and_upsert(job: Load, paths: Sequence[str], tally: Tally) -> None:
    """Embed new and changed images while earlier ones are upserted; count them in tally."""
    ranks = job.ranks
    embedder = job.make_embedder(len(paths))
    here = f" on the first of {ranks.count} ranks" if ranks.count > 1 else ""
    if ranks.first:
        job.console.say(f"{counted(len(paths), 'image')} to embed{here}: {embedder.words}")
    job.collection.set_properties(**{LOAD: BEGUN})
    with (
        job.console.progress("images", len(paths), ranks.prefix, ranks.local_rank) as progress,
        RowWriter(job.collection, progress.update) as writer,
    ):
        # At least one worker, even for a single image: one that kills it is skipped, see Decoder.
        most, folder = job.max_megapixels, job.options.folder
        for batch in embed_images(
            embedder, folder, paths, job.workers, max_megapixels=most, for_few=1
        ):
            writer.add(batch.images, batch.embeddings)
            tally.skipped += batch.skipped
            tally.damaged += batch.damaged
            progress.update(len(batch.skipped))
        writer.finish()
        tally.loaded = writer.written


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
