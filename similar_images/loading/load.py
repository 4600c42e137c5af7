"""One load: embed what the folder has and the collection lacks, upsert it, prune."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from similar_images.console import Console
from similar_images.images.image_files import Listing, Skipped
from similar_images.loading.inventory import Inventory, ListedPaths, Todo
from similar_images.loading.prepare import LoadOptions
from similar_images.loading.progress import SharedProgress
from similar_images.loading.prune import Pruned, find_missing, may_prune
from similar_images.loading.ranks import Ranks
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import BEGUN, LOAD, ImageCollection
from similar_images.network.embedding import Embedder, EmbeddingOptions, embed_images, make_embedder
from similar_images.network.model_description import Model
from similar_images.text import counted

MAX_NAMES = 200  # of skipped files that a rank sends to the first: paths have up to 4 kB


class LazyEmbedder:
    """The network, compiled only when there is an image to embed: a rerun often has none."""

    def __init__(self, network: Any, options: EmbeddingOptions) -> None:
        self._network = network
        self.options = options
        self.model: Model = network.model

    def ready(self, images: int) -> Embedder:
        """Return the embedder, compiled for about this number of images."""
        return make_embedder(self._network, self.options, images)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a load works with: options, collection, network, ranks, console."""

    options: LoadOptions
    collection: ImageCollection
    network: LazyEmbedder
    ranks: Ranks
    console: Console


@dataclass
class Tally:
    """The outcome of a load, on one rank or on all of them."""

    loaded: int = 0
    kept: int = 0  # rows of unchanged files
    pruned: Pruned = field(default_factory=Pruned)
    skipped: list[Skipped] = field(default_factory=list)
    skipped_unnamed: int = 0  # of other ranks, beyond MAX_NAMES
    left_out: dict[str, int] = field(default_factory=dict)  # files that no decoder takes, by suffix

    def message(self) -> dict[str, Any]:
        """Return the tally for another rank, with at most MAX_NAMES skipped files."""
        unnamed = max(0, len(self.skipped) - MAX_NAMES)
        short = replace(self, skipped=self.skipped[:MAX_NAMES], skipped_unnamed=unnamed)
        return asdict(short)

    def add(self, other: dict[str, Any]) -> None:
        """Add another rank's message, which has been through JSON."""
        self.loaded += other["loaded"]
        self.kept += other["kept"]
        ours = asdict(self.pruned)
        self.pruned = Pruned(**{name: ours[name] + n for name, n in other["pruned"].items()})
        self.skipped += itertools.starmap(Skipped, other["skipped"])
        self.skipped_unnamed += other["skipped_unnamed"]
        self.left_out |= other["left_out"]  # every rank lists the whole folder

    @property
    def rows(self) -> int:
        """How many rows the collection should hold."""
        rows_without_file = self.pruned.gone + self.pruned.unseen - self.pruned.removed
        return self.loaded + self.kept + rows_without_file


def load(job: Load) -> Tally | None:
    """Embed and upsert this rank's share of what is new or changed; prune if asked to.

    Returns the sum of all ranks on the first rank, None on the others.
    """
    ranks = job.ranks
    inventory = Inventory(i for i in job.collection.stored_images() if ranks.mine(i.path))
    all_paths = ListedPaths()

    def is_mine(path: str) -> bool:
        all_paths.add(path)
        return ranks.mine(path)

    todo = Todo(job.options.folder, is_mine if ranks.count > 1 else ranks.mine, inventory)
    job.collection.client.warn_if_too_many(len(inventory))
    tally = Tally()
    with SharedProgress(ranks, todo.total, job.console.progress("images")) as progress:
        compare_listings(job, todo, all_paths, "before", progress)
        if len(todo):
            embed_and_upsert(job, todo, tally, progress)
        compare_listings(job, todo, all_paths, "after", progress)
        for skipped in tally.skipped:
            inventory.lose(skipped.path)
        unseen = Listing(tally.skipped + todo.listing.skipped).unseen()
        tally.pruned = prune(job, inventory, unseen, progress)
        # All ranks meet a folder that can't be listed; one of them reports it.
        ours = [item for item in todo.listing.skipped if ranks.mine(item.path)]
        tally.skipped = ours + tally.skipped
        tally.kept, tally.left_out = todo.kept, dict(todo.listing.left_out)
        tallies = ranks.gather("tally", tally.message(), progress.update)
    return total_of(tally, tallies) if ranks.first else None


def total_of(own: Tally, messages: Sequence[dict[str, Any]]) -> Tally:
    """Return the sum of all ranks' messages; alone, this rank's own tally with all names."""
    if len(messages) == 1:
        return own
    total = Tally()
    for message in messages:
        total.add(message)
    return total


def embed_and_upsert(job: Load, todo: Todo, tally: Tally, progress: SharedProgress) -> None:
    """Embed new and changed images while earlier ones are upserted; count them in tally."""
    embedder = job.network.ready(len(todo))
    number = counted(len(todo), "image")
    job.console.say(
        f"{number if todo.total() else f'more than {number}'} to embed{progress.words}: "
        f"{embedder.words}"
    )
    job.collection.set_properties(**{LOAD: BEGUN})
    with RowWriter(job.collection, progress) as writer:
        folder, workers = job.options.folder, job.network.options.workers
        # At least one worker, even for a single image: one that kills it is skipped, see Decoder.
        for batch in embed_images(embedder, folder, todo, workers, for_few=1):
            writer.add(batch.images, batch.embeddings)
            tally.skipped += batch.skipped
            progress.update(len(batch.skipped))
            job.collection.client.warn_if_too_many(todo.kept + len(todo))
        writer.finish()
        tally.loaded = writer.written


def compare_listings(
    job: Load, todo: Todo, all_paths: ListedPaths, when: str, progress: SharedProgress
) -> None:
    """Raise CollectionError on rank 0 if the ranks have listed different files to the end."""
    mine = vars(all_paths) if todo.total() is not None else {}
    listed = job.ranks.gather(f"listed {when}", mine, progress.update)
    with job.ranks.after(job.ranks.first, f"comparison of listings {when}"):
        if all(listed):
            check_same_files(listed, job.options.folder)


def check_same_files(ranks_listed: Sequence[dict[str, int]], folder: Path) -> None:
    """Raise CollectionError unless all ranks, in their order, have listed the same paths."""
    other = [rank for rank, listed in enumerate(ranks_listed) if listed != ranks_listed[0]]
    if other:
        named = ", ".join(f"{rank} ({ranks_listed[rank]['count']:,} files)" for rank in other)
        raise CollectionError(
            f"rank 0 lists {ranks_listed[0]['count']:,} files under {folder}, and other ranks list "
            f"others: {named}; give all machines the same folder. If it was changed during the "
            "load, run it again"
        )


def prune(job: Load, inventory: Inventory, unseen: set[str], progress: SharedProgress) -> Pruned:
    """Count this rank's rows that have no file; remove them if all ranks together may."""
    ranks, options = job.ranks, job.options
    missing = find_missing(job.collection, inventory, unseen, options.folder)
    ranks.add("rows", len(inventory))
    ranks.add("gone", len(missing.gone))
    ranks.gather("counted", {}, progress.update)
    with ranks.after(ranks.first, "count of all rows"):
        removed = may_prune(ranks.add("gone", 0), ranks.add("rows", 0), options)
    if removed:
        job.collection.delete(missing.gone)
    gone = len(missing.gone)
    return Pruned(gone=gone, removed=gone if removed else 0, unseen=missing.unseen)
