"""Upsert rows in a thread of their own, while the network embeds the next images."""

import collections
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from similar_images.milvus.collection import ImageCollection
from similar_images.pictures.decoding import DecodedImage

UPSERT_ROWS = 256  # on Milvus Lite a row costs the same from 64 to 1,000 at a time: 0.15 ms
MAX_WAITING = 4  # queued upserts, beyond which add() waits


class Counter(Protocol):
    """Anything that counts images, such as a progress bar."""

    def update(self, count: int, /) -> object:
        """Count this many more."""


class RowWriter:
    """Upserts in a thread of its own, so that embedding can continue; a context manager.

    `progress` counts only rows that Milvus has stored.
    """

    def __init__(self, collection: ImageCollection, progress: Counter) -> None:
        self.collection = collection
        self.progress = progress
        self.written = 0
        self._images: list[DecodedImage] = []
        self._embeddings: list[np.ndarray] = []
        self._upserts: collections.deque[tuple[int, Future[None]]] = collections.deque()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error:
            self.collection.client.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def add(self, images: list[DecodedImage], embeddings: np.ndarray) -> None:
        """Queue rows; raise the error of an earlier upsert, if there was one."""
        self._images += images
        self._embeddings.append(embeddings)
        if len(self._images) >= UPSERT_ROWS:
            self._submit()
        while self._upserts and (self._upserts[0][1].done() or len(self._upserts) > MAX_WAITING):
            self._finish_one()

    def finish(self) -> None:
        """Wait until all rows are stored."""
        if self._images:
            self._submit()
        while self._upserts:
            self._finish_one()

    def _submit(self) -> None:
        rows = self._images, np.concatenate(self._embeddings)
        self._upserts.append((len(rows[0]), self._thread.submit(self.collection.upsert, *rows)))
        self._images, self._embeddings = [], []

    def _finish_one(self) -> None:
        count, upsert = self._upserts.popleft()
        upsert.result()
        self.written += count
        self.progress.update(count)
