"""Compare a folder's files with the rows of its collection: what is new, changed, kept, gone."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable

from similar_images.images.image_files import FoundImage
from similar_images.milvus.schema import StoredImage


class Inventory:
    """The images of a folder, compared with the rows that its collection held when it was read.

    todo: new and changed images; kept: how many have a row that describes them; rows: how many rows
    there were. With several ranks, each has the inventory of its share, those that are `mine`.
    sizes: of all rows' files. relabelled: kept images whose row has another label.
    """

    def __init__(
        self, stored: Iterable[StoredImage], mine: Callable[[str], bool] = lambda _: True
    ) -> None:
        """Read the rows."""
        self.sizes: set[int] = set()
        self._stored: dict[str, tuple[int, int, str]] = {}
        for image in stored:
            self.sizes.add(image.file_size)
            if mine(image.path):
                label = sys.intern(image.label)  # one string for all of that label
                self._stored[image.path] = image.file_size, image.modified_at, label
        self._changed: set[str] = set()
        self.rows = len(self._stored)
        self.kept = 0
        self.todo: list[FoundImage] = []
        self.relabelled: list[str] = []

    def compare(self, image: FoundImage, label: str) -> None:
        """Compare an image on disk with its row; each image once."""
        row = self._stored.pop(image.path, None)
        if row and row[:2] == (image.file_size, image.modified_at):
            self.kept += 1
            if row[2] != label:
                self.relabelled.append(image.path)
            return
        self.todo.append(image)
        if row:
            self._changed.add(image.path)

    def missing(self, unreadable: Iterable[str]) -> list[str]:
        """Return the paths of rows whose image was not found, or was found to be unreadable."""
        return [*self._stored, *self._changed.intersection(unreadable)]


def number_of(path: str) -> int:
    """Return a hash of a path, 64 bits, the same in every process and on every system.

    Two ranks whose sums of these are equal have listed the same files.
    """
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest())
