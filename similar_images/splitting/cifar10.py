"""CIFAR-10's published batches: found, downloaded, unpickled safely."""

import io
import os
import pickle
import pickletools
import re
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from similar_images.console import Console
from similar_images.splitting.digits import ImageSet, ImageSetError
from similar_images.text import printable

BATCH_FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
META = "batches.meta"
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
PUBLISHED_IMAGES = 50_000
SIDE = 32
PIXELS = 3 * SIDE * SIDE
MAX_FILE_BYTES = 64 * 2**20  # a published batch has 31 MB
MAX_MEMO = 1_000_000  # a published batch uses 20,000; a larger index only reserves memory
# What a pickle of arrays and plain containers is made of, in the opcodes of Python 2 and 3.
PICKLE_OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET PUT GET NONE NEWTRUE
    NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 STRING BINSTRING SHORT_BINSTRING BINBYTES
    SHORT_BINBYTES BINUNICODE SHORT_BINUNICODE EMPTY_DICT EMPTY_LIST EMPTY_TUPLE DICT LIST TUPLE
    TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD
    """.split()  # noqa: SIM905
)


class _Dtype:
    """Stands in for numpy.dtype while a batch is unpickled: keeps what it was made from."""

    def __init__(self, *args: object) -> None:
        self.code = args[0] if args else None

    def __setstate__(self, state: object) -> None:
        pass  # byte order and alignment: one byte has neither


class _Array:
    """Stands in for numpy.ndarray while a batch is unpickled: keeps the state, builds nothing."""

    def __init__(self, *args: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def to_numpy(self) -> np.ndarray:
        """Return the array, (N, 3072) uint8; ValueError if it is anything else."""
        _version, shape, dtype, column_order, data = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", b"u1"):
            raise ValueError("data is not of dtype uint8")
        if len(shape) != 2 or shape[1] != PIXELS or column_order or not isinstance(data, bytes):
            raise ValueError(f"data has shape {shape}, not (N, {PIXELS})")
        return np.frombuffer(data, np.uint8).reshape(shape)


def _new_array(*args: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes in protocol 2


class BatchUnpickler(pickle.Unpickler):
    """An unpickler that admits NumPy arrays and plain containers, and runs nothing of NumPy's.

    Each name that a CIFAR-10 batch needs is answered with a stand-in of ours; every other
    name is refused.
    """

    ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _new_array,
        ("numpy._core.multiarray", "_reconstruct"): _new_array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return our stand-in for module.name; UnpicklingError if there is none."""
        try:
            stand_in = self.ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None
        if isinstance(stand_in, type):
            return stand_in
        return lambda *args: stand_in(*args)  # a BUILD changes this one, and not ours


def unpickle(data: bytes) -> dict[str, Any]:
    """Return the dictionary that data holds, its keys as str, its strings as bytes.

    Raises ValueError for anything but a dictionary of arrays and plain containers. Opcodes
    are looked at before any of them is carried out.
    """
    for opcode, argument, _position in pickletools.genops(data):
        if opcode.name not in PICKLE_OPCODES:
            raise ValueError(f"it holds the pickle opcode {opcode.name}")
        if opcode.name.endswith("PUT") and int(argument or 0) > MAX_MEMO:
            raise ValueError("its memo is too large")
    content = BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
    if not isinstance(content, dict):
        raise ValueError("it is not a dictionary")
    return {key.decode() if isinstance(key, bytes) else key: content[key] for key in content}


def read_label_names(data: bytes) -> list[str]:
    """Return the label names of batches.meta; ValueError if they can't name folders."""
    names = unpickle(data)["label_names"]
    names = [name.decode() if isinstance(name, bytes) else name for name in names]
    if not names or len(set(names)) != len(names):
        raise ValueError("its label names are missing or repeated")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"the label name {name!r} can't name a folder")
    return names


def read_batch(data: bytes, number: int, label_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of pickled batch `number` (1 to 5).

    Images are (N, 32, 32, 3) uint8, labels (N,) int64. Raises ValueError where keys, shape,
    dtype or labels aren't those of a CIFAR-10 batch.
    """
    batch = unpickle(data)
    title = batch.get("batch_label", b"training batch %d of 5" % number)
    if title not in (f"training batch {number} of 5", b"training batch %d of 5" % number):
        raise ValueError(f"it calls itself {title!r}")
    if not isinstance(batch["data"], _Array):
        raise ValueError("data is not an array")
    pixels = batch["data"].to_numpy()
    labels = batch["labels"]
    if not isinstance(labels, list) or not len(labels) == len(pixels) > 0:
        raise ValueError(f"labels don't match its {len(pixels)} images")
    if not all(type(label) is int and 0 <= label < label_count for label in labels):
        raise ValueError(f"labels are not all numbers from 0 to {label_count - 1}")
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, dtype=np.int64)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return the contents of the five batches and batches.meta in a folder, by name."""
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
    """Return the contents of the five batches and batches.meta in the archive, by name.

    Nothing is unpacked to disk, so no path or link inside the archive is ever followed.
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
        raise ImageSetError(f"{archive} lacks {missing[0]}; delete it to download it again")
    return contents


def download_archive(archive: Path) -> None:
    """Download the published archive, which appears whole and with its published MD5 or not at all.

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
            f"{CIFAR10.url} could not be downloaded ({error}); put {ARCHIVE} here by hand, "
            "or run with --sample"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def find_cifar(folder: Path | None, console: Console) -> Path:
    """Return the batch folder or archive to read: in `folder`, else here, else downloaded here."""
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


def load_cifar(source: Path) -> ImageSet:
    """Return CIFAR-10's training images in published order from a batch folder or an archive."""
    contents = read_archive(source) if source.is_file() else read_folder(source)
    name = META
    try:
        label_names = read_label_names(contents[META])
        batches = []
        for number, name in enumerate(BATCHES, start=1):
            batches.append(read_batch(contents.pop(name), number, len(label_names)))
    except Exception as error:  # what a damaged pickle raises has no common class
        told = printable(str(error))[:200] or type(error).__name__
        reason = f"{name} is not a CIFAR-10 batch ({told})"
        raise ImageSetError(f"{source}: {reason}; get it again or leave out --cifar") from error
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return ImageSet(pixels, labels, label_names)
