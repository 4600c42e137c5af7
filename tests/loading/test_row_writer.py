"""Rows on their way to Milvus: how many in a request, several requests at a time, errors."""

import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from helpers import both_engines
from milvus_proxy import running_proxy
from milvus_server import Server

from similar_images.images.decoding import DecodedImage
from similar_images.images.image_files import MAX_PATH_BYTES
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus import client as milvus
from similar_images.milvus.client import Client, CollectionError, is_lite
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.connection import connect
from similar_images.milvus.lite import LiteClient

MESSAGE_BYTES = 64 * 2**20  # that a server takes


def new_collection(client: Client, dimension: int) -> ImageCollection:
    properties = {"root": "/nowhere", "dimension": str(dimension)}
    return ImageCollection.create(client, "images", properties)


def images_of(numbers: range, name: str = "{:05}.png") -> list[DecodedImage]:
    return [DecodedImage(name.format(n), n + 1, n, 32, 33) for n in numbers]


def batches(vectors: np.ndarray) -> Iterator[tuple[list[DecodedImage], np.ndarray]]:
    """Batches of all sizes from none to more than two requests hold, with their images."""
    start = 0
    for size in (0, 1, 700, 16, 299, len(vectors)):
        stop = min(start + size, len(vectors))
        yield images_of(range(start, stop)), vectors[start:stop]
        start = stop


@both_engines
@pytest.mark.parametrize(("dimension", "on_server"), [(8, 1000), (2048, 256)])
def test_every_row_arrives_once(
    dimension: int, on_server: int, milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server from two requests at a time: each waits for another. On Lite from one."""
    count = on_server + 500
    vectors = np.random.default_rng(0).standard_normal((count, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    upsert, sizes, under_way = ImageCollection.upsert, [], threading.Lock()
    two = threading.Barrier(2, timeout=60)

    def noted(self: ImageCollection, images: list[DecodedImage], some: np.ndarray) -> None:
        sizes.append(len(images))
        if is_lite(milvus):
            assert under_way.acquire(blocking=False), "Lite is written to by two threads"
        elif len(sizes) <= 2:
            two.wait()
        upsert(self, images, some)
        if is_lite(milvus):
            under_way.release()

    monkeypatch.setattr(ImageCollection, "upsert", noted)
    counts: list[int] = []
    with connect(milvus) as client:
        collection = new_collection(client, dimension)
        with RowWriter(collection, counts.append) as writer:
            for images, some in batches(vectors):
                writer.add(images, some)
            writer.finish()
        assert sum(counts) == writer.written == collection.count() == count
        stored = list(collection.stored_embeddings())
        described = list(collection.stored_images())
    in_request = 256 if is_lite(milvus) else on_server
    assert sorted(sizes) == sorted([in_request] * (count // in_request) + [count % in_request])
    assert [path for paths, _ in stored for path in paths] == [f"{n:05}.png" for n in range(count)]
    np.testing.assert_array_equal(np.concatenate([some for _, some in stored]), vectors)
    assert [image.file_size for image in described] == list(range(1, count + 1))


@pytest.mark.parametrize("kind", [Client, LiteClient])
def test_a_request_is_smaller_than_a_message_may_be(kind: type[Client]) -> None:
    client = kind(None, "")  # type: ignore[arg-type]
    others = 200  # bytes of a row's numbers, and of what describes them
    for dimension in range(1, 2**15 + 1):
        count = client.rows_per_upsert(dimension)
        assert 1 <= count <= 1000
        assert count * (4 * dimension + MAX_PATH_BYTES + others) < MESSAGE_BYTES / 4


@both_engines
@pytest.mark.parametrize("dimension", [2, 2**15])
def test_the_largest_requests_are_taken(dimension: int, milvus: str) -> None:
    """The most and the longest vectors, with the longest paths."""
    with connect(milvus) as client:
        collection = new_collection(client, dimension)
        images = images_of(range(client.rows_per_upsert(dimension)), "{:04096}")
        collection.upsert(images, np.eye(len(images), dimension, dtype=np.float32))
        assert collection.count() == len(images)


def test_an_error_ends_a_load_while_another_request_is_repeated(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus, "RETRY_SECONDS", 20)
    monkeypatch.setattr(Client, "upsert_rows", 2)
    options = {"grpc.max_receive_message_length": 5000}
    counts: list[int] = []
    vectors = np.eye(2, 4, dtype=np.float32)
    with running_proxy(server.uri, options) as proxy, connect(proxy.uri) as client:
        collection = new_collection(client, 4)
        proxy.code, proxy.refusals = grpc.StatusCode.UNAVAILABLE, 10**6
        proxy.methods = ("Upsert",)

        def write() -> None:
            with RowWriter(collection, counts.append) as writer:
                writer.add(images_of(range(2)), vectors)
                writer.add(images_of(range(2), "{:04000}.png"), vectors)
                writer.finish()

        with pytest.raises(CollectionError, match=r"larger than max.*what is loaded is kept$"):
            write()
        assert not collection.count()
        assert not counts
