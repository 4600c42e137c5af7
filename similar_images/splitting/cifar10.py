"""Reads CIFAR-10 as published: from its folder of batches, its archive, or a download."""

import http.client
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from similar_images.console import Console
from similar_images.splitting.download import download
from similar_images.splitting.split import ImageSet, ImageSetError
from similar_images.text import printable

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
BATCH_FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SIDE = 32
PIXELS = 3 * SIDE * SIDE
ENCODE = "_codecs.encode"  # which Python 3's pickles of bytes name, in protocols up to 2
RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
NAMES = (ENCODE, *RECONSTRUCT, "numpy.dtype", "numpy.ndarray")


class _Named:
    """Stands in for what a pickle of an array names; records how it is called, and its state.

    NumPy's own would obey the file: from a made-up type they make arrays of arbitrary pointers,
    which crash the process, or worse, before the result can be examined.
    """

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> "_Named | bytes":
        if self.name == ENCODE:  # of bytes that were decoded as Latin-1
            return bytes(arguments[0].encode("latin1"))
        return _Named(self.name, *arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Builds plain values and _Named; nothing that a file names is looked up or executed."""

    def find_class(self, module: str, name: str) -> _Named:
        if f"{module}.{name}" not in NAMES:
            raise ValueError(f"it names {module}.{name}")
        return _Named(f"{module}.{name}")


def _to_array(value: Any) -> np.ndarray:
    """Return a pickled array of shape (N, PIXELS), uint8; an exception for any other value."""
    if not (isinstance(value, _Named) and value.name in RECONSTRUCT):
        raise ValueError("data is not an array")
    _version, shape, dtype, column_order, data = value.state
    if not (isinstance(dtype, _Named) and dtype.arguments[0] in ("u1", b"u1")):
        raise ValueError("data is not of dtype uint8")
    if column_order or not isinstance(data, bytes) or shape != (len(data) // PIXELS, PIXELS):
        raise ValueError(f"data is not of shape (N, {PIXELS})")
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_batch(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of a pickled batch.

    Images are (N, 32, 32, 3) uint8, labels (N,) int64. Raises an exception, usually ValueError,
    if the keys, shape, dtype or labels aren't those of a CIFAR-10 batch.
    """
    content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    batch = {key.decode() if isinstance(key, bytes) else key: content[key] for key in content}
    pixels, labels = _to_array(batch["data"]), batch["labels"]
    if not isinstance(labels, list) or not len(labels) == len(pixels) > 0:
        raise ValueError(f"it doesn't have one label for each of its {len(pixels)} images")
    if not all(type(label) is int and 0 <= label < len(LABELS) for label in labels):
        raise ValueError("its labels are not all numbers from 0 to 9")
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, dtype=np.int64)


def _read_archive(archive: Path) -> dict[str, bytes]:
    """Return the contents of the batches in an archive, by path there; nothing is unpacked."""
    wanted = {f"{BATCH_FOLDER}/{name}" for name in BATCHES}
    contents: dict[str, bytes] = {}
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            if member.name in wanted and member.isreg() and (stream := tar.extractfile(member)):
                contents[Path(member.name).name] = stream.read()
    return contents


def read_source(source: Path) -> ImageSet:
    """Return the training images of a batch folder or an archive, in published order."""
    name = ""
    try:
        contents = _read_archive(source) if source.is_file() else {}
        batches = []
        for name in BATCHES:
            data = contents.pop(name) if source.is_file() else (source / name).read_bytes()
            batches.append(read_batch(data))
    except Exception as error:  # those of damaged archives and pickles have no common base class
        cause = printable(str(error)[:200])[:200] or type(error).__name__
        raise ImageSetError(
            f"{source / name} can't be read as CIFAR-10 ({cause}); "
            "delete it and leave out --cifar to download it again"
        ) from error
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return ImageSet(pixels, labels, LABELS)


def find_source(folder: Path | None, console: Console) -> Path:
    """Return the batch folder or archive to read: from `folder`, from here, or downloaded."""
    place = folder or Path()
    for source in (place, place / BATCH_FOLDER, place / ARCHIVE):
        if source.is_file() or (source / BATCHES[0]).exists():
            return source
    if folder:
        raise ImageSetError(f"there is no CIFAR-10 in {folder}; leave out --cifar to download it")
    console.say(f"Downloading CIFAR-10 (170 MB) to {ARCHIVE}")
    try:
        download(URL, Path(ARCHIVE), MD5, console)
    except (OSError, http.client.HTTPException) as error:
        raise ImageSetError(
            f"{URL} could not be downloaded ({error}); run it again to continue, "
            f"put {ARCHIVE} here yourself or add --sample"
        ) from error
    return Path(ARCHIVE)


def load_cifar10(folder: Path | None, console: Console) -> ImageSet:
    """Find and return CIFAR-10's training images; ImageSetError if they can't be read."""
    source = find_source(folder, console)
    console.say(f"Splitting CIFAR-10 from {source}")
    return read_source(source)
