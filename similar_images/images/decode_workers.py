"""Worker processes that decode and examine images, a batch at a time."""

import collections
import contextlib
import ctypes
import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from similar_images.images.decoding import (
    Decoded,
    DecodedImage,
    Preprocessing,
    TooLargeError,
    decode,
    megapixels_that_fit,
)
from similar_images.images.image_files import ImageError, Skipped, skipped_for

IMAGE_SECONDS = 120  # a worker that decodes one image for longer is ended
AHEAD = 4  # batches that wait decoded, until they are asked for
KILLED = "its decode worker ran out of memory, crashed, or took more than {} s"
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a container's quota and period, in microseconds
FEW_IMAGES = 64  # are decoded before more than one worker process has started
set_alarm = getattr(signal, "alarm", lambda seconds: None)  # Windows has none
SPAWN = multiprocessing.get_context("spawn")  # a fork copies locks that threads hold

Examine = Callable[[Decoded], Any]  # a function of a module, sent to workers
Outcome = tuple[DecodedImage, Any, str] | Skipped  # with what Examine found, and Decoded.note
_Pending = tuple[list[str], int, "Future[list[Outcome]]"]  # a batch's paths and slot


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is done with each image; it is sent to the workers.

    least_side: see decode(). preprocessing: what makes the pixels of a batch; None for none.
    megapixels: of the largest image that is decoded; None for what fits into the memory. examine:
    called with each decoded image.
    """

    root: Path
    preprocessing: Preprocessing | None = None
    least_side: int | None = None
    megapixels: int | None = None
    examine: Examine | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image's pixels in a batch."""
        return self.preprocessing.shape if self.preprocessing else (0,)

    def outcome(
        self, path: str, out: np.ndarray, alone: AbstractContextManager[object], at_once: int
    ) -> Outcome:
        """Decode and examine an image; preprocess it into out, (*shape) uint8.

        at_once: how many images are decoded at a time. `alone` is entered for an image that is
        larger than its share of the memory.
        """
        most = self.megapixels or megapixels_that_fit()
        try:
            try:
                return self._outcome(path, out, most / at_once)
            except TooLargeError:
                with alone:
                    return self._outcome(path, out, most)
        except (ImageError, MemoryError) as error:
            return skipped_for(path, error)

    def _outcome(self, path: str, out: np.ndarray, megapixels: float) -> Outcome:
        decoded = decode(self.root, path, self.least_side, megapixels)
        if self.preprocessing:
            out[:] = self.preprocessing(decoded.rgb)
        return decoded.info, self.examine(decoded) if self.examine else None, decoded.note


@dataclass
class Batch:
    """Decoded images, and those of the batch that could not be decoded.

    pixels: (N, crop, crop, 3) uint8, N = len(images). examined: what Task.examine returned for
    each image. damaged: those of the images with which something is wrong, and what. embeddings:
    (N, dimension) float32, of unit length.
    """

    pixels: np.ndarray
    images: list[DecodedImage]
    examined: list[Any]
    skipped: list[Skipped]
    damaged: list[Skipped]
    embeddings: np.ndarray = field(init=False)

    def set_embeddings(self, embeddings: np.ndarray, reason: str) -> None:
        """Set the embeddings, (N, dimension); skip images that have none, with this reason."""
        finite = are_unit(embeddings)
        if not finite.all():
            lost = {image.path for image in itertools.compress(self.images, ~finite)}
            self.skipped += [Skipped(path, reason, unseen=True) for path in sorted(lost)]
            self.damaged = [item for item in self.damaged if item.path not in lost]
            self.images = list(itertools.compress(self.images, finite))
            self.examined = list(itertools.compress(self.examined, finite))
            self.pixels = self.pixels[finite]
        self.embeddings = embeddings[finite]


def are_unit(embeddings: np.ndarray) -> np.ndarray:
    """Return which embeddings, (N, dimension), have unit length up to rounding: (N,) bool.

    After an overflow they are NaN, or zero where the length overflowed.
    """
    unit: np.ndarray = np.abs(np.linalg.norm(embeddings, axis=1) - 1) < 0.1
    return unit


def _batch(outcomes: list[Outcome], out: np.ndarray) -> Batch:
    """Return the batch of images with these outcomes, whose pixels are copied from out."""
    skipped = [item for item in outcomes if isinstance(item, Skipped)]
    decoded = [item for item in outcomes if not isinstance(item, Skipped)]
    places = [place for place, item in enumerate(outcomes) if not isinstance(item, Skipped)]
    damaged = [Skipped(info.path, note) for info, _, note in decoded if note]
    images, examined = [item[0] for item in decoded], [item[1] for item in decoded]
    return Batch(out[places], images, examined, skipped, damaged)


