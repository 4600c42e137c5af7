"""Rows whose file is gone: counted by every load, removed where that is asked for and safe."""

import functools
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from similar_images.images.image_files import Skipped, has_image_suffix, is_excluded, is_own_image
from similar_images.loading.prepare import LoadOptions
from similar_images.milvus.client import CollectionError

MOST = 0.5  # pruning more than this share of the rows needs --prune-most


def certainly_gone(
    missing: Iterable[str], skipped: Iterable[Skipped], root: Path, excluded: tuple[str, ...]
) -> list[str]:
    """Return the paths of missing rows whose file is certainly gone, excluded or no image any more.

    skipped: files and folders. Files under those that are unseen may still exist. So may files in
    an empty folder, as the mount point of a missing disk is, and files with a suffix that no
    installed decoder reads. A file that was neither found nor skipped does if it is there now: a
    folder's listing may lack one that is replaced meanwhile.
    """
    seen, unseen = set[str](), set[str]()
    for item in skipped:
        (unseen if item.unseen else seen).add(item.path)
    is_empty = functools.cache(lambda folder: _is_empty_folder(root / folder))

    def is_gone(path: str) -> bool:
        if is_excluded(path, excluded):
            return True
        above = list(itertools.accumulate(path.split("/"), "{}/{}".format))  # a, a/b, a/b/c.png
        return (
            has_image_suffix(path)
            and unseen.isdisjoint(above)
            and not any(map(is_empty, above[:-1]))
            and not (
                seen.isdisjoint(above)
                and os.path.lexists(root / path)
                and not is_own_image(os.path.join(root, path))
            )
        )

    return list(filter(is_gone, missing))


def _is_empty_folder(folder: Path) -> bool:
    """Return whether a folder exists and holds at most hidden files, as a mount point may."""
    try:
        return all(name.startswith(".") for name in os.listdir(folder))
    except OSError:
        return False


def may_prune(gone: int, rows: int, options: LoadOptions) -> bool:
    """Return whether so many of all rows may be removed: a missing disk can look empty."""
    return options.prune and (gone <= MOST * rows or options.prune_most)


def check_pruned(gone: int, removed: int, rows: int, options: LoadOptions) -> None:
    """Raise CollectionError if pruning was asked for and not carried out."""
    if options.prune and gone and not removed:
        raise CollectionError(
            f"{gone:,} of {rows:,} rows have no file under {options.folder}, too many to remove "
            "unasked: is a disk missing? Nothing was removed; add --prune-most if they are really "
            "gone"
        )
