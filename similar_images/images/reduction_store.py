"""The reductions of a run's images, each made once, in a temporary database: memory is bounded."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from similar_images.console import QUIET, Console
from similar_images.images.decode_workers import FEW_IMAGES, Decoder, Task, core_count
from similar_images.images.decoding import Decoded
from similar_images.images.image_files import ImageError
from similar_images.images.reductions import Reduction

BATCH = 32  # images, of many: of few, each worker gets several batches


class Thumbnail(NamedTuple):
    """An image to show, as a small file, or why there is none."""

    data: bytes = b""
    problem: str = ""


class ReductionStore:
    """The reductions of a run; a context manager.

    reduce: makes one; a function of a module, sent to decode workers. least_side: as of decode(),
    and as for the queries that are embedded: at other scales, equal images would differ.
    """

    def __init__(
        self,
        reduce: Callable[[Decoded], Reduction],
        least_side: int | None = None,
        workers: int | None = None,
        max_megapixels: int | None = None,
    ) -> None:
        self.max_megapixels = max_megapixels
        self.reduce = reduce
        self.least_side = least_side
        self.workers = workers
        self.problems: dict[str, str] = {}  # why an image can't be read, by path
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;"
            f"CREATE TABLE reductions (path PRIMARY KEY, {', '.join(Reduction._fields)});"
        )

    def __enter__(self) -> "ReductionStore":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._database.close()

    def add(self, path: str, reduction: Reduction) -> None:
        """Keep an image's reduction."""
        places = ", ".join("?" * (1 + len(reduction)))
        statement = f"INSERT OR REPLACE INTO reductions VALUES ({places})"
        self._execute(statement, (os.fsencode(path), *reduction))

    def find(self, path: str) -> Reduction | None:
        """Return an image's reduction; None if it was not read."""
        columns = ", ".join(Reduction._fields)
        statement = f"SELECT {columns} FROM reductions WHERE path = ?"
        row = self._execute(statement, [os.fsencode(path)]).fetchone()
        return Reduction._make(row) if row else None

    def __getitem__(self, path: str) -> Reduction:
        """Return the reduction of an image that was read; KeyError if it was not."""
        found = self.find(path)
        if found is None:
            raise KeyError(path)
        return found

    def __contains__(self, path: str) -> bool:
        """Return whether an image was read."""
        statement = "SELECT 1 FROM reductions WHERE path = ?"
        return self._execute(statement, [os.fsencode(path)]).fetchone() is not None

    def read(self, paths: Iterable[str], console: Console = QUIET) -> None:
        """Decode and keep those images that are not kept yet; note what can't be decoded."""
        missing = [path for path in paths if path not in self.problems and path not in self]
        for path, reduction in self.examined(missing, self.reduce, self.least_side, console):
            self.add(path, reduction)

    def examined(
        self,
        paths: Sequence[str],
        examine: Callable[[Decoded], Any],
        least_side: int | None = None,
        console: Console = QUIET,
    ) -> Iterator[tuple[str, Any]]:
        """Decode images; yield what examine() returns of each, and note what can't be decoded."""
        workers = core_count() if self.workers is None else self.workers
        workers = 0 if len(paths) <= FEW_IMAGES else workers
        batch_size = max(1, min(BATCH, len(paths) // (8 * max(1, workers))))
        task = Task(
            root=Path(), least_side=least_side, megapixels=self.max_megapixels, examine=examine
        )
        with (
            Decoder(task, batch_size, workers) as decoder,
            console.progress("images read", len(paths)) as progress,
        ):
            for batch in decoder.batches(paths):
                yield from zip((i.path for i in batch.images), batch.examined, strict=True)
                self.problems |= {skipped.path: skipped.reason for skipped in batch.skipped}
                progress.update(len(batch.images) + len(batch.skipped))

    def thumbnails(self, paths: Sequence[str], console: Console = QUIET) -> dict[str, Thumbnail]:
        """Return images to show; those that can't be read have a problem instead."""
        self.read(paths, console)
        return {
            path: Thumbnail(problem=self.problems[path])
            if path in self.problems
            else Thumbnail(self[path].view)
            for path in paths
        }

    def _execute(self, statement: str, values: Sequence[object]) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise ImageError(
                f"reduced copies of the images can't be kept in a temporary file ({error}); make "
                "room there, or set $TMPDIR to another folder"
            ) from error