def core_count() -> int:
    """Return how many cores this process may use; torchrun's processes on a machine share them.

    A container may see all cores of the machine but be limited to the time of a few.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit: "max"
        quota, period = map(int, CPU_QUOTA.read_text().split())
        cores = min(cores, -(-quota // period))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _hold_interrupts(held: bool) -> None:
    """Block Ctrl-C in this thread and, for good, in the processes that are started meanwhile."""
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        signal.pthread_sigmask(signal.SIG_BLOCK if held else signal.SIG_UNBLOCK, {signal.SIGINT})


# --- In a worker process ----------------------------------------------------------------------

# This process's task; all slots, (slots, N, *shape) uint8; a lock for one of so many workers.
_work: tuple[Task, np.ndarray, Any, int]


def _start_worker(task: Task, memory: Any, shape: tuple[int, ...], lock: Any, count: int) -> None:
    """Leave Ctrl-C to the parent, and end with it, however it ends."""
    global _work
    _work = task, np.ndarray(shape, np.uint8, memory), lock, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after, args=[parent_process()], daemon=True).start()


def _exit_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


def _decode(paths: list[str], slot: int, start: int, seconds: int) -> list[Outcome]:
    """Decode images into a slot, from its place `start` on.

    The alarm ends the process if an image takes too long, even in C code that never returns.
    """
    task, slots, lock, count = _work

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        set_alarm(0)
        with lock:
            set_alarm(seconds)
            yield

    outcomes = []
    for place, path in enumerate(paths, start):
        set_alarm(seconds)
        outcomes.append(task.outcome(path, slots[slot, place], alone(), count))
    set_alarm(0)
    return outcomes


# --- In the calling process -------------------------------------------------------------------


class Decoder:
    """Worker processes that decode images into shared memory; a context manager.

    An image whose decoding takes longer than IMAGE_SECONDS (but on Windows), or whose worker is
    killed or crashes, is skipped, and the others are decoded all the same. With workers=0 the
    calling process decodes, and nothing protects it from such an image.
    """

    def __init__(self, task: Task, batch_size: int, workers: int) -> None:
        """Start the workers."""
        self.task = task
        self.batch_size = batch_size
        self.workers = workers
        self._free = collections.deque(range(workers + AHEAD))
        self._waiting: collections.deque[_Pending] = collections.deque()
        if workers:
            # A file without a name: nothing is left of it, however this process ends.
            shape = (len(self._free), batch_size, *task.shape)
            self._shared = SPAWN.RawArray(ctypes.c_ubyte, max(1, math.prod(shape)))
            self._memory = np.ndarray(shape, np.uint8, memoryview(self._shared))
            self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        lock = SPAWN.Lock()  # a new one: a worker that was killed may have kept it
        work = (self.task, self._shared, self._memory.shape, lock, self.workers)
        return ProcessPoolExecutor(self.workers, SPAWN, _start_worker, work)

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self.workers:
            # Waiting keeps the lock for workers that are still starting, and leaves none behind.
            self._pool.shutdown(cancel_futures=True)
            del self._pool

    def batches(self, paths: Iterable[str]) -> Iterator[Batch]:
        """Yield the images of paths in batches, in the order of paths.

        Raises ImageError if worker processes can't be started.
        """
        paths = iter(paths)
        while chunk := list(itertools.islice(paths, self.batch_size)):
            if not self.workers:
                pixels = np.empty((len(chunk), *self.task.shape), np.uint8)
                each = zip(chunk, pixels, strict=True)
                yield _batch([self.task.outcome(*one, nullcontext(), 1) for one in each], pixels)
                continue
            while not self._free:
                yield self._finish()
            slot = self._free.popleft()
            self._waiting.append((chunk, slot, self._decode(chunk, slot)))
        while self._waiting:
            yield self._finish()

    def _decode(self, paths: list[str], slot: int, start: int = 0) -> "Future[list[Outcome]]":
        _hold_interrupts(True)  # here worker processes are started
        try:
            return self._pool.submit(_decode, paths, slot, start, IMAGE_SECONDS)
        except BrokenProcessPool as error:  # raised again where the result is asked for
            broken: Future[list[Outcome]] = Future()
            broken.set_exception(error)
            return broken
        finally:
            _hold_interrupts(False)

    def _finish(self) -> Batch:
        """Return the oldest batch.

        When a worker dies, all batches that the workers had are lost. The oldest one is decoded
        image by image, which identifies the cause if it is there; new workers get the others.
        """
        paths, slot, future = self._waiting.popleft()
        try:
            outcomes = future.result()
        except BrokenProcessPool:
            self._restart()
            outcomes = [self._alone(path, slot, place) for place, path in enumerate(paths)]
            for number, (later, its_slot, lost) in enumerate(self._waiting):
                if lost.exception():
                    self._waiting[number] = later, its_slot, self._decode(later, its_slot)
        self._free.append(slot)
        return _batch(outcomes, self._memory[slot])

    def _alone(self, path: str, slot: int, place: int) -> Outcome:
        """Decode an image while nothing else is decoded; skip it if it kills its worker."""
        try:
            return self._decode([path], slot, place).result()[0]
        except BrokenProcessPool:
            self._restart()
            return Skipped(path, KILLED.format(IMAGE_SECONDS), unseen=True)

    def _restart(self) -> None:
        """Start new workers, after the last of the old ones has ended and writes no more."""
        self._pool.shutdown(wait=True)
        self._pool = self._new_pool()
        if self._decode([], 0).exception():
            raise ImageError("decode workers end as soon as they start; try --workers 0")
