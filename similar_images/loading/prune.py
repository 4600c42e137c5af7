"""Rows whose file is gone: counted by every load, removed where that is asked for and safe."""

import functools
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from similar_images.images.image_files import has_image_suffix
from similar_images.loading.inventory import Inventory
from similar_images.loading.prepare import LoadOptions
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import ImageCollection

MOST = 0.5  # pruning more than this share of the rows needs --prune-most


@dataclass(frozen=True)
class Missing:
    """Rows whose image was not found.

    gone: paths whose file is gone or no longer an image; unseen: the number of rows of which that
    is not certain, which are always kept.
    """

    gone: list[str] = field(default_factory=list)
    unseen: int = 0


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """How many rows have no file: see Missing; removed: how many of the gone were deleted."""

    gone: int = 0
    removed: int = 0
    unseen: int = 0


def find_missing(
    collection: ImageCollection, inventory: Inventory, unseen: set[str], root: Path
) -> Missing:
    """Return the inventory's rows whose image was not found.

    unseen: files and folders that could not be read. Rows under them may still have their file,
    and so may rows under an empty folder, which is what the mount point of a missing disk looks
    like, and rows with a suffix that no installed decoder takes.
    """
    if not inventory.gone():
        return Missing()
    is_empty = functools.cache(lambda folder: _is_empty_folder(root / folder))
    gone, kept = [], 0
    for image in collection.stored_images():
        if not inventory.is_gone(image.path):
            continue
        *folders, _ = above = list(_above(image.path))
        if (
            not has_image_suffix(image.path)
            or not unseen.isdisjoint(above)
            or any(map(is_empty, folders))
        ):
            kept += 1
        else:
            gone.append(image.path)
    return Missing(gone, kept)


def may_prune(gone: int, rows: int, options: LoadOptions) -> bool:
    """Return whether so many of all rows may be removed: a missing disk can look empty."""
    return options.prune and (gone <= MOST * rows or options.prune_most)


def check_pruned(pruned: Pruned, rows: int, options: LoadOptions) -> None:
    """Raise CollectionError if pruning was asked for and not carried out."""
    if options.prune and pruned.gone and not pruned.removed:
        raise CollectionError(
            f"{pruned.gone:,} of {rows:,} rows have no file under {options.folder}, too many "
            "to remove unasked: is a disk missing? Nothing was removed; add --prune-most if they "
            "are really gone"
        )


def _above(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in, and the path itself.

    >>> list(_above("a/b/c.png"))
    ['a', 'a/b', 'a/b/c.png']
    """
    return itertools.accumulate(path.split("/"), lambda above, name: f"{above}/{name}")


def _is_empty_folder(folder: Path) -> bool:
    """Return whether a folder exists and holds at most hidden files, as a mount point may."""
    try:
        with os.scandir(folder) as entries:
            return all(entry.name.startswith(".") for entry in entries)
    except OSError:
        return False
