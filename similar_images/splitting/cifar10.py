"""Reads CIFAR-10 as published: from its folder of batches, its archive, or a download."""

import os
import re
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np

from similar_images.console import Console
from similar_images.splitting.pickle_reader import read_pickle, to_array
from similar_images.splitting.split import ImageSet, ImageSetError
from similar_images.text import printable

BATCH_FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
META = "batches.meta"
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
PUBLISHED_IMAGES = 50_000
SIDE = 32
PIXELS = 3 * SIDE * SIDE
MAX_FILE_BYTES = 64 * 2**20  # a published batch has 31 MB


def read_label_names(data: bytes) -> list[str]:
    """Return the label names of batches.meta; an exception if they can't name folders."""
    names = read_pickle(data)["label_names"]
    names = [name.decode() if isinstance(name, bytes) else name for name in names]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
            raise ValueError(f"the label name {name[:100]!r} can't name a folder")
    if not names or len(set(names)) != len(names):
        raise ValueError("its label names are missing or repeated")
    return names


def read_batch(data: bytes, number: int, label_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of pickled batch `number` (1 to 5).

    Images are (N, 32, 32, 3) uint8, labels (N,) int64. Raises an exception, usually ValueError,
    if the keys, shape, dtype or labels aren't those of a CIFAR-10 batch.
    """
    batch = read_pickle(data)
    title = batch.get("batch_label", b"training batch %d of 5" % number)
    if title not in (f"training batch {number} of 5", b"training batch %d of 5" % number):
        raise ValueError(f"its batch_label is {title!r}")
    pixels = to_array(batch["data"], PIXELS)
    labels = batch["labels"]
    if not isinstance(labels, list) or not len(labels) == len(pixels) > 0:
        raise ValueError(f"it doesn't have one label for each of its {len(pixels)} images")
    if not all(type(label) is int and 0 <= label < label_count for label in labels):
        raise ValueError(f"its labels are not all numbers from 0 to {label_count - 1}")
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, dtype=np.int64)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return the contents of batches.meta and the five batches in a folder, by file name."""
    contents = {}
    for name in (META, *BATCHES):
        path = folder / name
        if not path.is_file():
            raise ImageSetError(f"{path} is missing; unpack {ARCHIVE} again or leave out --cifar")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImageSetError(f"{path} is too large for a CIFAR-10 batch; unpack {ARCHIVE} again")
        contents[name] = path.read_bytes()
    return contents


def read_archive(archive: Path) -> dict[str, bytes]:
    """Return the contents of batches.meta and the five batches in the archive, by file name.

    Nothing is unpacked to disk, so no path or link inside the archive is followed.
    """
    wanted = {f"{BATCH_FOLDER}/{name}": name for name in (META, *BATCHES)}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                name = wanted.get(member.name)
                if name and member.isreg() and member.size <= MAX_FILE_BYTES:
                    stream = tar.extractfile(member)
                    contents[name] = stream.read() if stream else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ImageSetError(
            f"{archive} can't be read ({error}); delete it to download it again"
        ) from error
    missing = sorted(set(wanted.values()) - set(contents))
    if missing:
        raise ImageSetError(f"{archive} has no {missing[0]}; delete it to download it again")
    return contents


def download_archive(archive: Path) -> None:
    """Download the published archive and check its MD5; nothing appears at `archive` otherwise.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    from torchvision.datasets import CIFAR10  # two seconds to import: only for a download
    from torchvision.datasets.utils import download_url

    partial = archive.with_name(f".{ARCHIVE}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        download_url(CIFAR10.url, str(partial), ARCHIVE, CIFAR10.tgz_md5)
        os.replace(partial / ARCHIVE, archive)
    except (OSError, RuntimeError) as error:
        raise ImageSetError(
            f"{CIFAR10.url} could not be downloaded ({error}); put {ARCHIVE} here yourself "
            "or add --sample"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def find_source(folder: Path | None, console: Console) -> Path:
    """Return the batch folder or archive to read: from `folder`, from here, or downloaded."""
    place = folder or Path()
    if (place / BATCHES[0]).exists():
        return place
    for candidate in (place / BATCH_FOLDER, place / ARCHIVE):
        if candidate.exists():
            return candidate
    if folder:
        raise ImageSetError(f"there is no CIFAR-10 in {folder}; leave out --cifar to download it")
    console.say(f"Downloading CIFAR-10 (170 MB) to {place / ARCHIVE}")
    download_archive(place / ARCHIVE)
    return place / ARCHIVE


def read_source(source: Path) -> ImageSet:
    """Return the training images of a batch folder or an archive, in published order."""
    contents = read_archive(source) if source.is_file() else read_folder(source)
    name = META
    try:
        label_names = read_label_names(contents[META])
        batches = []
        for number, name in enumerate(BATCHES, start=1):
            batches.append(read_batch(contents.pop(name), number, len(label_names)))
    except Exception as error:  # exceptions caused by damaged pickles have no common base class
        cause = printable(str(error)[:200]) or type(error).__name__
        reason = f"{name} is not a CIFAR-10 batch ({cause[:200]})"
        raise ImageSetError(f"{source}: {reason}; get it again or leave out --cifar") from error
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return ImageSet(pixels, labels, label_names)


def load_cifar10(folder: Path | None, console: Console) -> ImageSet:
    """Find and return CIFAR-10's training images; ImageSetError if they can't be read."""
    source = find_source(folder, console)
    console.say(f"Splitting CIFAR-10 from {source}")
    images = read_source(source)
    if len(images) != PUBLISHED_IMAGES:
        published = f"CIFAR-10 as published has {PUBLISHED_IMAGES:,}"
        console.trouble(f"note: {len(images):,} images; {published}")
    return images
