"""Rows whose file is gone: counted by every load, removed where that is asked for and safe."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from similar_images.loading.inventory import Inventory
from similar_images.loading.prepare import LoadOptions
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import ImageCollection

MOST = 0.5  # pruning more than this share of the rows needs --prune-most


@dataclass(frozen=True)
class Pruned:
    """What became of the rows without a file.

    gone: rows without a readable file; removed: how many of these were deleted; unseen: rows
    under what could not be looked at, which are always kept.
    """

    gone: int = 0
    removed: int = 0
    unseen: int = 0


def prune(
    collection: ImageCollection, inventory: Inventory, unseen: set[str], options: LoadOptions
) -> Pruned:
    """Count the rows that have no readable file any more; remove them if asked to.

    unseen: files and folders that could not be looked at; nothing under them is removed, nor
    more than MOST of the rows without --prune-most: a folder that is not mounted looks empty.
    """
    if not inventory.gone():
        return Pruned()
    gone, kept = [], 0
    for image in collection.stored_images():
        if inventory.is_gone(image.path):
            if unseen and any(part in unseen for part in _itself_and_above(image.path)):
                kept += 1
            else:
                gone.append(image.path)
    if not options.prune or (len(gone) > MOST * len(inventory) and not options.prune_most):
        return Pruned(gone=len(gone), unseen=kept)
    collection.delete(gone)
    return Pruned(gone=len(gone), removed=len(gone), unseen=kept)


def check_pruned(pruned: Pruned, rows: int, options: LoadOptions) -> None:
    """Raise CollectionError if a prune was asked for and not carried out."""
    if options.prune and pruned.gone and not pruned.removed:
        raise CollectionError(
            f"{pruned.gone:,} of {rows:,} rows have no file under {options.folder}, too many "
            "to remove unasked: is a disk missing? Nothing was removed; add --prune-most if they "
            "are really gone"
        )


def _itself_and_above(path: str) -> Iterator[str]:
    """Yield a path and the folders that it lies in.

    >>> list(_itself_and_above("a/b/c.png"))
    ['a', 'a/b', 'a/b/c.png']
    """
    return itertools.accumulate(path.split("/"), lambda above, name: f"{above}/{name}")
