"""The Milvus collection of images: what a row holds, how rows go in, how they are found.

Everything that differs between Milvus Lite (a file) and a Milvus server is handled here.
pymilvus takes half a second to import, so it is imported when a collection is opened.
"""

import argparse
import contextlib
import errno
import functools
import logging
import os
import re
import threading
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np

from command_line import warn
from image_files import MAX_PATH_BYTES, DecodedImage

if typing.TYPE_CHECKING:
    from pymilvus import MilvusClient
    from pymilvus.milvus_client.index import IndexParams
    from pymilvus.orm.schema import CollectionSchema

DEFAULT_URI = "./milvus.db"
DEFAULT_NAME = "images"
DIMENSION = 512
METRIC = "COSINE"
INTEGER_FIELDS = ("inserted_at", "file_size", "width", "height", "modified_at")
FIELDS = ("path", "embedding", *INTEGER_FIELDS)
PROPERTY_PREFIX = "similar_images."  # Milvus keeps properties of its own beside ours
REQUEST_ROWS = 1000  # upserted or deleted in one request
SEARCH_QUERIES = 1000  # vectors in one request; Lite walks all its rows in Python for each
SEARCH_THREADS = 2  # requests at a time: Lite answers 5,000 queries in 4.8 s instead of 6.1
READ_ROWS = 16_384  # read in one request, the most Milvus gives: Lite walks all rows for each
READ_EMBEDDINGS = 4096  # likewise, with their embeddings: 8 MB
MAX_TOP_K = 16_384  # Milvus's own limit
LITE_MEMTABLE_BYTES = 8 * 2**20  # Lite's 128 MB would keep all rows in memory until the end
LITE_ROWS = 200_000  # from so many on, somebody should know of Milvus Lite's limits
RETRY_SECONDS = 120  # how long a server that fails is asked again
MAX_DELAY_SECONDS = 15.0
FEW_RETRIES = {"retry_times": 3}  # pymilvus's own, of which nobody is told
REBUILD = "move it away and run python embed_and_load.py: it is made from the images alone"
RESUME = "run it again: what is loaded is kept"
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO)
STRONG = "Strong"  # see every row that was written before
ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
Answer = typing.TypeVar("Answer")


class CollectionError(Exception):
    """A problem with Milvus or the collection; the message says what to do."""


class StoredImage(typing.NamedTuple):
    """What the collection knows of a picture's file when it was embedded."""

    path: str
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970


class Index(typing.NamedTuple):
    """A way to search: Milvus's name of it, how it is built, how it is searched by default."""

    type: str
    build: Mapping[str, int]
    search: Mapping[str, int]


INDEXES = {
    "flat": Index("FLAT", {}, {}),  # exact: every vector is compared
    "hnsw": Index("HNSW", {"M": 16, "efConstruction": 200}, {"ef": 128}),
    "ivf_flat": Index("IVF_FLAT", {"nlist": 1024}, {"nprobe": 128}),
}
INDEX_CHOICES = ("auto", *INDEXES)
BUILD_PARAMETERS = ("M", "efConstruction", "nlist")  # named in the observations
EXACT_ROWS = 100_000  # up to which "auto" searches exactly; on Milvus Lite it always does


class Match(typing.NamedTuple):
    """A picture that a search found, and its cosine similarity to the query, -1 to 1."""

    path: str
    similarity: float


def resolve_uri(uri: str | None) -> str:
    """Return the address to use: the given one, else $MILVUS_URI, else ./milvus.db.

    Raises CollectionError if it is neither a server's address nor a file name of Milvus Lite.
    """
    uri = uri or os.environ.get("MILVUS_URI") or DEFAULT_URI
    try:
        urlsplit(uri)
    except ValueError as error:  # it may hold a password: not repeated
        raise CollectionError(
            f"the Milvus address can't be read ({error}); give http://HOST:PORT"
        ) from None
    if is_lite(uri) and not uri.endswith(".db"):
        raise CollectionError(
            f"{redact(uri)} is no Milvus address; give http://HOST:PORT or a file that ends in .db"
        )
    return uri


