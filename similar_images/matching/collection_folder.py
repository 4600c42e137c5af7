"""Where a collection's images are, which of them may be opened, and which of them is a query."""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from similar_images.images.image_files import identity, modified_at
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.schema import Match

STATUSES = 100_000  # of rows' files, kept: many queries have the same matches


class CollectionFolder:
    """The folder of a collection's images."""

    def __init__(self, collection: ImageCollection, named: Path | None) -> None:
        """named: where the user says that it is; else it is where the collection says."""
        self.collection = collection
        self.root = named or collection.root
        self.may_open = named is not None or may_open(collection, self.root)
        self._status = functools.lru_cache(STATUSES)(self._status_of_row)
        self._roots = {os.path.abspath(self.root)}
        if self.may_open:
            self._roots.add(os.path.realpath(self.root))

    def opened(self, path: str) -> tuple[str, bool]:
        """Return a row's path as it can be opened from here, and whether it may be opened."""
        place, here = self.root / path, Path.cwd()
        shown = place.relative_to(here) if place.is_relative_to(here) else place
        return str(shown), self.may_open and stays_inside(path)

    def rows_of(self, image: str) -> list[str]:
        """Return the paths that this very file has in the collection, if it is in its folder.

        The one by which it is named here comes before those that its links lead to.
        """
        real = os.path.realpath(image)
        beside = os.path.join(os.path.realpath(os.path.dirname(image)), os.path.basename(image))
        places = map(PurePath, (os.path.abspath(image), beside, real))
        inside = [
            place.relative_to(root).as_posix()
            for place, root in itertools.product(places, self._roots)
            if place.is_relative_to(root)
        ]
        # What is not UTF-8 is in no collection.
        known = (path for path in inside if path == path.encode(errors="ignore").decode())
        return list(dict.fromkeys(known))

    def is_here(self, image: str, row: str) -> bool:
        """Return whether a row stands where an image is named, and not only where a link leads."""
        folder, name = os.path.split(image)
        with contextlib.suppress(OSError):
            place = self.root / row
            return place.name == name and place.parent.samefile(folder or ".")
        return False

    def own_rows(self, image: str, rows: Iterable[str]) -> set[str]:
        """Return those of the rows that show this very file: by another path, a link, a mount."""
        try:
            file = identity(os.stat(image))
        except OSError:
            return set()
        known = ((path, self._status(path)) for path in rows)
        return {path for path, status in known if status and identity(status) == file}

    def is_changed(self, match: Match) -> bool:
        """Return whether a match's file has changed since it was loaded, or is gone."""
        status = self._status(match.path)
        if status is None:
            return self.is_there and stays_inside(match.path)
        return (status.st_size, modified_at(status)) != (match.file_size, match.modified_at)

    @property
    def is_there(self) -> bool:
        """Whether the folder may be opened and exists."""
        return self.may_open and self.root.is_dir()

    def _status_of_row(self, path: str) -> os.stat_result | None:
        """Return the status of a row's file; None if it may not be opened, or is not there."""
        with contextlib.suppress(OSError):
            return os.stat(self.root / path) if self.may_open and stays_inside(path) else None
        return None


def may_open(collection: ImageCollection, path: Path) -> bool:
    """Return whether a path that the collection names may be opened.

    On a server anybody may have written it: it has to be below the current folder.
    """
    return collection.client.is_own or path.resolve().is_relative_to(Path.cwd())


def stays_inside(path: str, system: type[PurePath] = PurePath) -> bool:
    r"""Return whether a row's path leads nowhere but into the collection's folder.

    system: whose rules apply, by default this system's: a backslash separates folders on Windows
    alone, elsewhere it is a character of a name.

    >>> stays_inside("frog/1.png"), stays_inside("../x.png"), stays_inside("/etc/x.png")
    (True, False, False)
    """
    pure = system(path)
    return bool(pure.parts) and not pure.anchor and ".." not in pure.parts and "\0" not in path
