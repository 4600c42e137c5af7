"""Upsert rows in threads of their own, while the network embeds the next images."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np

from similar_images.images.decoding import DecodedImage
from similar_images.milvus.collection import ImageCollection

MAX_WAITING = 4  # upserts that are queued or under way, beyond which add() waits


class RowWriter:
    """Upserts in threads of its own, so that embedding can continue; a context manager.

    How many rows a request has, and how many requests are under way at a time, the collection's
    client says. No path may be added twice: the later upsert could be stored before the earlier.
    `count` is called with each number of rows that Milvus has stored.
    """

    def __init__(self, collection: ImageCollection, count: Callable[[int], object]) -> None:
        self.collection = collection
        self.count = count
        self.written = 0
        self._rows: list[tuple[DecodedImage, np.ndarray]] = []
        self._upserts: set[Future[int]] = set()
        self._threads = ThreadPoolExecutor(collection.client.upserts_at_once)

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._threads.shutdown(wait=self.collection.client.is_own, cancel_futures=True)

    def add(self, images: list[DecodedImage], embeddings: np.ndarray) -> None:
        """Queue rows; raise the error of an earlier upsert, if there was one."""
        self._rows += zip(images, embeddings, strict=True)
        count = self.collection.client.rows_per_upsert(embeddings.shape[1])
        while len(self._rows) >= count:
            self._submit(count)
        self._wait(MAX_WAITING)

    def finish(self) -> None:
        """Wait until all rows are stored."""
        if self._rows:
            self._submit(len(self._rows))
        self._wait(0)

    def _submit(self, count: int) -> None:
        images, embeddings = zip(*self._rows[:count], strict=True)
        del self._rows[:count]
        self._upserts.add(self._threads.submit(self._upsert, images, np.stack(embeddings)))

    def _upsert(self, images: tuple[DecodedImage, ...], embeddings: np.ndarray) -> int:
        self.collection.upsert(images, embeddings)
        return len(images)

    def _wait(self, most: int) -> None:
        """Wait until at most so many upserts are queued or under way; count those that ended."""
        enough = False
        while not enough:
            enough = len(self._upserts) <= most
            ended, self._upserts = wait(self._upserts, 0 if enough else None, FIRST_COMPLETED)
            for upsert in ended:
                self.written += upsert.result()
                self.count(upsert.result())
