"""Read the images that a run compares and shows, each once, and keep them small."""

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from similar_images.console import QUIET, Console
from similar_images.images.decode_workers import FEW_IMAGES, Decoder, Examine, Task, core_count
from similar_images.images.decoding import DecodedImage
from similar_images.images.image_files import ImageError
from similar_images.images.reductions import (
    Examined,
    Reduction,
    examine,
    thumbnail,
    whole_digest,
)

BATCH = 32  # images, of many: of few, each worker gets several batches


class Thumbnail(NamedTuple):
    """A small image as a file, PNG or JPEG, or why there is none."""

    data: bytes = b""
    problem: str = ""


class ReductionStore:
    """The small images of a run, in a temporary database, so that memory is bounded.

    A context manager. least_side: as of decode(), and as for the queries that are embedded: at
    other scales, equal images would differ.
    """

    def __init__(self, least_side: int | None = None, workers: int | None = None) -> None:
        self.least_side = least_side
        self.workers = workers
        self._whole: dict[str, bytes] = {}  # digests, by path
        self.problems: dict[str, str] = {}  # why an image can't be read, by path
        self._database = sqlite3.connect("", isolation_level=None)
        columns = ", ".join(Reduction._fields)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;"
            f"CREATE TABLE images (path PRIMARY KEY, thumbnail, {columns}) WITHOUT ROWID;"
        )

    def __enter__(self) -> "ReductionStore":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._database.close()

    def add(self, path: str, examined: Examined) -> None:
        """Keep what examine() found of an image."""
        values = os.fsencode(path), examined.thumbnail, *examined.small
        places = ", ".join("?" * len(values))
        self._execute(f"INSERT OR REPLACE INTO images VALUES ({places})", values)

    def find(self, path: str) -> Reduction | None:
        """Return what is compared of an image; None if it was not read."""
        query = f"SELECT {', '.join(Reduction._fields)} FROM images WHERE path = ?"
        row = self._execute(query, [os.fsencode(path)]).fetchone()
        return Reduction._make(row) if row else None

    def __getitem__(self, path: str) -> Reduction:
        """Return what is compared of an image that was read; KeyError if it was not."""
        found = self.find(path)
        if found is None:
            raise KeyError(path)
        return found

    def read(self, paths: Iterable[str], console: Console = QUIET) -> None:
        """Decode and keep those images that are not kept yet."""
        missing = [path for path in paths if path not in self.problems and not self.find(path)]
        for info, examined in self._decoded(missing, examine, "images read", console):
            self.add(info.path, examined)

    def whole_digests(self, paths: Collection[str], console: Console = QUIET) -> dict[str, bytes]:
        """Return the digests of all pixels of images, decoded whole; of those that can be."""
        missing = [path for path in paths if path not in self._whole]
        decoded = self._decoded(missing, whole_digest, "whole images compared", console, True)
        self._whole |= {info.path: digest for info, digest in decoded}
        return self._whole

    def thumbnails(self, paths: Sequence[str], console: Console = QUIET) -> dict[str, Thumbnail]:
        """Return images to show; those that can't be read have a problem instead."""
        found: dict[str, Thumbnail] = {}
        for path in paths:
            query = "SELECT thumbnail FROM images WHERE path = ?"
            kept = self._execute(query, [os.fsencode(path)]).fetchone()
            if kept and kept[0]:
                found[path] = Thumbnail(kept[0])
        missing = [path for path in paths if path not in found and path not in self.problems]
        for info, data in self._decoded(missing, thumbnail, "thumbnails", console):
            found[info.path] = Thumbnail(data)
        problems = {path: Thumbnail(problem=problem) for path, problem in self.problems.items()}
        return {path: found.get(path) or problems[path] for path in paths}

    def _execute(self, statement: str, values: Sequence[object]) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise ImageError(
                f"small copies of the images can't be kept in a temporary file ({error}); make "
                "room there, or set $TMPDIR to another folder"
            ) from error

    def _decoded(
        self,
        paths: Collection[str],
        examine: Examine,
        unit: str,
        console: Console,
        whole: bool = False,
    ) -> Iterator[tuple[DecodedImage, Any]]:
        """Yield images and what `finding` returns for them; note those that can't be decoded."""
        workers = core_count() if self.workers is None else self.workers
        workers = 0 if len(paths) <= FEW_IMAGES else workers
        batch_size = max(1, min(BATCH, len(paths) // (8 * max(1, workers))))
        least_side = None if whole else self.least_side
        task = Task(root=Path(), least_side=least_side, examine=examine)
        with (
            Decoder(task, batch_size, workers) as decoder,
            console.progress(unit, len(paths)) as progress,
        ):
            for batch in decoder.batches(paths):
                yield from zip(batch.images, batch.examined, strict=True)
                self.problems |= {skipped.path: skipped.reason for skipped in batch.skipped}
                progress.update(len(batch.images) + len(batch.skipped))
