"""A connection to Milvus: addresses, secrets, errors, retries, and what Milvus Lite does otherwise.

All that differs between Milvus Lite (a file) and a Milvus server is in this file. pymilvus takes
half a second to import, so it is imported when a connection is opened.
"""

import argparse
import contextlib
import errno
import logging
import os
import sys
import threading
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from similar_images.console import warn
from similar_images.whole_files import sync_folder

if typing.TYPE_CHECKING:
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

DEFAULT_URI = "./milvus.db"
RETRY_SECONDS = 120  # how long a server that fails is asked again
MAX_DELAY_SECONDS = 15.0
OWN_RETRIES = 3  # pymilvus's, of which nobody is told
EXACT_ROWS = 100_000  # up to which a server searches exactly unless it is told otherwise
LITE_MEMTABLE_BYTES = 8 * 2**20  # Lite's 128 MB would keep all rows in memory until the end
# pymilvus asks every ten seconds whether the other side is alive. Lite, which is this process,
# at times hangs up on who asks while a folder is embedded, and gRPC prints that on the terminal.
LITE_CHANNEL = {"grpc.keepalive_time_ms": 2**31 - 1}  # never
LITE_ROWS = 200_000  # from so many on, somebody should know of Milvus Lite's limits
REBUILD = "move it away and run python embed_and_load.py: it is made from the images alone"
RUN_AGAIN = "run it again"
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO)
# Milvus's codes of what asking again won't change: no such collection or index, a wrong request.
FINAL_CODES = (4, 100, 700, 1100)
FINAL_WORDS = ("cannot parse expression", "failed to create query plan", "auth check failure")


class CollectionError(Exception):
    """A problem with Milvus or the collection; the message says what to do."""


# --- Addresses and secrets --------------------------------------------------------------------


def is_lite(uri: str) -> bool:
    """Return whether uri is a file of Milvus Lite and not a server's address."""
    return "://" not in uri


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


def check_processes(uri: str, count: int) -> None:
    """Raise CollectionError if the Milvus at uri can't be used by so many processes at once."""
    if count > 1 and is_lite(uri):
        raise CollectionError(
            f"Milvus Lite ({uri}) takes one process, and torchrun started {count}; leave "
            "torchrun out, or give the --milvus-uri of a server"
        )


# --- Clients ----------------------------------------------------------------------------------


class Client:
    """A connection to a Milvus server; a context manager.

    exact_rows: up to how many rows search compares every vector unless it is told otherwise.
    needs_index: whether nothing is found without an index; else search is exact then.
    is_own: whether what the collections say of themselves is the user's own word.
    """

    exact_rows = EXACT_ROWS
    needs_index = True
    is_own = False
    damaged = RUN_AGAIN  # what to do about a collection that can't be opened

    def __init__(self, milvus: "MilvusClient", uri: str) -> None:
        self.milvus = milvus
        self.uri = uri
        self._stopped = threading.Event()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.milvus.close()

    def ask(
        self, method: str, *args: object, advice: str = RUN_AGAIN, **options: object
    ) -> typing.Any:
        """Return what a method of pymilvus's client returns; the one way to ask Milvus anything.

        A server that fails is asked again, and that is said, until RETRY_SECONDS have passed or
        stop() was called; a request must do no harm when it is carried out twice. Raises
        CollectionError, in one line that ends in advice.
        """
        from pymilvus.exceptions import MilvusException

        request = getattr(self.milvus, method)
        delay, deadline = 1.0, time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return request(*args, **options, retry_times=OWN_RETRIES)
            except MilvusException as error:
                late = time.monotonic() + delay > deadline
                if late or self._is_final(error) or self._stopped.is_set():
                    raise self._explained(error, advice) from error
                reason = _one_line(error.message, self.uri)
                address = redact(self.uri)
                warn(f"Milvus at {address} fails ({reason}); trying again in {delay:.0f} s")
                if self._stopped.wait(delay):
                    raise self._explained(error, advice) from error
                delay = min(2 * delay, MAX_DELAY_SECONDS)

    def stop(self) -> None:
        """End the waiting of another thread's ask()."""
        self._stopped.set()

    def settle(self) -> None:
        """Wait until what was flushed is on the disk; a server sees to that itself."""

    def warn_if_too_many(self, rows: int) -> None:
        """Say that so many rows are more than this Milvus is good for, if they are."""

    def _is_final(self, error: "MilvusException") -> bool:
        """Return whether asking again is of no use."""
        from pymilvus.exceptions import ParamError

        words = str(error.message).lower()
        return (
            isinstance(error, ParamError)
            or getattr(error, "is_input_error", False)
            or error.code in FINAL_CODES
            or any(phrase in words for phrase in FINAL_WORDS)
        )

    def _explained(self, error: "MilvusException", advice: str) -> CollectionError:
        reason = _one_line(error.message, self.uri) or type(error).__name__
        if any(os.strerror(code) in reason for code in DISK_ERRORS):
            advice = "make room, or make it writable, and run it again"
        return CollectionError(f"Milvus at {redact(self.uri)}: {reason}; {advice}")


