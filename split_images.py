"""Split CIFAR-10's 50,000 training images at random into two folders of PNGs.

Usage:
  python split_images.py                      # CIFAR-10 from here, else downloaded
  python split_images.py --cifar ~/data       # CIFAR-10 from there
  python split_images.py --sample             # scikit-learn's 1,797 digits instead

Reads:  ./cifar-10-batches-py, else ./cifar-10-python.tar.gz, else the published archive
Writes: database_set/<label>/<position>.png and query_set/<label>/<position>.png, where
        position is the image's place in the published order
"""

import argparse
import concurrent.futures
import io
import multiprocessing
import os
import pickle
import pickletools
import re
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from command_line import Console, add_quiet_option, status_of, whole_number
from image_files import end_with_parent, printable

BATCH_FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
META = "batches.meta"
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
PUBLISHED_IMAGES = 50_000
SIDE = 32
PIXELS = 3 * SIDE * SIDE
MAX_FILE_BYTES = 64 * 2**20  # a published batch has 31 MB
MAX_MEMO = 1_000_000  # a published batch uses 20,000; a larger index only reserves memory
CHUNK = 500  # images that a worker writes at a time

# What a pickle of arrays and plain containers is made of, in the opcodes of Python 2 and 3.
PICKLE_OPCODES = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "MEMOIZE",
        "BINPUT",
        "LONG_BINPUT",
        "BINGET",
        "LONG_BINGET",
        "PUT",
        "GET",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "EMPTY_DICT",
        "EMPTY_LIST",
        "EMPTY_TUPLE",
        "DICT",
        "LIST",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
    ]
)


class SplitError(Exception):
    """A problem that the user can solve; the message says how."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled RGB images in published order.

    pixels: (N, 32, 32, 3) uint8; labels: (N,) int64, indices into label_names.
    """

    pixels: np.ndarray
    labels: np.ndarray
    label_names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


# --- Reading CIFAR-10 -------------------------------------------------------------------------


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
            raise SplitError(f"{path} is missing; unpack {ARCHIVE} again or leave out --cifar")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SplitError(f"{path} is too large for a CIFAR-10 batch; unpack {ARCHIVE} again")
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
        raise SplitError(
            f"{archive} can't be read ({error}); delete it to download it again"
        ) from error
    missing = sorted(set(wanted.values()) - set(contents))
    if missing:
        raise SplitError(f"{archive} lacks {missing[0]}; delete it to download it again")
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
        raise SplitError(
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
        raise SplitError(f"there is no CIFAR-10 in {folder}; leave out --cifar to download it")
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
        raise SplitError(f"{source}: {reason}; get it again or leave out --cifar") from error
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return ImageSet(pixels, labels, label_names)


def load_sample() -> ImageSet:
    """Return scikit-learn's 1,797 handwritten digits as RGB images of 32×32.

    Each of the 8×8 source pixels (0 to 16) becomes a square of 4×4 equal ones.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=3)
    return ImageSet(pixels, digits.target.astype(np.int64), [str(digit) for digit in range(10)])


# --- Splitting and writing --------------------------------------------------------------------


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


def _chunks(
    images: ImageSet, positions: np.ndarray, root: Path
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yield the files to write, CHUNK at a time, with their pixels; make the label folders."""
    for name in images.label_names:
        (root / name).mkdir(parents=True, exist_ok=True)
    for start in range(0, len(positions), CHUNK):
        chunk = positions[start : start + CHUNK]
        names = [images.label_names[label] for label in images.labels[chunk]]
        paths = [root / name / f"{i:05d}.png" for name, i in zip(names, chunk, strict=True)]
        yield paths, images.pixels[chunk]


def _write_chunk(paths: list[Path], pixels: np.ndarray) -> int:
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path, compress_level=1)  # lossless at every level
    return len(paths)


