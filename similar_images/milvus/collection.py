"""The Milvus collection of images: rows, search, index, properties."""

import contextlib
import re
import secrets
import time
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from similar_images import __version__
from similar_images.console import RUN_AGAIN, warn
from similar_images.images.decoding import DecodedImage
from similar_images.images.image_files import NO_PHOTOGRAPHS
from similar_images.milvus.client import (
    Client,
    CollectionError,
    DeniedError,
    NoCollectionError,
    redact,
)
from similar_images.milvus.schema import (
    COLUMNS,
    HASH,
    KEY,
    LATER,
    TEXTS,
    VECTOR,
    Match,
    StoredImage,
    quoted,
    schema_of,
)
from similar_images.milvus.vector_index import (
    COSINE,
    FLAT,
    INDEX_CHOICES,
    INNER_PRODUCT,
    METRIC,
    Index,
    describe_index,
    replace_index,
)
from similar_images.text import counted

PROPERTY_PREFIX = "similar_images."  # Milvus stores properties of its own beside ours
LOAD, BEGUN, ENDED = "load", "begun", "ended"  # a property: whether the last load is complete
LABELS = "labels"  # a property: the file that they are from; none for the folders' names
EXCLUDE = "exclude"  # a property: the names that are left out of the folder, a "/" between them
PRECISION = "precision"  # a property: in which most of the images were embedded, in words
ROWS = "rows"  # a property: the number of rows when it was completed
PATHS_AT_ONCE = 1000  # deleted or read by path in one request
HASHES_AT_ONCE = 10_000  # looked up in one request
SEARCH_QUERIES = 1000  # vectors in one request; Lite walks all its rows in Python for each request
SEARCH_MATCHES = 100_000  # in one answer, at most; each takes more than 1 kB in pymilvus's form
SEARCH_THREADS = 2  # requests at a time: Lite answers 5,000 queries in 4.8 s instead of 5.0
READ_ROWS = 16_384  # read in one request, Milvus's maximum: Lite walks all rows for each request
READ_EMBEDDINGS = 4096  # the same with embeddings: 8 MB of 512 dimensions
VECTOR_BYTES = 32 * 2**20  # of vectors in a request or an answer: servers take 64 and send 100 MB
MAX_TOP_K = 16_384  # Milvus's limit
RESUME = "run it again: what is loaded is kept"
CHECK_FILTER = "check --filter"
STRONG = {"consistency_level": "Strong"}  # every row written before is seen
IN_ORDER = {"iterator": "True", "reduce_stop_for_best": "True"}  # by ascending key


