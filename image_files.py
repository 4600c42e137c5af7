"""Pictures on disk: find them under a folder, decode them in worker processes, in batches.

Pillow and NumPy only: a decode worker imports this file and starts in a fraction of a second.
"""

import collections
import concurrent.futures
import ctypes
import functools
import itertools
import multiprocessing
import os
import signal
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

RESIZE = 256  # pixels: the short side after the resize that ResNet18's weights publish
CROP = 224  # pixels: the side of the square cut out of its centre
IMAGE_BYTES = CROP * CROP * 3
MAX_PATH_BYTES = 4096  # the collection's key holds no more
# Pillow reads these by running another program, or only names them without decoding pixels.
REFUSED_FORMATS = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"})


COMMON_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # tried first: each try costs 20 microseconds
MAX_ASPECT = 16  # beyond it, resizing the whole picture would need gigabytes


class ImageError(Exception):
    """A picture that can't be decoded; the message is the reason."""


class FoundImage(NamedTuple):
    """A picture's path under its root ('/' on every system), and its file as listed."""

    path: str
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970


class DecodedImage(NamedTuple):
    """What is known of a picture once it is decoded; the file as it was while decoding."""

    path: str
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970
    width: int  # pixels, as a viewer shows it
    height: int


class Skipped(NamedTuple):
    """A file that could not be taken, and why."""

    path: str
    reason: str


def label_of(path: str) -> str:
    """Return a picture's label, the first folder under the root; '' in a flat folder.

    >>> label_of("frog/00042.png"), label_of("cat.png")
    ('frog', '')
    """
    return path.partition("/")[0] if "/" in path else ""


def printable(text: str) -> str:
    r"""Return text with all that could forge or reorder a line escaped: controls, bidi marks.

    >>> printable("a\tb")
    'a\\tb'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode()
        for char in text
    )


# --- Finding ----------------------------------------------------------------------------------


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that we decode."""
    Image.init()
    others = set(Image.OPEN) - REFUSED_FORMATS - set(COMMON_FORMATS)
    return (*COMMON_FORMATS, *sorted(others))


@functools.cache
def _image_suffixes() -> frozenset[str]:
    formats = set(readable_formats())
    extensions = Image.registered_extensions()
    return frozenset(suffix for suffix, name in extensions.items() if name in formats)


def check_folder(folder: Path, option: str) -> None:
    """Raise ImageError unless folder is one; option: how another is chosen, such as --images."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ImageError(f"{folder} {what}; run python split_images.py or choose {option}")


def iter_images(
    root: Path, skipped: list[Skipped], wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[FoundImage]:
    """Yield every picture under root, by file name suffix, as the folders list them: in no order.

    Nothing is kept: the first comes at once, however many there are. Links are followed, but
    never in a circle. Files and folders whose names begin with a dot are left out, as are files
    that no image suffix names, and paths that are not `wanted`. What can't be taken is appended
    to `skipped`. Raises OSError if root itself can't be listed.
    """
    for path, entry in _walk(root, skipped):
        if wanted(path):
            try:
                yield _found(path, entry.stat())
            except (OSError, ImageError) as error:
                skipped.append(Skipped(path, _reason(error)))


def count_images(root: Path, wanted: Callable[[str], bool]) -> int:
    """Return about how many pictures iter_images would yield: the files aren't looked at."""
    return sum(wanted(path) for path, _ in _walk(root, []))


