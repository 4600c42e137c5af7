"""Which image goes where, and two folders of PNGs that appear whole or not at all."""

import concurrent.futures
import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from similar_images.console import Console
from similar_images.pictures.decode_workers import end_with_parent
from similar_images.text import printable
from similar_images.whole_files import leftovers, partial_of, put_back, replacing_together

CHUNK = 500  # images that a worker writes at a time
MANIFEST = ".written_by_split_images"  # in each folder: a line for each file that it holds
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # what systems leave in folders


class ImageSetError(Exception):
    """A data set can't be read; the message says what to do."""


class SplitError(Exception):
    """A split can't be made or written; the message says what to do."""


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

    The split is scikit-learn's train_test_split over the published order: the default of
    0.1 and 42 gives the 45,000 and 5,000 of the original homework.
    """
    from sklearn.model_selection import train_test_split

    try:
        database, queries = train_test_split(
            np.arange(count), test_size=query_fraction, random_state=seed
        )
    except ValueError as error:
        raise SplitError(
            f"{count} images can't be split into {1 - query_fraction:g} and {query_fraction:g}; "
            "choose another --query-fraction"
        ) from error
    return np.sort(database), np.sort(queries)


def check_targets(folders: Sequence[Path], overwrite: bool) -> None:
    """Raise SplitError unless a split may stand in these folders; undo what a killed run began.

    A folder that isn't empty is replaced only if asked for, and only if it holds nothing but
    what this script wrote: somebody's pictures are never deleted.
    """
    places = [folder.resolve() for folder in folders]
    for place in places:
        for folder in (place, *leftovers(place)):
            if foreign := _foreign_file(folder):
                raise SplitError(
                    f"{folder} holds what split_images.py did not write "
                    f"({printable(foreign)}); empty it yourself"
                )
    put_back(places)
    for folder, place in zip(folders, places, strict=True):
        if os.path.ismount(place):
            raise SplitError(f"{folder} is a mount point; choose a folder inside it")
        if _files(place) and not overwrite:
            raise SplitError(f"{folder} is not empty; add --overwrite to replace it")


def _files(folder: Path) -> list[str]:
    """Return all that a folder holds, but for what systems leave there: paths with '/'."""
    found = []
    for parent, folders, files in os.walk(folder):
        inside = Path(parent).relative_to(folder)
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [(inside / name).as_posix() for name in [*files, *links] if name not in LITTER]
    return found


def _foreign_file(folder: Path) -> str | None:
    """Return the path of something in a folder that no split wrote there, if there is any."""
    if not folder.is_dir():
        return "it is no folder" if folder.exists() else None
    ours = {MANIFEST}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        ours.update((folder / MANIFEST).read_text(encoding="utf-8").splitlines())
    return next((path for path in _files(folder) if path not in ours), None)


def write_split(images: ImageSet, sets: Mapping[Path, np.ndarray], console: Console) -> None:
    """Write each set beside its folder first, and move both into place when they are whole.

    sets: folder → positions of its images. Raises SplitError if a worker is killed, OSError
    where the disk doesn't take them.
    """
    places = {folder.resolve(): positions for folder, positions in sets.items()}
    workers = min(len(images) // CHUNK + 1, os.cpu_count() or 1)
    try:
        with replacing_together(list(places)):
            partials = {partial_of(place): positions for place, positions in places.items()}
            _write_sets(images, partials, workers, console)
    except BrokenProcessPool as error:
        raise SplitError(
            "a process that wrote images was killed (out of memory?); run it again"
        ) from error


def _write_sets(
    images: ImageSet, sets: Mapping[Path, np.ndarray], workers: int, console: Console
) -> None:
    """Write the images at each root's positions to <root>/<label>/<position>.png, losslessly."""
    spawn = multiprocessing.get_context("spawn")
    chunks = (
        chunk for root, positions in sets.items() for chunk in _chunks(images, positions, root)
    )
    total = sum(map(len, sets.values()))
    with (
        console.progress("images", total) as progress,
        concurrent.futures.ProcessPoolExecutor(workers, spawn, end_with_parent) as pool,
    ):
        try:
            futures = [pool.submit(_write_chunk, *chunk) for chunk in chunks]
            for future in concurrent.futures.as_completed(futures):
                progress.update(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _chunks(
    images: ImageSet, positions: np.ndarray, root: Path
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yield the files to write, CHUNK at a time, with pixels; make the folders, the manifest."""
    names = [images.label_names[label] for label in images.labels[positions]]
    files = [f"{name}/{i:05d}.png" for name, i in zip(names, positions, strict=True)]
    for name in images.label_names:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / MANIFEST).write_text("\n".join(files) + "\n", encoding="utf-8")
    for start in range(0, len(positions), CHUNK):
        part = slice(start, start + CHUNK)
        yield [root / file for file in files[part]], images.pixels[positions[part]]


def _write_chunk(paths: list[Path], pixels: np.ndarray) -> int:
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path, compress_level=1)  # lossless at every level
    return len(paths)