class ImageCollection:
    """The images of one folder in Milvus: a row for each, and properties.

    Milvus has it under a name of its own that is never used again, and `name` is an alias, which
    another collection can take: see replace(). Requests go to the own name, and so never to
    another collection than the one that was opened.

    properties: root, weights, weights_sha256 and so on. On a server they are untrusted.
    index: how it is searched: index_type and so on; empty if it cannot be. lacks: columns that it
    lacks because an earlier version made it; check_columns() refuses it.
    """

    def __init__(self, client: Client, name: str, own_name: str | None = None) -> None:
        """Open an existing collection; own_name: if no alias leads to it yet.

        Raises NoCollectionError, or CollectionError if embed_and_load.py did not make it.
        """
        self.client = client
        self.name = name
        describe, asked = client.milvus.describe_collection, own_name or name
        description = client.ask(describe, asked, advice=client.damaged)
        self.own_name: str = description["collection_name"]
        fields = {field["name"]: field for field in description["fields"]}
        stored: Mapping[str, str] = description.get("properties", {})
        self.properties = {
            key.removeprefix(PROPERTY_PREFIX): str(value)
            for key, value in stored.items()
            if key.startswith(PROPERTY_PREFIX)
        }
        self.lacks = LATER if tuple(fields) == COLUMNS[: -len(LATER)] else ()
        if tuple(fields) not in (COLUMNS, COLUMNS[: -len(LATER)]) or not _is_valid(
            self.properties, str(fields[VECTOR]["params"]["dim"])
        ):
            raise CollectionError(
                f'the collection "{asked}" was not made by embed_and_load.py and stays as it is; '
                "choose another --collection"
            )
        self.index = describe_index(client, self.own_name)

    @classmethod
    def find(
        cls, client: Client, name: str, own_name: str | None = None
    ) -> "ImageCollection | None":
        """Return the collection of that name, ready for searches, or None if there is none.

        A collection without an index can be loaded into, but not searched: see use_index().
        """
        try:
            collection = cls(client, name, own_name)
        except NoCollectionError:
            return None
        if collection.index:
            load = client.milvus.load_collection
            with contextlib.suppress(DeniedError):  # who may only read can search what is loaded
                client.ask(load, collection.own_name, advice=client.damaged)
        return collection

    @classmethod
    def create(
        cls, client: Client, name: str, properties: Mapping[str, str], beside: bool = False
    ) -> "ImageCollection":
        """Create an empty collection with these properties, among them dimension.

        beside: leave the name to the collection that has it, until replace().
        """
        kept = {PROPERTY_PREFIX + key: value for key, value in properties.items()}
        own_name = f"{name}__{secrets.token_hex(4)}"
        client.ask(
            client.milvus.create_collection,
            own_name,
            schema=schema_of(int(properties["dimension"])),
            properties=kept | {f"{PROPERTY_PREFIX}version": __version__},
            advice=client.damaged,
        )
        collection = cls(client, name, own_name)
        collection.use_index(FLAT)
        if not beside:
            client.ask(client.milvus.create_alias, own_name, name, advice=client.damaged)
        return collection

    @classmethod
    def nameless(cls, client: Client, name: str) -> "Iterator[ImageCollection]":
        """Yield the collections that were created beside that of this name and have no alias."""
        for own_name in sorted(client.ask(client.milvus.list_collections)):
            if re.fullmatch(rf"{name}__[0-9a-f]{{8}}", own_name):
                collection = cls.find(client, name, own_name)
                if collection and not collection.aliases():
                    yield collection

    def check_columns(self) -> None:
        """Raise CollectionError if an earlier version made the collection."""
        if self.lacks:
            raise CollectionError(
                f'the collection "{self.name}" was made by an earlier version, without the columns '
                f"{', '.join(self.lacks)}; load the images again: python embed_and_load.py "
                "--recreate"
            )

    # --- Properties ---------------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """The folder that the paths are relative to."""
        return Path(self.properties["root"])

    @property
    def excluded(self) -> tuple[str, ...]:
        """The names and globs that are left out of the folder."""
        recorded = self.properties.get(EXCLUDE, "/".join(NO_PHOTOGRAPHS))  # 1.0 recorded none
        return tuple(filter(None, recorded.split("/")))

    def set_properties(self, **properties: str) -> None:
        """Store properties, unless they are stored already."""
        if properties.items() <= self.properties.items():
            return
        kept = {PROPERTY_PREFIX + key: value for key, value in properties.items()}
        self.client.ask(self.client.milvus.alter_collection_properties, self.own_name, kept)
        self.properties.update(properties)

    @property
    def is_whole(self) -> bool:
        """Whether the last load of this collection is complete."""
        return self.properties.get(LOAD, ENDED) == ENDED and ROWS in self.properties

    # --- Rows ---------------------------------------------------------------------------------

    def upsert(self, images: Sequence[DecodedImage], embeddings: np.ndarray) -> None:
        """Insert rows in one request, replacing those with the same paths.

        embeddings: (N, dimension) float32, unit length. No path may occur twice, and N may be at
        most client.rows_per_upsert(dimension).
        """
        now = time.time_ns() // 1_000_000
        rows = [
            {VECTOR: embedding, "inserted_at": now, **image._asdict()}
            for image, embedding in zip(images, embeddings, strict=True)
        ]
        self.client.ask(self.client.milvus.upsert, self.own_name, rows, advice=RESUME)

    def flush(self) -> None:
        """Make the rows durable and searchable at full speed; once, at the end of a load."""
        self.client.ask(self.client.milvus.flush, self.own_name, advice=RESUME)
        self.client.settle()

    def delete(self, paths: Sequence[str]) -> None:
        """Delete the rows of these paths."""
        for start in range(0, len(paths), PATHS_AT_ONCE):
            chosen = _one_of(paths[start : start + PATHS_AT_ONCE])
            self.client.ask(self.client.milvus.delete, self.own_name, filter=chosen, advice=RESUME)

    def count(self, expression: str = "") -> int:
        """Return the exact number of rows, or of those for which a Milvus filter is true."""
        if expression and self.client.is_own:  # Lite would read all columns of the rows at once
            return sum(map(len, self._pages((KEY,), READ_ROWS, expression)))
        advice = CHECK_FILTER if expression else RESUME
        return int(self._query(expression, ["count(*)"], advice)[0]["count(*)"])

    def check_filter(self, expression: str) -> None:
        """Raise CollectionError if a Milvus filter can't be applied."""
        if expression:
            self._query(expression, [KEY], CHECK_FILTER, limit=1)

    def _query(
        self, expression: str, columns: Sequence[str], advice: str, **options: typing.Any
    ) -> list[dict[str, typing.Any]]:
        options |= {"filter": expression, "output_fields": [*columns], **STRONG}
        return list(
            self.client.ask(self.client.milvus.query, self.own_name, advice=advice, **options)
        )

    def stored_images(self) -> Iterator[StoredImage]:
        """Yield each image's file and label, ordered by path."""
        for page in self._pages(StoredImage._fields, READ_ROWS):
            for row in page:
                yield StoredImage(*(row[column] for column in StoredImage._fields))

    def stored_embeddings(self, expression: str = "") -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield rows, a page at a time: paths, and embeddings of shape (N, dimension), float32."""
        for page in self._pages((KEY, VECTOR), self._at_once(READ_EMBEDDINGS), expression):
            embeddings = np.array([row[VECTOR] for row in page], np.float32)
            yield [row[KEY] for row in page], embeddings

    def stored_rows(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield rows with all columns, a page at a time, ordered by path; the columns by name."""
        for page in self._pages(COLUMNS, self._at_once(READ_EMBEDDINGS)):
            types = {**dict.fromkeys(TEXTS, np.str_), VECTOR: np.float32}
            yield {c: np.array([row[c] for row in page], types.get(c, np.int64)) for c in COLUMNS}

    def embeddings_of(self, paths: Sequence[str]) -> Iterator[tuple[DecodedImage, np.ndarray]]:
        """Yield the rows that these paths have, in no particular order: (dimension,) float32."""
        columns, at_once = (*DecodedImage._fields, VECTOR), self._at_once(PATHS_AT_ONCE)
        for start in range(0, len(paths), at_once):
            for row in self._query(_one_of(paths[start : start + at_once]), columns, RESUME):
                stored = DecodedImage(*(row[column] for column in DecodedImage._fields))
                yield stored, np.array(row[VECTOR], np.float32)

    def paths_of(self, hashes: Sequence[str]) -> dict[str, str]:
        """Return the path of a row of each content hash that a row has."""
        found: dict[str, str] = {}
        for start in range(0, len(hashes), HASHES_AT_ONCE):
            some = _one_of(hashes[start : start + HASHES_AT_ONCE], HASH)
            found |= {row[HASH]: row[KEY] for row in self._query(some, (HASH, KEY), RESUME)}
        return found

    def _at_once(self, most: int) -> int:
        """Return how many rows with vectors, at most, to read or search for in one request."""
        return max(1, min(most, VECTOR_BYTES // (4 * int(self.properties["dimension"]))))

    def _pages(
        self, columns: Sequence[str], rows_a_page: int, expression: str = ""
    ) -> Iterator[list[dict[str, typing.Any]]]:
        """Yield pages of rows ordered by key; each page starts after the last key of the previous.

        pymilvus's own iterator puts that key into its filter unescaped. An ordered query does not
        make a server wait for rows that were just written; counting them first does.
        """
        if not self.count():
            return

        def page_after(last: str) -> list[dict[str, typing.Any]]:
            after = f"{KEY} > {quoted(last)}"
            wanted = f"({expression}) and {after}" if expression else after
            advice = CHECK_FILTER if expression else self.client.damaged
            return self._query(wanted, columns, advice, limit=rows_a_page, **IN_ORDER)

        with self.client.threads(1) as pool:  # reads the next page while this one is used
            coming = pool.submit(page_after, "")
            while page := coming.result():
                coming = pool.submit(page_after, page[-1][KEY])
                yield page

    # --- Search -------------------------------------------------------------------------------

    def search(
        self,
        embeddings: np.ndarray,
        top_k: int = 1,
        expression: str = "",
        parameters: Mapping[str, int] | None = None,
    ) -> Iterator[list[list[Match]]]:
        """Yield each query's top_k nearest images, nearest first, some queries at a time.

        embeddings: (N, dimension) float32, unit length. expression: a Milvus filter on the
        columns; with a filter, or in a small collection, a query may have fewer matches.
        parameters: search parameters of the index.
        """
        # For vectors of unit length, inner product and cosine are equal. Without an index Lite
        # computes either, but for COSINE it normalises all embeddings again.
        metric = COSINE if METRIC in self.index else INNER_PRODUCT
        at_once = max(1, min(self._at_once(SEARCH_QUERIES), SEARCH_MATCHES // top_k))
        _, *others = StoredImage._fields

        def request(start: int) -> list[list[Match]]:
            answers = self.client.ask(
                self.client.milvus.search,
                self.own_name,
                data=list(embeddings[start : start + at_once]),
                limit=top_k,
                filter=expression,
                output_fields=[*StoredImage._fields],
                search_params={"metric_type": metric, "params": dict(parameters or {})},
                advice=CHECK_FILTER if expression else RUN_AGAIN,
                **STRONG,
            )
            return [
                [
                    Match(hit[KEY], min(hit["distance"], 1.0), *(hit[name] for name in others))
                    for hit in hits
                ]
                for hits in answers
            ]

        with self.client.threads(SEARCH_THREADS) as pool:
            yield from pool.map(request, range(0, len(embeddings), at_once))

    def use_index(self, kind: Index) -> bool:
        """Search with this kind of index from now on; return whether that is a change."""
        client, before = self.client, self.index
        if not replace_index(client, self.own_name, before, kind):
            return False
        client.ask(client.milvus.load_collection, self.own_name, advice=client.damaged)
        self.index = describe_index(client, self.own_name)
        return before.get("index_type") != kind.type

    # --- As a whole ---------------------------------------------------------------------------

    def aliases(self) -> list[str]:
        """Return the aliases that lead to the collection."""
        return list(self.client.ask(self.client.milvus.list_aliases, self.own_name)["aliases"])

    def drop(self) -> None:
        """Delete the collection with all its rows; a server refuses while it has an alias."""
        self.client.ask(self.client.milvus.drop_collection, self.own_name)

    def replace(self) -> None:
        """Take the name, and all other aliases, of the collection that has it; drop that one.

        Each alias moves in one step. A collection of this very name must go before its name can
        become an alias.
        """
        ask, milvus = self.client.ask, self.client.milvus
        old = ImageCollection.find(self.client, self.name)
        if old and old.own_name == self.own_name:
            return
        aliases = old.aliases() if old else []
        for alias in aliases:
            ask(milvus.alter_alias, self.own_name, alias)
        if old:
            old.drop()
        if self.name not in aliases:
            ask(milvus.create_alias, self.own_name, self.name)


def _one_of(values: Sequence[str], column: str = KEY) -> str:
    """Return the filter for the rows with these values, by default paths."""
    return f"{column} in [{', '.join(map(quoted, values))}]"


def _is_valid(properties: Mapping[str, str], dimension: str) -> bool:
    """Return whether embed_and_load.py can have written these properties.

    dimension: of the vectors; Milvus 2.3 can fail when it is asked for others.
    """
    patterns = {"index": "|".join(INDEX_CHOICES), ROWS: "[0-9]{1,18}", "dimension": dimension}
    return {"root", "dimension"} <= properties.keys() and all(
        re.fullmatch(patterns.get(name, r"[^\0]*"), value) for name, value in properties.items()
    )


def existing_collection(client: Client, name: str, own_name: str | None = None) -> ImageCollection:
    """Return the collection, ready for searches; CollectionError if there is none or no index."""
    collection = ImageCollection.find(client, name, own_name)
    where = f'"{name}" in {redact(client.uri)}'
    if collection is None:
        raise CollectionError(f"there is no collection {where}; run python embed_and_load.py")
    collection.check_columns()
    if not collection.index:
        raise CollectionError(
            f"the collection {where} has lost its index; run python embed_and_load.py"
        )
    return collection


def warn_if_incomplete(collection: ImageCollection) -> None:
    """Warn that the last load has not ended, or that rows were lost since.

    CollectionError if there are none.
    """
    again = "run python embed_and_load.py"
    images, loaded = collection.count(), int(collection.properties.get(ROWS, "0"))
    if not images:
        raise CollectionError(f'the collection "{collection.name}" holds no images; {again}')
    if not collection.is_whole:
        warn(
            f'a load of the collection "{collection.name}" was interrupted, or is still running: '
            f"it holds {counted(images, 'image')} so far; {again} to load the rest"
        )
    elif images < loaded:
        warn(
            f'the collection "{collection.name}" holds {images:,} of the {loaded:,} images that '
            f"were loaded; {again} to put the others back"
        )