def _reason(error: OSError | ImageError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _walk(root: Path, skipped: list[Skipped]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the path under root and the entry of every file that may be a picture."""
    yield from _walk_folder(os.fspath(root), "", (_identity(os.stat(root)),), skipped)


def _walk_folder(
    folder: str, prefix: str, ancestors: tuple[tuple[int, int], ...], skipped: list[Skipped]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = prefix + entry.name
            try:
                if not entry.is_dir():
                    if os.path.splitext(entry.name)[1].lower() in _image_suffixes():
                        yield path, entry
                    continue
                identity = _identity(entry.stat())
                if identity in ancestors:
                    skipped.append(Skipped(path, "a link to a folder that it lies in"))
                else:
                    yield from _walk_folder(entry.path, path + "/", (*ancestors, identity), skipped)
            except OSError as error:
                skipped.append(Skipped(path, _reason(error)))


def _found(path: str, status: os.stat_result) -> FoundImage:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("not a regular file")
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise ImageError("its name is not UTF-8") from None
    if length > MAX_PATH_BYTES:
        raise ImageError(f"its path is longer than {MAX_PATH_BYTES} bytes")
    return FoundImage(path, status.st_size, status.st_mtime_ns)


# --- Decoding ---------------------------------------------------------------------------------


def decode(root: Path, path: str) -> tuple[DecodedImage, Image.Image]:
    """Return what is known of root/path and its pixels as an RGB image, as a viewer shows it.

    Raises ImageError if Pillow can't decode it, or if the file changed meanwhile.
    """
    try:
        with open(root / path, "rb", opener=_open_at_once) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise ImageError("not a regular file")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's limit for bombs is an error all the same
                with Image.open(file, formats=readable_formats()) as image:
                    rgb = to_rgb(image)
            after = os.fstat(file.fileno())
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not a picture in a format that Pillow decodes") from error
    except Exception as error:  # decoders of damaged files raise what they like
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(reason) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ImageError("it changed while it was read")
    info = DecodedImage(path, before.st_size, before.st_mtime_ns, rgb.width, rgb.height)
    return info, rgb


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a FIFO that has taken a picture's place must not hold us up."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB, upright, over white where it is transparent.

    Of an animated image it is the first frame; of 16 bits the higher eight are kept.
    """
    image.load()
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data don't hide the picture in a viewer either
        upright = image
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright
    if upright.mode.startswith("I"):
        high = np.asarray(upright) // 256
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright.convert("RGB")


def preprocess(image: Image.Image) -> np.ndarray:
    """Return an RGB image as the network sees it before normalising: (224, 224, 3) uint8.

    Equal to torchvision's Resize(256) and CenterCrop(224) on a Pillow image. Only of a square
    is the part that the crop keeps resized alone: there, both give the same values to the bit
    (elsewhere they round differently), and CIFAR-10 is square. Very long pictures, too, are
    cut first, and may differ by one grey level.
    """
    width, height = image.size
    short = min(width, height)
    horizontal, vertical = _crop_span(width, short), _crop_span(height, short)
    bilinear = Image.Resampling.BILINEAR
    if width == height or max(width, height) > MAX_ASPECT * short:
        scale_x, scale_y = width / horizontal[1], height / vertical[1]
        left, upper = horizontal[0] * scale_x, vertical[0] * scale_y
        right, lower = left + CROP * scale_x, upper + CROP * scale_y
        box = (left, upper, min(right, width), min(lower, height))
        return np.asarray(image.resize((CROP, CROP), bilinear, box=box))
    whole = image.resize((horizontal[1], vertical[1]), bilinear)
    left, upper = horizontal[0], vertical[0]
    return np.asarray(whole.crop((left, upper, left + CROP, upper + CROP)))


def _crop_span(side: int, short: int) -> tuple[int, int]:
    """Return where the crop starts on a side of the resized image, and how long that side is."""
    resized = RESIZE * side // short
    return round((resized - CROP) / 2), resized


# --- Batches ----------------------------------------------------------------------------------


@dataclass
class Batch:
    """Decoded images, and those of the batch that could not be.

    pixels: (N, 224, 224, 3) uint8, N = len(images); valid until release() is called.
    """

    pixels: np.ndarray
    images: list[DecodedImage]
    skipped: list[Skipped] = field(default_factory=list)
    slot: int | None = None


def decode_batch(root: Path, paths: list[str], out: np.ndarray) -> Batch:
    """Decode root/path for each path into out, (at least len(paths), 224, 224, 3) uint8."""
    images: list[DecodedImage] = []
    skipped = []
    for path in paths:
        try:
            info, rgb = decode(root, path)
            out[len(images)] = preprocess(rgb)
            images.append(info)
        except ImageError as error:
            skipped.append(Skipped(path, str(error)))
    return Batch(out[: len(images)], images, skipped)


def end_with_parent() -> None:
    """In a worker process: leave Ctrl-C to the parent, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent:
        threading.Thread(target=_exit_after, args=[parent], daemon=True).start()


def _exit_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


_worker_root = Path()
_worker_slots = np.empty(0, np.uint8)


def _start_worker(root: Path, memory: Any, shape: tuple[int, ...]) -> None:
    """Take the folder and the shared memory."""
    global _worker_root, _worker_slots
    _worker_root = root
    _worker_slots = np.frombuffer(memoryview(memory), np.uint8).reshape(shape)
    end_with_parent()


def _work(slot: int, paths: list[str]) -> tuple[list[DecodedImage], list[Skipped]]:
    batch = decode_batch(_worker_root, paths, _worker_slots[slot])
    return batch.images, batch.skipped


class Decoder:
    """Worker processes that decode pictures into shared memory; a context manager.

    With workers=0 the calling process decodes, and no process is started. `ahead` batches are
    decoded before they are asked for; a batch's memory is used again once it is released.
    """

    def __init__(self, root: Path, batch_size: int, workers: int, ahead: int = 4) -> None:
        self.root = root
        self.batch_size = batch_size
        self.workers = workers
        self.slots = workers + ahead
        self._free: collections.deque[int] = collections.deque(range(self.slots))
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        if workers:
            self._start_pool()

    def _start_pool(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork copies locks that threads hold
        shape = (self.slots, self.batch_size, CROP, CROP, 3)
        # Backed by a file without a name: nothing is left of it, however this process ends.
        memory = spawn.RawArray(ctypes.c_ubyte, self.slots * self.batch_size * IMAGE_BYTES)
        self._memory = np.frombuffer(memoryview(memory), np.uint8).reshape(shape)
        self._pool = concurrent.futures.ProcessPoolExecutor(
            self.workers, spawn, _start_worker, (self.root, memory, shape)
        )

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(self, paths: Iterable[str]) -> Iterator[Batch]:
        """Yield the pictures at root/path in batches, in the order of paths.

        Raises ImageError if a worker process is killed.
        """
        chunks = _chunked(paths, self.batch_size)
        if not self._pool:
            for chunk in chunks:
                out = np.empty((len(chunk), CROP, CROP, 3), np.uint8)
                yield decode_batch(self.root, chunk, out)
            return
        waiting: collections.deque[tuple[int, concurrent.futures.Future[Any]]] = collections.deque()
        for chunk in chunks:
            while not self._free:
                yield self._finish(*waiting.popleft())
            slot = self._free.popleft()
            waiting.append((slot, self._pool.submit(_work, slot, chunk)))
        while waiting:
            yield self._finish(*waiting.popleft())

    def _finish(self, slot: int, future: "concurrent.futures.Future[Any]") -> Batch:
        try:
            images, skipped = future.result()
        except BrokenProcessPool as error:
            raise ImageError("a decode worker was killed (out of memory?)") from error
        return Batch(self._memory[slot, : len(images)], images, skipped, slot)

    def release(self, batch: Batch) -> None:
        """Give a batch's memory back; its pixels must not be used any more."""
        if batch.slot is not None:
            self._free.append(batch.slot)


def _chunked(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
