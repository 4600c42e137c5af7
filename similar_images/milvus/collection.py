"""The Milvus collection of images: rows in, rows out, search, index, properties."""

import typing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from similar_images.milvus.client import Client, CollectionError, redact
from similar_images.milvus.schema import (
    COLUMNS,
    KEY,
    VECTOR,
    Match,
    StoredImage,
    quoted,
    rows_of,
    schema_of,
)
from similar_images.milvus.vector_index import COSINE, FLAT, INNER_PRODUCT, CollectionIndex, Index
from similar_images.pictures.decoding import DecodedImage

PROPERTY_PREFIX = "similar_images."  # Milvus keeps properties of its own beside ours
LOAD, BEGUN, ENDED = "load", "begun", "ended"  # a property: whether the last load has ended
ROWS = "rows"  # a property: how many there were when it had
REQUEST_ROWS = 1000  # upserted or deleted in one request
SEARCH_QUERIES = 1000  # vectors in one request; Lite walks all its rows in Python for each
SEARCH_THREADS = 2  # requests at a time: Lite answers 5,000 queries in 4.8 s instead of 5.0
READ_ROWS = 16_384  # read in one request, the most Milvus gives: Lite walks all rows for each
READ_EMBEDDINGS = 4096  # likewise, with their embeddings: 8 MB
MAX_TOP_K = 16_384  # Milvus's own limit
RESUME = "run it again: what is loaded is kept"
STRONG = {"consistency_level": "Strong"}  # see every row that was written before
IN_ORDER = {"iterator": "True", "reduce_stop_for_best": "True"}  # of the key, least first


