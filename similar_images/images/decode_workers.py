"""Worker processes that decode and examine images, a batch at a time."""

import collections
import contextlib
import ctypes
import faulthandler
import itertools
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from similar_images.images.decode_task import Batch, Task, decode_batch
from similar_images.images.decoding import DecodedImage
from similar_images.images.image_files import ImageError, Skipped

IMAGE_SECONDS = 120  # a worker that decodes one image for longer is ended
KILLED = "a decode worker was killed while it decoded it (out of memory?)"
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a container's quota and period, in microseconds
FEW_IMAGES = 64  # are decoded before more than one worker process has started
SPAWN = multiprocessing.get_context("spawn")  # a fork copies locks that threads hold


def core_count() -> int:
    """Return how many cores this process may use; torchrun's processes on a machine share them.

    A container may see all cores of the machine but be limited to the time of a few.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit: "max"
        quota, period = map(int, CPU_QUOTA.read_text().split())
        cores = min(cores, -(-quota // period))
    sharing = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores // max(1, int(sharing) if sharing.isdecimal() else 1))


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Block Ctrl-C in this thread and, for good, in the processes that are started meanwhile.

    A new process imports modules before end_with_parent() is called.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    """A worker process's task, and the memory for its results: (slots, N, *shape) uint8."""

    task: Task
    slots: np.ndarray
    seconds: float  # for one image
    null_device: int  # a file descriptor


Decoded = tuple[list[DecodedImage], list[Any], list[Skipped]]
_work: _Work | None = None  # this worker process's


def _start_worker(task: Task, memory: Any, shape: tuple[int, ...], seconds: float) -> None:
    """Prepare this worker process: note its work, and end with the parent."""
    global _work
    null_device = os.open(os.devnull, os.O_WRONLY)
    _work = _Work(task, _as_array(memory, shape), seconds, null_device)
    end_with_parent()


def _as_array(memory: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(memoryview(memory), np.uint8, math.prod(shape)).reshape(shape)


def _decode_into(slot: int, start: int, paths: list[str]) -> Decoded:
    """In a worker process: decode images into a slot, from its place `start` on.

    The process ends if one of them takes too long, even in C code that never returns. The alarm
    for that starts a thread, which takes as long as decoding a small image: after quick images
    it is not set anew, and may come a hundredth too early.
    """
    assert _work is not None
    images: list[DecodedImage] = []
    examined: list[Any] = []
    skipped: list[Skipped] = []
    alarm_set = -math.inf
    for path in paths:
        if time.monotonic() - alarm_set > _work.seconds / 100:
            faulthandler.dump_traceback_later(_work.seconds, exit=True, file=_work.null_device)
            alarm_set = time.monotonic()
        out = _work.slots[slot, start + len(images) :]
        batch = decode_batch(_work.task, [path], out)
        images += batch.images
        examined += batch.examined
        skipped += batch.skipped
    faulthandler.cancel_dump_traceback_later()
    return images, examined, skipped


@dataclass
class _Pending:
    """A batch that was given to the worker processes."""

    slot: int
    paths: list[str]
    future: "Future[Decoded]"


class Decoder:
    """Worker processes that decode images into shared memory; a context manager.

    `ahead` batches are decoded before they are asked for; a batch's memory is used again once it
    is released. An image whose decoding takes longer than IMAGE_SECONDS, or whose worker is
    killed or crashes, is skipped, and the others are decoded all the same. With workers=0 the
    calling process decodes, and nothing protects it from such an image.
    """

    def __init__(self, task: Task, batch_size: int, workers: int, ahead: int = 4) -> None:
        """Start the workers."""
        self.task = task
        self.batch_size = batch_size
        self.workers = workers
        self.slots = workers + ahead
        self._free = collections.deque(range(self.slots))
        self._waiting: collections.deque[_Pending] = collections.deque()
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            # A file without a name: nothing is left of it, however this process ends.
            shape = (self.slots, batch_size, *task.shape)
            self._shared = SPAWN.RawArray(ctypes.c_ubyte, max(1, math.prod(shape)))
            self._memory = _as_array(self._shared, shape)
            self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        work = (self.task, self._shared, self._memory.shape, IMAGE_SECONDS)
        return ProcessPoolExecutor(self.workers, SPAWN, _start_worker, work)

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool:
            self._pool.shutdown(wait=kind is not None, cancel_futures=True)  # idle, they end alone

    def batches(self, paths: Iterable[str]) -> Iterator[Batch]:
        """Yield the images of paths in batches, in the order of paths.

        Raises ImageError if worker processes can't be started.
        """
        chunks = _chunked(paths, self.batch_size)
        if not self._pool:
            for chunk in chunks:
                yield decode_batch(
                    self.task, chunk, np.empty((len(chunk), *self.task.shape), np.uint8)
                )
            return
        for chunk in chunks:
            while not self._free:
                yield self._finish()
            slot = self._free.popleft()
            self._waiting.append(_Pending(slot, chunk, self._submit(slot, 0, chunk)))
        while self._waiting:
            yield self._finish()

    def release(self, batch: Batch) -> None:
        """Give a batch's memory back; its pixels must not be used any more."""
        if batch.slot is not None:
            self._free.append(batch.slot)

    def _submit(self, slot: int, start: int, paths: list[str]) -> "Future[Decoded]":
        assert self._pool
        try:
            with interrupts_held():  # here worker processes are started
                return self._pool.submit(_decode_into, slot, start, paths)
        except BrokenProcessPool as error:  # raised again where the result is asked for
            broken: Future[Decoded] = Future()
            broken.set_exception(error)
            return broken

    def _finish(self) -> Batch:
        """Return the oldest batch.

        When a worker dies, all batches that the workers had are lost. The oldest one is decoded
        image by image, which identifies the image that caused it, if it is among them; the
        others are given to new workers.
        """
        oldest = self._waiting.popleft()
        try:
            images, examined, skipped = oldest.future.result()
        except BrokenProcessPool:
            self._restart()
            images, examined, skipped = self._one_by_one(oldest)
            for pending in self._waiting:
                if pending.future.exception():
                    pending.future = self._submit(pending.slot, 0, pending.paths)
        pixels = self._memory[oldest.slot, : len(images)]
        return Batch(pixels, images, examined, skipped, oldest.slot)

    def _restart(self) -> None:
        """Start new workers, after the last of the old ones has ended and writes no more."""
        assert self._pool
        self._pool.shutdown(wait=True)
        self._pool = self._new_pool()

    def _one_by_one(self, batch: _Pending) -> Decoded:
        """Decode a batch's images alone; skip those that kill their worker."""
        images: list[DecodedImage] = []
        examined: list[Any] = []
        skipped: list[Skipped] = []
        for path in batch.paths:
            self._check_alive()
            began = time.monotonic()
            try:
                decoded, found, failed = self._submit(batch.slot, len(images), [path]).result()
                images += decoded
                examined += found
                skipped += failed
            except BrokenProcessPool:
                late = time.monotonic() - began >= IMAGE_SECONDS
                reason = f"decoding it takes more than {IMAGE_SECONDS} s" if late else KILLED
                skipped.append(Skipped(path, reason, unseen=True))
                self._restart()
        return images, examined, skipped

    def _check_alive(self) -> None:
        """Make sure that a worker answers: a dead one would make it skip an innocent image."""
        assert self._pool
        for _ in range(2):
            with contextlib.suppress(BrokenProcessPool):
                self._pool.submit(os.getpid).result()
                return
            self._restart()
        raise ImageError("decode workers end as soon as they start; try --workers 0")


def _chunked(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