def redact(uri: str) -> str:
    """Return an address fit for print: without the user, password and query that it may hold.

    >>> redact("https://me:secret@host:19530")
    'https://host:19530'
    """
    if is_lite(uri):
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _secrets(uri: str) -> list[str]:
    """Return what must never be printed: the token's and the address's secret parts."""
    credentials = urlsplit(uri).netloc.rpartition("@")[0] if "://" in uri else ""
    token = os.environ.get("MILVUS_TOKEN", "")
    parts = [credentials, token, credentials.partition(":")[2], token.partition(":")[2]]
    return sorted(filter(None, {*parts, *map(unquote, parts)}), key=len, reverse=True)


def _one_line(text: object, uri: str) -> str:
    """Return what a library says in one line, without the secrets that it may have repeated."""
    line = " ".join(str(text).split())
    for secret in _secrets(uri):
        line = line.replace(secret, "***")
    return line


class Client:
    """A connection to one Milvus, which knows its address; a context manager."""

    def __init__(self, milvus: "MilvusClient", uri: str) -> None:
        self.milvus = milvus
        self.uri = uri
        self._stopped = threading.Event()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.milvus.close()
        if is_lite(self.uri):  # it would keep the file locked until the process ends
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.uri)

    @contextlib.contextmanager
    def explained(self, advice: str) -> Iterator[None]:
        """Turn what Milvus raises into a CollectionError of one line that ends in advice."""
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except MilvusException as error:
            reason = _one_line(error.message, self.uri) or type(error).__name__
            if any(os.strerror(code) in reason for code in DISK_ERRORS):
                advice = "make room, or make it writable, and run it again"
            raise CollectionError(f"Milvus at {redact(self.uri)}: {reason}; {advice}") from error

    def opened(self) -> contextlib.AbstractContextManager[None]:
        """Explain what fails while a collection is opened; for a file, that it is damaged."""
        return self.explained(REBUILD if is_lite(self.uri) else "run it again")

    def persistently(self, advice: str, request: Callable[[], Answer]) -> Answer:
        """Return what request() returns; a server that fails is asked again, and that is said.

        Raises CollectionError when RETRY_SECONDS have passed, or after stop(). A request must
        do no harm when it is carried out twice.
        """
        from pymilvus.exceptions import MilvusException, ParamError

        delay = 1.0
        deadline = time.monotonic() + RETRY_SECONDS
        with self.explained(advice):
            while True:
                try:
                    return request()
                except ParamError:
                    raise
                except MilvusException as error:
                    if is_lite(self.uri) or time.monotonic() + delay > deadline:
                        raise
                    reason = _one_line(error.message, self.uri)
                    address = redact(self.uri)
                    warn(f"Milvus at {address} fails ({reason}); trying again in {delay:.0f} s")
                    if self._stopped.wait(delay):
                        raise
                    delay = min(2 * delay, MAX_DELAY_SECONDS)

    def warn_if_too_many(self, rows: int) -> None:
        """Say that so many rows are more than Milvus Lite is good for, if they are."""
        if is_lite(self.uri) and rows >= LITE_ROWS:
            warn(
                f"{rows:,} rows are many for Milvus Lite, which keeps all of them in memory "
                "(several GB for a million) and reads all of them for each request; a server "
                "takes more (README: A Milvus server)"
            )

    def stop(self) -> None:
        """End the waiting of another thread's persistently()."""
        self._stopped.set()


def is_lite(uri: str) -> bool:
    """Return whether uri is a file of Milvus Lite and not a server's address."""
    return "://" not in uri


def check_processes(uri: str, count: int) -> None:
    """Raise CollectionError if the Milvus at uri can't be used by so many processes at once."""
    if count > 1 and is_lite(uri):
        raise CollectionError(
            f"Milvus Lite ({uri}) takes one process, and torchrun started {count}; leave "
            "torchrun out, or give the --milvus-uri of a server"
        )


def _sync_folder(folder: Path) -> None:
    """Wait until a folder's files are on the disk: Lite leaves that to the system."""
    for parent, _folders, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError), open(Path(parent, name), "rb") as file:
                os.fsync(file.fileno())


