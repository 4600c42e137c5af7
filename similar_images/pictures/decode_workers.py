"""Worker processes that decode a folder's pictures into shared memory, a batch at a time."""

import collections
import concurrent.futures
import ctypes
import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from similar_images.pictures.decoding import DecodedImage, Preprocessing, decode
from similar_images.pictures.image_files import ImageError, Skipped, skipped_for


@dataclass
class Batch:
    """Decoded images, and those of the batch that could not be.

    pixels: (N, crop, crop, 3) uint8, N = len(images); valid until release() is called.
    """

    pixels: np.ndarray
    images: list[DecodedImage]
    skipped: list[Skipped] = field(default_factory=list)
    slot: int | None = None


def decode_batch(
    root: Path, paths: list[str], preprocessing: Preprocessing, out: np.ndarray
) -> Batch:
    """Decode root/path for each path into out, (at least len(paths), crop, crop, 3) uint8."""
    images: list[DecodedImage] = []
    skipped = []
    for path in paths:
        try:
            info, rgb = decode(root, path)
            out[len(images)] = preprocessing(rgb)
            images.append(info)
        except ImageError as error:
            skipped.append(skipped_for(path, error))
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


@dataclass(frozen=True)
class _Work:
    """What a worker process decodes from, how, and to: (slots, N, crop, crop, 3) uint8."""

    root: Path
    preprocessing: Preprocessing
    slots: np.ndarray


_work: _Work | None = None  # this worker process's


def _start_worker(
    root: Path, preprocessing: Preprocessing, memory: Any, shape: tuple[int, ...]
) -> None:
    """Take what is to be done, and the shared memory."""
    global _work
    _work = _Work(root, preprocessing, _as_array(memory, shape))
    end_with_parent()


def _as_array(memory: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(memoryview(memory), np.uint8).reshape(shape)


def _decode_into(slot: int, paths: list[str]) -> tuple[list[DecodedImage], list[Skipped]]:
    assert _work is not None
    batch = decode_batch(_work.root, paths, _work.preprocessing, _work.slots[slot])
    return batch.images, batch.skipped


class Decoder:
    """Worker processes that decode pictures into shared memory; a context manager.

    With workers=0 the calling process decodes, and no process is started. `ahead` batches are
    decoded before they are asked for; a batch's memory is used again once it is released.
    """

    def __init__(
        self,
        root: Path,
        preprocessing: Preprocessing,
        batch_size: int,
        workers: int,
        ahead: int = 4,
    ) -> None:
        self.root = root
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.workers = workers
        self.slots = workers + ahead
        self._free: collections.deque[int] = collections.deque(range(self.slots))
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        if workers:
            self._start_pool()

    def _start_pool(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork copies locks that threads hold
        shape = (self.slots, self.batch_size, *self.preprocessing.shape)
        # Backed by a file without a name: nothing is left of it, however this process ends.
        memory = spawn.RawArray(ctypes.c_ubyte, math.prod(shape))
        self._memory = _as_array(memory, shape)
        self._pool = concurrent.futures.ProcessPoolExecutor(
            self.workers,
            spawn,
            _start_worker,
            (self.root, self.preprocessing, memory, shape),
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
                out = np.empty((len(chunk), *self.preprocessing.shape), np.uint8)
                yield decode_batch(self.root, chunk, self.preprocessing, out)
            return
        waiting: collections.deque[tuple[int, concurrent.futures.Future[Any]]] = collections.deque()
        for chunk in chunks:
            while not self._free:
                yield self._finish(*waiting.popleft())
            slot = self._free.popleft()
            waiting.append((slot, self._pool.submit(_decode_into, slot, chunk)))
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
