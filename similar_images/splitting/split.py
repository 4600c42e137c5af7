"""Splits a data set, and writes two folders of PNG files, both completely or neither."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from similar_images.console import Console, Progress


class ImageSetError(Exception):
    """A data set can't be read, split or written; the message says what to do."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled RGB images in published order: what the reader of a data set returns.

    pixels: (N, height, width, 3) uint8; labels: (N,) int64, indices into label_names, which
    become the names of folders.
    """

    pixels: np.ndarray
    labels: np.ndarray
    label_names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def split_positions(count: int, query_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the database images and of the queries, each sorted.

    The split is scikit-learn's train_test_split of the published order. A query_fraction of 0.1
    and a seed of 42 give the 45,000 and 5,000 images of the original homework.
    """
    from sklearn.model_selection import train_test_split

    try:
        database, queries = train_test_split(
            np.arange(count), test_size=query_fraction, random_state=seed
        )
    except ValueError as error:
        raise ImageSetError(
            f"{count} images can't be split into {1 - query_fraction:g} and {query_fraction:g}; "
            "choose another --query-fraction"
        ) from error
    return np.sort(database), np.sort(queries)


def check_targets(folders: Iterable[Path]) -> None:
    """Raise ImageSetError, or OSError, unless each folder is missing or empty."""
    for folder in folders:
        if os.path.ismount(folder):
            raise ImageSetError(f"{folder} is a mount point; choose a folder inside it")
        with contextlib.suppress(FileNotFoundError):
            if any(folder.iterdir()):
                raise ImageSetError(
                    f"{folder} is not empty; delete it, or choose other folders with "
                    "--database-set and --query-set"
                )


def write_split(images: ImageSet, sets: Mapping[Path, np.ndarray], console: Console) -> None:
    """Write both sets, or neither: each beside its place first, renamed when all is written.

    sets: folder → positions of its images. Raises ImageSetError if a folder is not empty, OSError
    if the disk is full or read-only.
    """
    written: dict[Path, Path] = {}  # place → what will be renamed to it
    with (
        contextlib.ExitStack() as temporaries,
        console.progress("images", sum(map(len, sets.values()))) as progress,
    ):
        for folder, positions in sets.items():
            place = folder.resolve()
            place.parent.mkdir(parents=True, exist_ok=True)
            beside = TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent)
            written[place] = Path(temporaries.enter_context(beside), place.name)
            _write_set(images, positions, written[place], progress)
        try:
            _rename_together(written)
        except OSError:
            check_targets(sets)  # names the folder that another run or the user has filled
            raise


def _write_set(images: ImageSet, positions: np.ndarray, root: Path, progress: Progress) -> None:
    """Write the images at these positions to <root>/<label>/<position>.png."""
    for name in images.label_names:
        (root / name).mkdir(parents=True)
    for position in positions:
        path = root / images.label_names[images.labels[position]] / f"{position:05d}.png"
        # PNG is lossless at every level.
        Image.fromarray(images.pixels[position]).save(path, compress_level=1)
        progress.update(1)


def _rename_together(written: Mapping[Path, Path]) -> None:
    """Rename all folders to their places, or none; OSError if a place is not empty."""
    with contextlib.ExitStack() as undo:
        for place, folder in reversed(list(written.items())):  # what is read next comes last
            with contextlib.suppress(FileNotFoundError):
                place.rmdir()
            folder.rename(place)
            undo.callback(place.rename, folder)
        undo.pop_all()