class _LiteFailure(logging.Handler):
    """Keeps why Milvus Lite did not open a file, which it only logs."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.error = record.exc_info[1]


def connect(uri: str, must_exist: bool = False) -> Client:
    """Return a client of the Milvus at uri, with the token in $MILVUS_TOKEN if there is one.

    Raises CollectionError if it can't be reached, or if must_exist and the file isn't there.
    """
    if is_lite(uri) and must_exist and not Path(uri).exists():
        raise CollectionError(f"there is no {uri}; run python embed_and_load.py first")
    os.environ.setdefault("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", str(LITE_MEMTABLE_BYTES))
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    # Both libraries log what they raise, traceback and all; we print it once, in one line.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    failure = _LiteFailure()
    lite_log = logging.getLogger("milvus_lite")
    lite_log.addHandler(failure)
    lite_log.addHandler(logging.NullHandler())
    lite_log.propagate = False
    try:
        return Client(MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", "")), uri)
    except (MilvusException, OSError, ValueError) as error:
        if is_lite(uri):
            raise CollectionError(_lite_reason(uri, failure.error)) from error
        reason = _one_line(getattr(error, "message", error), uri)
        raise CollectionError(
            f"no Milvus answers at {redact(uri)} ({reason}); start it, or check --milvus-uri "
            "and $MILVUS_TOKEN"
        ) from None  # what it was raised from may hold the password
    finally:
        lite_log.removeHandler(failure)


def _lite_reason(uri: str, error: BaseException | None) -> str:
    if type(error).__name__ == "DataDirLockedError":
        return f"{uri} is in use by {_holder(Path(uri))}; wait until it has ended"
    return f"{uri} can't be opened as a Milvus Lite file ({_one_line(error, uri)}); {REBUILD}"


def _holder(folder: Path) -> str:
    """Return in words which process holds a Milvus Lite file, as far as the system tells."""
    try:
        inode = os.stat(folder / "LOCK").st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()  # number: FLOCK ADVISORY WRITE pid major:minor:inode start end
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
                words = Path("/proc", fields[4], "cmdline").read_text().split("\0")
                names = [Path(word).name for word in words if word.endswith(".py")]
                return f"process {fields[4]} ({(names or [Path(words[0]).name])[0]})"
    except (OSError, ValueError, IndexError):
        pass  # not Linux, or it has ended meanwhile
    return "another process"


def collection_name(text: str) -> str:
    """Return a collection's name, a type for argparse: letters, digits and underscores."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,200}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not made of letters, digits, underscores")
    return text