class LiteClient(Client):
    """Milvus Lite, a file: this process's alone, searched exactly, not worth asking again."""

    exact_rows = sys.maxsize
    needs_index = False  # its FLAT index is the vectors once more, on the disk and in memory
    is_own = True
    damaged = REBUILD

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        super().__exit__(kind, error, traceback)
        # Else it keeps the file locked until the process ends.
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(self.uri)

    def settle(self) -> None:
        """Wait until what was flushed is on the disk, which Lite leaves to the system."""
        sync_folder(Path(self.uri))

    def warn_if_too_many(self, rows: int) -> None:
        """Say that so many rows are more than Milvus Lite is good for, if they are."""
        if rows >= LITE_ROWS:
            warn(
                f"{rows:,} rows are many for Milvus Lite, which keeps all of them in memory "
                "(several GB for a million) and reads all of them for each request; a server "
                "takes more (README: A Milvus server)"
            )

    def _is_final(self, error: "MilvusException") -> bool:
        return True


def connect(uri: str, must_exist: bool = False) -> Client:
    """Return a client of the Milvus at uri, with the token in $MILVUS_TOKEN if there is one.

    Raises CollectionError if it can't be reached, or if must_exist and the file isn't there.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # nothing forks while it is in use
    if is_lite(uri):
        return _open_lite(uri, must_exist)
    from pymilvus.exceptions import MilvusException

    try:
        return Client(_pymilvus_client(uri), uri)
    except (MilvusException, OSError, ValueError) as error:
        reason = _one_line(getattr(error, "message", error), uri)
        raise CollectionError(
            f"no Milvus answers at {redact(uri)} ({reason}); start it, or check --milvus-uri "
            "and $MILVUS_TOKEN"
        ) from None  # what it was raised from may hold the password


def _pymilvus_client(uri: str, **options: object) -> "MilvusClient":
    from pymilvus import MilvusClient

    # It logs what it raises, traceback and all; we print it once, in one line.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), **options)


# --- Milvus Lite's files ----------------------------------------------------------------------


def _open_lite(uri: str, must_exist: bool) -> LiteClient:
    if must_exist and not Path(uri).exists():
        raise CollectionError(f"there is no {uri}; run python embed_and_load.py first")
    os.environ.setdefault("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", str(LITE_MEMTABLE_BYTES))
    from pymilvus.exceptions import MilvusException

    with _lite_failure() as failure:
        try:
            return LiteClient(_pymilvus_client(uri, grpc_options=LITE_CHANNEL), uri)
        except (MilvusException, OSError, ValueError) as error:
            raise CollectionError(_lite_reason(uri, failure.error)) from error


class _LiteFailure(logging.Handler):
    """Keeps why Milvus Lite did not open a file, which it only logs."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.error = record.exc_info[1]


@contextlib.contextmanager
def _lite_failure() -> Iterator[_LiteFailure]:
    failure = _LiteFailure()
    log = logging.getLogger("milvus_lite")
    log.addHandler(failure)
    log.addHandler(logging.NullHandler())
    log.propagate = False
    try:
        yield failure
    finally:
        log.removeHandler(failure)


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


# --- Command line -----------------------------------------------------------------------------


def add_milvus_option(parser: argparse.ArgumentParser) -> None:
    """Add --milvus-uri."""
    parser.add_argument(
        "--milvus-uri",
        metavar="URI",
        help=f"a server's address or a file (default: $MILVUS_URI, else {DEFAULT_URI}); "
        "a token is read from $MILVUS_TOKEN",
    )
