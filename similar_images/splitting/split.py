"""Splits a data set, and writes two folders of PNG files, both completely or neither."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from similar_images.console import Console
from similar_images.images.decode_workers import end_with_parent, interrupts_held
from similar_images.text import printable
from similar_images.whole_files import leftovers, partial_of, put_back, replacing_together

CHUNK = 500  # images that a worker writes at a time
MANIFEST = ".written_by_split_images"  # in each folder: the paths of its images, one a line
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # files that systems add to folders


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

    The split is scikit-learn's train_test_split of the published order. A query_fraction of 0.1
    and a seed of 42 give the 45,000 and 5,000 images of the original homework.
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
    """Raise SplitError unless a split may be written to these folders; undo a killed run's steps.

    A folder that is not empty is replaced only if overwrite is set, and only if it holds nothing
    but what this script wrote: a user's own files are never deleted.
    """
    places = [folder.resolve() for folder in folders]
    for place in places:
        for folder in (place, *leftovers(place)):
            _check(folder, folder, overwrite=True)
    put_back(places, discard=_discard)
    for folder, place in zip(folders, places, strict=True):
        if os.path.ismount(place):
            raise SplitError(f"{folder} is a mount point; choose a folder inside it")
        _check(place, folder, overwrite)


def _check(found: Path, folder: Path, overwrite: bool) -> None:
    """Raise SplitError, which names the folder, unless the content that was found may go."""
    if foreign := _foreign_file(found):
        raise SplitError(
            f"{folder} holds what split_images.py did not write "
            f"({printable(foreign)}); empty it yourself"
        )
    if not overwrite and _files(found):
        raise SplitError(f"{folder} is not empty; add --overwrite to replace it")


def _files(folder: Path) -> list[str]:
    """Return the paths of all files and links in a folder, with '/', without LITTER."""
    found = []
    for parent, folders, files in os.walk(folder):
        inside = Path(parent).relative_to(folder)
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [(inside / name).as_posix() for name in [*files, *links] if name not in LITTER]
    return found


def _foreign_file(folder: Path) -> str | None:
    """Return the path of a file in a folder that no split wrote, if there is one."""
    if folder.is_symlink() or not folder.is_dir():
        return "it is not a folder" if os.path.lexists(folder) else None
    ours = {MANIFEST, *_manifest(folder)}
    return next((path for path in _files(folder) if path not in ours), None)


def _manifest(folder: Path) -> list[str]:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    return []


def _discard(folder: Path) -> None:
    """Delete a folder that a split wrote; SplitError if it holds anything else, which is kept.

    Only files that the manifest names are deleted, and folders only when they are empty. So a
    file that is added at any time is kept, unless it replaces one of the split's own under the
    same name. The manifest goes last: the next run continues a deletion that was interrupted.
    """
    _check(folder, folder, overwrite=True)
    ours = set(_manifest(folder))
    for path in _files(folder):
        if path in ours:
            (folder / path).unlink()
    for parent, _folders, files in os.walk(folder, topdown=False):
        for name in LITTER.intersection(files):
            Path(parent, name).unlink()
        if Path(parent) == folder:
            (folder / MANIFEST).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(parent)
    _check(folder, folder, overwrite=True)  # names what was added meanwhile
    if folder.exists():
        folder.rmdir()  # says why it can't be deleted


def write_split(
    images: ImageSet, sets: Mapping[Path, np.ndarray], console: Console, overwrite: bool
) -> None:
    """Write each set beside its folder first, and replace both folders when all is written.

    sets: folder → positions of its images; overwrite: as for check_targets. Raises SplitError if
    a folder may not be replaced or a worker is killed, OSError if the disk is full or read-only.
    """
    places = {folder.resolve(): positions for folder, positions in sets.items()}
    workers = min(len(images) // CHUNK + 1, os.cpu_count() or 1)
    check = functools.partial(_check, overwrite=overwrite)
    try:
        with replacing_together(list(places), check, _discard):
            partials = {partial_of(place): positions for place, positions in places.items()}
            _write_sets(images, partials, workers, console)
    except BrokenProcessPool as error:
        raise SplitError(
            "a process that wrote images was killed (out of memory?); run it again"
        ) from error


def _write_sets(
    images: ImageSet, sets: Mapping[Path, np.ndarray], workers: int, console: Console
) -> None:
    """Write the images at the positions of each root to <root>/<label>/<position>.png."""
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
            with interrupts_held():
                futures = [pool.submit(_write_chunk, *chunk) for chunk in chunks]
            for future in concurrent.futures.as_completed(futures):
                progress.update(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _chunks(
    images: ImageSet, positions: np.ndarray, root: Path
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Make the folders and the manifest; yield paths and pixels of CHUNK images at a time."""
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
        Image.fromarray(image).save(path, compress_level=1)  # PNG is lossless at every level
    return len(paths)
