"""Compare a folder's files with the rows of its collection: what is new, changed, kept, gone."""

import array
import bisect
import collections
import enum
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from similar_images.images.image_files import FoundImage, Listing, iter_images
from similar_images.milvus.schema import StoredImage

LISTED_FIRST = 50_000  # images to embed that are listed before the first is embedded


class State(enum.Enum):
    """How an image on disk compares with the collection."""

    NEW = "it has no row"
    CHANGED = "its row describes another version of the file"
    KEPT = "its row has the size and time of this file"


class Inventory:
    """The rows that a collection held when it was read, in 17 bytes each, sorted by path's hash.

    A dictionary of paths would take 200 bytes a row and more. A row is kept as two of Python's
    64-bit hashes: of its path, and of path, size and time. Only if both collide is a changed
    image taken for an unchanged one.
    """

    def __init__(self, stored: Iterable[StoredImage]) -> None:
        """Read the rows; `stored` is iterated over once."""
        paths, files = array.array("q"), array.array("q")
        for image in stored:
            paths.append(hash(image.path))
            files.append(hash(image))
        order = np.argsort(np.frombuffer(paths, np.int64))
        self._paths = _in_order(paths, order)
        self._files = _in_order(files, order)
        self._found = bytearray(len(order))

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, image: FoundImage) -> State:
        """Return how an image on disk compares with the collection, and mark its row as found."""
        rows = self._rows(image.path)
        for row in rows:
            self._found[row] = True
        if any(self._files[row] == hash(image) for row in rows):
            return State.KEPT
        return State.CHANGED if rows else State.NEW

    def lose(self, path: str) -> None:
        """Mark the row of an image that was found but can't be read as not found."""
        for row in self._rows(path):
            self._found[row] = False

    def is_gone(self, path: str) -> bool:
        """Return whether there was a row of that path, and its image was not found."""
        rows = self._rows(path)
        return bool(rows) and not any(self._found[row] for row in rows)

    def gone(self) -> int:
        """Return the number of rows whose image was not found."""
        return self._found.count(False)

    def _rows(self, path: str) -> range:
        key = hash(path)
        start = bisect.bisect_left(self._paths, key)
        stop = start
        while stop < len(self) and self._paths[stop] == key:
            stop += 1
        return range(start, stop)


def _in_order(values: "array.array[int]", order: np.ndarray) -> "array.array[int]":
    return array.array("q", np.frombuffer(values, np.int64)[order].tobytes())


class ListedPaths:
    """The number of listed paths and a hash of them that doesn't depend on their order.

    Two ranks that list the same files have the same values, in every process and on every system.
    """

    def __init__(self) -> None:
        self.count = 0
        self.digest = 0  # 64 bits

    def add(self, path: str) -> None:
        """Count a path."""
        number = hashlib.blake2b(os.fsencode(path), digest_size=8).digest()
        self.count += 1
        self.digest = (self.digest + int.from_bytes(number)) % 2**64


class Todo:
    """A folder's new and changed images: paths, listed while earlier ones are embedded.

    The first LISTED_FIRST are listed at once.
    """

    def __init__(self, root: Path, wanted: Callable[[str], bool], inventory: Inventory) -> None:
        self.kept = 0
        self.listing = Listing()
        self._listed = 0
        self._all_listed = False
        self._rest = self._compare(iter_images(root, self.listing, wanted), inventory)
        self._first = collections.deque(itertools.islice(self._rest, LISTED_FIRST))

    def _compare(self, found: Iterator[FoundImage], inventory: Inventory) -> Iterator[str]:
        for image in found:
            if inventory.find(image) is State.KEPT:
                self.kept += 1
            else:
                self._listed += 1
                yield image.path
        self._all_listed = True

    def __len__(self) -> int:
        """Return how many have been listed so far."""
        return self._listed

    def __iter__(self) -> Iterator[str]:
        while self._first:
            yield self._first.popleft()
        yield from self._rest

    def total(self) -> int | None:
        """Return how many there are; None until the whole folder has been listed."""
        return self._listed if self._all_listed else None
