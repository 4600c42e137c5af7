"""What a collection holds, in few bytes a row, to compare a folder's listing with."""

import array
import enum
from collections.abc import Iterable

import numpy as np

from image_collection import StoredImage
from image_files import FoundImage


class State(enum.Enum):
    """What a picture on disk is to the collection."""

    NEW = "it has no row"
    CHANGED = "its row is of an older file"
    KEPT = "its row is of this very file"


class Inventory:
    """The rows that a collection held when it was read: 17 bytes for each, sorted by path.

    A row is kept as two of Python's 64-bit hashes, of its path and of path, size and time. That
    a changed picture passes for a kept one takes both to be equal by chance.
    """

    def __init__(self, stored: Iterable[StoredImage]) -> None:
        """Take in the rows; `stored` is read once."""
        paths, files = array.array("q"), array.array("q")
        for image in stored:
            paths.append(hash(image.path))
            files.append(hash(image))
        unsorted = np.frombuffer(paths, np.int64)
        order = np.argsort(unsorted)
        self._paths = unsorted[order]
        self._files = np.frombuffer(files, np.int64)[order]
        self._found = np.zeros(len(order), bool)

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, image: FoundImage) -> State:
        """Return what a picture on disk is to the collection, and note that it is there."""
        rows = self._rows(image.path)
        if rows.start == rows.stop:
            return State.NEW
        self._found[rows] = True
        return State.KEPT if hash(image) in self._files[rows] else State.CHANGED

    def lose(self, path: str) -> None:
        """Note that a picture which was found can't be read: its row has no file any more."""
        self._found[self._rows(path)] = False

    def is_gone(self, path: str) -> bool:
        """Return whether there was a row of that path, and no picture of it was found."""
        rows = self._rows(path)
        return rows.start < rows.stop and not self._found[rows].any()

    def gone(self) -> int:
        """Return how many rows no picture was found of."""
        return len(self) - int(self._found.sum())

    def _rows(self, path: str) -> slice:
        key = hash(path)
        start = int(np.searchsorted(self._paths, key))
        stop = start
        while stop < len(self) and self._paths[stop] == key:
            stop += 1
        return slice(start, stop)