def add_collection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which Milvus and which collection to use."""
    parser.add_argument(
        "--milvus-uri",
        metavar="URI",
        help=f"a server's address or a file (default: $MILVUS_URI, else {DEFAULT_URI}); "
        "a token is read from $MILVUS_TOKEN",
    )
    parser.add_argument(
        "--collection",
        type=collection_name,
        default=DEFAULT_NAME,
        metavar="NAME",
        help=f"default: {DEFAULT_NAME}",
    )


def quoted(text: str) -> str:
    r"""Return text as a string in a Milvus filter; pymilvus itself quotes keys without escaping.

    >>> print(quoted('a "b"'))
    "a \"b\""
    """
    return '"' + text.translate(ESCAPES) + '"'


class ImageCollection:
    """One folder's pictures in Milvus: path, embedding, insertion time, size, and the model.

    properties: what the collection says of itself (root, weights, weights_sha256 and so on).
    """

    def __init__(self, client: Client, name: str) -> None:
        """Open an existing collection; CollectionError if it isn't one of ours."""
        self.client = client
        self.name = name
        with client.opened():
            description = client.milvus.describe_collection(name)
        fields = tuple(field["name"] for field in description["fields"])
        stored: Mapping[str, str] = description.get("properties", {})
        self.properties = {
            key.removeprefix(PROPERTY_PREFIX): str(value)
            for key, value in stored.items()
            if key.startswith(PROPERTY_PREFIX)
        }
        if fields != FIELDS or "root" not in self.properties:
            raise CollectionError(
                f"the collection {name} was not made by embed_and_load.py and stays as it is; "
                "choose another --collection"
            )
        with client.opened():
            client.milvus.load_collection(name)  # a reopened collection can be 'released'

    @classmethod
    def find(cls, client: Client, name: str) -> "ImageCollection | None":
        """Return the collection of that name, or None if there is none."""
        with client.opened():
            there = client.milvus.has_collection(name)
        return cls(client, name) if there else None

    @classmethod
    def create(cls, client: Client, name: str, properties: Mapping[str, str]) -> "ImageCollection":
        """Make an empty collection that carries these properties."""
        kept = {PROPERTY_PREFIX + key: value for key, value in properties.items()}
        with client.opened():
            client.milvus.create_collection(
                name,
                schema=_schema(client.milvus),
                index_params=_index(client.milvus, INDEXES["flat"]),
                properties=kept,
            )
        return cls(client, name)

    def index(self) -> dict[str, str]:
        """Return what Milvus says of the collection's index: index_type, nlist and so on."""
        with self.client.opened():
            described: dict[str, object] = (
                self.client.milvus.describe_index(self.name, "embedding") or {}
            )
        return {key: str(value) for key, value in described.items()}

    def choose_index(self, choice: str, rows: int) -> Index:
        """Return the index that one of INDEX_CHOICES means for so many rows."""
        if choice == "auto":
            choice = "flat" if rows <= EXACT_ROWS or is_lite(self.client.uri) else "hnsw"
        return INDEXES[choice]

    def use_index(self, kind: Index) -> bool:
        """Build an index in place of the collection's; return whether it had another, or none."""
        before = self.index().get("index_type")
        if before == kind.type:
            return False
        milvus = self.client.milvus
        with self.client.explained("run it again"):
            milvus.release_collection(self.name)
            if before:
                milvus.drop_index(self.name, "embedding")
            milvus.create_index(self.name, _index(milvus, kind))
            milvus.load_collection(self.name)
        return True

    def search_parameters(self, top_k: int, chosen: Mapping[str, int]) -> dict[str, int]:
        """Return what the index is searched with: its defaults, and what was chosen instead.

        Raises CollectionError if it has no such parameter.
        """
        described = self.index().get("index_type", "")
        known = next((kind for kind in INDEXES.values() if kind.type == described), None)
        if known is None:  # made by somebody else, who knows its parameters
            return dict(chosen)
        unknown = ", ".join(chosen.keys() - known.search.keys())
        if unknown:
            names = ", ".join(known.search) or "no parameters"
            raise CollectionError(
                f"the index of {self.name}, {known.type}, has no search parameter {unknown}; "
                f"it has {names}"
            )
        parameters = {**known.search, **chosen}
        if "ef" in parameters:
            parameters["ef"] = max(parameters["ef"], top_k)  # Milvus's condition
        return parameters

    def index_in_words(self, parameters: Mapping[str, int]) -> str:
        """Return how the collection is searched with these search parameters."""
        index = self.index()
        kind = index.get("index_type", "?")
        if kind == "FLAT":
            return "exact (FLAT: every vector is compared), cosine similarity"
        built = [f"{name} {index[name]}" for name in BUILD_PARAMETERS if name in index]
        searched = [f"{name} {value}" for name, value in parameters.items()]
        return f"approximate ({', '.join([kind, *built, *searched])}), cosine similarity"

    @property
    def root(self) -> Path:
        """The folder that paths are relative to."""
        return Path(self.properties["root"])

    def set_property(self, key: str, value: str) -> None:
        """Keep a property beside the rows."""
        with self.client.explained("run it again"):
            self.client.milvus.alter_collection_properties(
                self.name, {PROPERTY_PREFIX + key: value}
            )
        self.properties[key] = value

    def upsert(self, images: Sequence[DecodedImage], embeddings: np.ndarray) -> None:
        """Put images in, or in place of the rows of the same paths.

        embeddings: (N, 512) float32, unit length. Paths must differ from each other.
        """
        now = time.time_ns() // 1_000_000
        rows = [
            {"embedding": embedding, "inserted_at": now, **image._asdict()}
            for image, embedding in zip(images, embeddings, strict=True)
        ]
        for start in range(0, len(rows), REQUEST_ROWS):
            part = rows[start : start + REQUEST_ROWS]
            request = functools.partial(self.client.milvus.upsert, self.name, part, **FEW_RETRIES)
            self.client.persistently(RESUME, request)

    def flush(self) -> None:
        """Make what was put in durable and searchable at full speed; once, at the end of a load."""
        self.client.persistently(RESUME, lambda: self.client.milvus.flush(self.name, **FEW_RETRIES))
        if is_lite(self.client.uri):
            _sync_folder(Path(self.client.uri))

    def stored_images(self) -> Iterator[StoredImage]:
        """Yield what is known of each picture's file, in no particular order."""
        for page in self._pages(StoredImage._fields, READ_ROWS):
            for row in page:
                yield StoredImage(row["path"], row["file_size"], row["modified_at"])

    def stored_embeddings(self, expression: str = "") -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield all rows, a page at a time: their paths, and their embeddings (N, 512) float32."""
        for page in self._pages(("path", "embedding"), READ_EMBEDDINGS, expression):
            embeddings = np.array([row["embedding"] for row in page], np.float32)
            yield [row["path"] for row in page], embeddings

    def _pages(
        self, fields: Sequence[str], rows_a_page: int, expression: str = ""
    ) -> Iterator[list[dict[str, typing.Any]]]:
        with self.client.opened():
            rows = self.client.milvus.query_iterator(
                self.name,
                batch_size=rows_a_page,
                filter=expression,
                output_fields=list(fields),
                consistency_level=STRONG,
            )
            with ThreadPoolExecutor(1) as pool:  # the next page comes while this one is used
                coming = pool.submit(rows.next)
                while page := coming.result():
                    coming = pool.submit(rows.next)
                    yield page
            rows.close()

    def delete(self, paths: Sequence[str]) -> None:
        """Remove the rows of these paths."""
        for start in range(0, len(paths), REQUEST_ROWS):
            chosen = f"path in [{', '.join(map(quoted, paths[start : start + REQUEST_ROWS]))}]"
            delete = self.client.milvus.delete
            self.client.persistently(
                RESUME, functools.partial(delete, self.name, filter=chosen, **FEW_RETRIES)
            )

    def count(self) -> int:
        """Return how many rows there are, counted and not estimated."""
        answer = self.client.persistently(
            RESUME,
            lambda: self.client.milvus.query(
                self.name,
                filter="",
                output_fields=["count(*)"],
                consistency_level=STRONG,
                **FEW_RETRIES,
            ),
        )
        return int(answer[0]["count(*)"])

    def search(
        self,
        embeddings: np.ndarray,
        top_k: int = 1,
        expression: str = "",
        parameters: Mapping[str, int] | None = None,
    ) -> Iterator[list[list[Match]]]:
        """Yield each query's top_k nearest images, nearest first, SEARCH_QUERIES at a time.

        embeddings: (N, 512) float32. `expression` is a Milvus filter on the row's fields; with
        it, or in a small collection, a query can have fewer matches. `parameters` are the
        index's own.
        """

        def request(start: int) -> list[list[Match]]:
            answers = self.client.milvus.search(
                self.name,
                data=list(embeddings[start : start + SEARCH_QUERIES]),
                limit=top_k,
                filter=expression,
                output_fields=["path"],
                search_params={"metric_type": METRIC, "params": dict(parameters or {})},
                consistency_level=STRONG,
            )
            return [[Match(hit["path"], hit["distance"]) for hit in hits] for hits in answers]

        advice = "check --filter" if expression else "run it again"
        with self.client.explained(advice), ThreadPoolExecutor(SEARCH_THREADS) as pool:
            yield from pool.map(request, range(0, len(embeddings), SEARCH_QUERIES))

    def drop(self) -> None:
        """Remove the collection and all that it holds."""
        with self.client.explained("run it again"):
            self.client.milvus.drop_collection(self.name)

    def rename(self, name: str) -> None:
        """Give the collection another name."""
        with self.client.explained("run it again"):
            self.client.milvus.rename_collection(self.name, name)
            self.client.milvus.load_collection(name)  # on Lite it is 'released' by that
        self.name = name


def _schema(client: "MilvusClient") -> "CollectionSchema":
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("path", DataType.VARCHAR, is_primary=True, max_length=MAX_PATH_BYTES)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=DIMENSION)
    for name in INTEGER_FIELDS:
        schema.add_field(name, DataType.INT64)
    return schema


def _index(client: "MilvusClient", kind: Index) -> "IndexParams":
    index = client.prepare_index_params()
    index.add_index("embedding", index_type=kind.type, metric_type=METRIC, params={**kind.build})
    return index