def write_sets(
    images: ImageSet, sets: dict[Path, np.ndarray], workers: int, console: Console
) -> None:
    """Write the images at each root's positions to <root>/<label>/<position>.png, losslessly.

    sets: root → positions. Raises OSError where the disk doesn't take them.
    """
    spawn = multiprocessing.get_context("spawn")
    chunks = (
        chunk for root, positions in sets.items() for chunk in _chunks(images, positions, root)
    )
    total = sum(map(len, sets.values()))
    with (
        console.bar("images", total) as progress,
        concurrent.futures.ProcessPoolExecutor(workers, spawn, end_with_parent) as pool,
    ):
        try:
            futures = [pool.submit(_write_chunk, *chunk) for chunk in chunks]
            for future in concurrent.futures.as_completed(futures):
                progress.update(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def check_target(folder: Path, overwrite: bool) -> None:
    """Raise SplitError unless a split may stand at folder.

    A folder that isn't empty is replaced only if asked for, and only if it holds nothing but
    what this script writes: somebody's pictures are never deleted.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SplitError(f"{folder} is not a folder; choose another name")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise SplitError(f"{folder} is not empty; add --overwrite to replace it")
    for parent, folders, files in os.walk(folder):
        depth = len(Path(parent).relative_to(folder).parts)
        ours = all(re.fullmatch(r"\d{5,}\.png", name) for name in files)
        if depth > 1 or (depth == 1 and folders) or (depth == 0 and files) or not ours:
            raise SplitError(f"{folder} holds more than a split ({parent}); empty it yourself")


def _beside(folder: Path, suffix: str) -> Path:
    folder = folder.absolute()
    return folder.with_name(f".{folder.name}.{suffix}")


def publish(folders: list[Path]) -> None:
    """Put each folder's finished partial in its place, the folder of the next step last."""
    for folder in folders:
        old = _beside(folder, "old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
    for folder in reversed(folders):
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(_beside(folder, "partial"), folder)
    for folder in folders:
        shutil.rmtree(_beside(folder, "old"), ignore_errors=True)


def write_split(images: ImageSet, sets: dict[Path, np.ndarray], console: Console) -> None:
    """Write each set beside its folder first, and move both into place when they are whole."""
    partials = {_beside(folder, "partial"): positions for folder, positions in sets.items()}
    workers = min(len(images) // CHUNK + 1, os.cpu_count() or 1)
    try:
        for partial in partials:
            shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
        write_sets(images, partials, workers, console)
        publish(list(sets))
    finally:
        for partial in partials:
            shutil.rmtree(partial, ignore_errors=True)


# --- Command line -----------------------------------------------------------------------------


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar", type=Path, metavar="DIR", help="folder that holds CIFAR-10")
    parser.add_argument("--database-set", type=Path, default=Path("database_set"), metavar="DIR")
    parser.add_argument("--query-set", type=Path, default=Path("query_set"), metavar="DIR")
    parser.add_argument(
        "--query-fraction", type=_fraction, default=0.1, help="part of the images (default: 0.1)"
    )
    parser.add_argument(
        "--seed", type=whole_number(0, 2**32 - 1), default=42, help="of the split (default: 42)"
    )
    parser.add_argument(
        "--limit", type=whole_number(2, 10**9), metavar="N", help="take only the first N images"
    )
    parser.add_argument(
        "--sample", action="store_true", help="scikit-learn's 1,797 digit images, no download"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier split")
    add_quiet_option(parser)
    args = parser.parse_args(argv)
    if args.sample and args.cifar:
        parser.error("--sample and --cifar exclude each other")
    database, queries = args.database_set.resolve(), args.query_set.resolve()
    if database == queries or database in queries.parents or queries in database.parents:
        parser.error("--database-set and --query-set must not lie in each other")
    return args


def run(args: argparse.Namespace, console: Console) -> None:
    """Load the images, split them, write both folders, and say what was made."""
    start = time.perf_counter()
    for folder in (args.database_set, args.query_set):
        check_target(folder, args.overwrite)
    if args.sample:
        console.say("Splitting scikit-learn's digits")
        images = load_sample()
    else:
        source = find_cifar(args.cifar, console)
        console.say(f"Splitting CIFAR-10 from {source}")
        images = load_cifar(source)
        if len(images) != PUBLISHED_IMAGES:
            published = f"CIFAR-10 as published has {PUBLISHED_IMAGES:,}"
            console.trouble(f"note: {len(images):,} images; {published}")
    count = min(len(images), args.limit or len(images))
    database, queries = split_positions(count, args.query_fraction, args.seed)
    write_split(images, {args.database_set: database, args.query_set: queries}, console)
    seconds = time.perf_counter() - start
    console.say(f"{args.database_set}: {len(database):,} images")
    console.say(f"{args.query_set}: {len(queries):,} images")
    console.say(f"Done in {seconds:.1f} s. Next: python embed_and_load.py")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    interrupted = "nothing was written; run it again"
    return status_of(lambda: run(args, Console(args.quiet)), (SplitError,), interrupted)


if __name__ == "__main__":
    sys.exit(main())