class ImageCollection:
    """One folder's pictures in Milvus: path, embedding, insertion time, size, and the model.

    properties: what the collection says of itself (root, weights, weights_sha256 and so on).
    """

    def __init__(self, client: Client, name: str) -> None:
        """Take an existing collection; CollectionError if it isn't one of ours."""
        self.client = client
        self.name = name
        self.index = CollectionIndex(client, name)
        description = client.ask("describe_collection", name, advice=client.damaged)
        columns = tuple(field["name"] for field in description["fields"])
        stored: Mapping[str, str] = description.get("properties", {})
        self.properties = {
            key.removeprefix(PROPERTY_PREFIX): str(value)
            for key, value in stored.items()
            if key.startswith(PROPERTY_PREFIX)
        }
        if columns != COLUMNS or "root" not in self.properties:
            raise CollectionError(
                f"the collection {name} was not made by embed_and_load.py and stays as it is; "
                "choose another --collection"
            )

    @classmethod
    def find(cls, client: Client, name: str) -> "ImageCollection | None":
        """Return the collection of that name, ready to be searched, or None if there is none.

        One that has lost its index can't be searched, but loaded into: see use_index().
        """
        if not client.ask("has_collection", name, advice=client.damaged):
            return None
        collection = cls(client, name)
        if collection.index.current():
            collection._open()
        return collection

    @classmethod
    def create(cls, client: Client, name: str, properties: Mapping[str, str]) -> "ImageCollection":
        """Make an empty collection that carries these properties, dimension among them."""
        kept = {PROPERTY_PREFIX + key: value for key, value in properties.items()}
        client.ask(
            "create_collection",
            name,
            schema=schema_of(int(properties["dimension"])),
            properties=kept,
            advice=client.damaged,
        )
        collection = cls(client, name)
        collection.use_index(FLAT)
        return collection

    def _open(self) -> None:
        """Make it searchable: a reopened or renamed collection can be 'released'."""
        self.client.ask("load_collection", self.name, advice=self.client.damaged)

    # --- Properties ---------------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """The folder that paths are relative to."""
        return Path(self.properties["root"])

    def set_properties(self, **properties: str) -> None:
        """Keep properties beside the rows, if they are not there yet."""
        if properties.items() <= self.properties.items():
            return
        kept = {PROPERTY_PREFIX + key: value for key, value in properties.items()}
        self.client.ask("alter_collection_properties", self.name, kept)
        self.properties.update(properties)

    @property
    def is_whole(self) -> bool:
        """Whether the last load of this collection has ended."""
        return self.properties.get(LOAD, ENDED) == ENDED and ROWS in self.properties

    # --- Rows ---------------------------------------------------------------------------------

    def upsert(self, images: Sequence[DecodedImage], embeddings: np.ndarray) -> None:
        """Put images in, or in place of the rows of the same paths.

        embeddings: (N, dimension) float32, unit length. Paths must differ from each other.
        """
        rows = rows_of(images, embeddings)
        for start in range(0, len(rows), REQUEST_ROWS):
            part = rows[start : start + REQUEST_ROWS]
            self.client.ask("upsert", self.name, part, advice=RESUME)

    def flush(self) -> None:
        """Make what was put in durable and searchable at full speed; once, at the end of a load."""
        self.client.ask("flush", self.name, advice=RESUME)
        self.client.settle()

    def delete(self, paths: Sequence[str]) -> None:
        """Remove the rows of these paths."""
        for start in range(0, len(paths), REQUEST_ROWS):
            chosen = f"{KEY} in [{', '.join(map(quoted, paths[start : start + REQUEST_ROWS]))}]"
            self.client.ask("delete", self.name, filter=chosen, advice=RESUME)

    def count(self, expression: str = "") -> int:
        """Return the exact number of rows, or of those for which a Milvus filter is true."""
        if expression and self.client.reads_rows_to_count:
            return sum(map(len, self._pages((KEY,), READ_ROWS, expression)))
        answer = self.client.ask(
            "query",
            self.name,
            filter=expression,
            output_fields=["count(*)"],
            advice="check --filter" if expression else RESUME,
            **STRONG,
        )
        return int(answer[0]["count(*)"])

    def stored_images(self) -> Iterator[StoredImage]:
        """Yield what is known of each picture's file, in the order of paths."""
        for page in self._pages(StoredImage._fields, READ_ROWS):
            for row in page:
                yield StoredImage(row["path"], row["file_size"], row["modified_at"])

    def stored_embeddings(self, expression: str = "") -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield all rows, a page at a time: paths, and embeddings (N, dimension) float32."""
        for page in self._pages((KEY, VECTOR), READ_EMBEDDINGS, expression):
            embeddings = np.array([row[VECTOR] for row in page], np.float32)
            yield [row[KEY] for row in page], embeddings

    def _pages(
        self, columns: Sequence[str], rows_a_page: int, expression: str = ""
    ) -> Iterator[list[dict[str, typing.Any]]]:
        """Yield rows in the order of their keys; each page asks for what comes after the last.

        pymilvus's own iterator puts that key into its filter unescaped. A server doesn't wait for
        rows just written when it is asked in order, so that it is asked for their count before.
        """
        if not self.count():
            return

        def page_after(last: str | None) -> list[dict[str, typing.Any]]:
            after = f"{KEY} > {quoted(last)}" if last is not None else f'{KEY} != ""'
            return list(
                self.client.ask(
                    "query",
                    self.name,
                    filter=f"({expression}) and {after}" if expression else after,
                    output_fields=list(columns),
                    limit=rows_a_page,
                    advice=self.client.damaged,
                    **IN_ORDER,
                    **STRONG,
                )
            )

        with ThreadPoolExecutor(1) as pool:  # the next page comes while this one is used
            coming, before = pool.submit(page_after, None), ""
            while page := coming.result():
                last = page[-1][KEY]
                if last <= before:  # it would never end
                    raise CollectionError(f"{self.name} can't be read in order; {RESUME}")
                before = last
                coming = pool.submit(page_after, last)
                yield page

    # --- Search -------------------------------------------------------------------------------

    def search(
        self,
        embeddings: np.ndarray,
        top_k: int = 1,
        expression: str = "",
        parameters: Mapping[str, int] | None = None,
    ) -> Iterator[list[list[Match]]]:
        """Yield each query's top_k nearest images, nearest first, SEARCH_QUERIES at a time.

        embeddings: (N, dimension) float32, unit length. `expression` is a Milvus filter on the
        row's columns; with it, or in a small collection, a query can have fewer matches.
        `parameters` are the index's own.
        """
        # Of unit length, two embeddings have their cosine as their product. Without an index Lite
        # takes either, but for cosines it makes all embeddings unit length once more.
        metric = COSINE if self.index.built() else INNER_PRODUCT

        def request(start: int) -> list[list[Match]]:
            answers = self.client.ask(
                "search",
                self.name,
                data=list(embeddings[start : start + SEARCH_QUERIES]),
                limit=top_k,
                filter=expression,
                output_fields=[KEY],
                search_params={"metric_type": metric, "params": dict(parameters or {})},
                advice="check --filter" if expression else "run it again",
                **STRONG,
            )
            return [
                [Match(hit[KEY], min(hit["distance"], 1.0)) for hit in hits] for hits in answers
            ]

        with ThreadPoolExecutor(SEARCH_THREADS) as pool:
            yield from pool.map(request, range(0, len(embeddings), SEARCH_QUERIES))

    def use_index(self, kind: Index) -> bool:
        """Have it searched this way from now on; return whether it was not before."""
        before = self.index.current().get("index_type")
        if not self.index.build(kind):
            return False
        self._open()
        return before != kind.type

    # --- As a whole ---------------------------------------------------------------------------

    def drop(self) -> None:
        """Remove the collection and all that it holds."""
        self.client.ask("drop_collection", self.name)

    def rename(self, name: str) -> None:
        """Give the collection another name."""
        self.client.ask("rename_collection", self.name, name)
        self.name = self.index.name = name
        self._open()


def existing_collection(client: Client, name: str) -> ImageCollection:
    """Return the collection to search; CollectionError if there is none, or none to be searched."""
    collection = ImageCollection.find(client, name)
    where = f"{name} in {redact(client.uri)}"
    if collection is None:
        raise CollectionError(f"there is no collection {where}; run python embed_and_load.py")
    if not collection.index.current():
        raise CollectionError(
            f"the collection {where} has lost its index; run python embed_and_load.py"
        )
    return collection
