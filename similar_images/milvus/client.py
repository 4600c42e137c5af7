"""Requests to Milvus: retries, errors in one line, secrets that are never printed.

What differs for Milvus Lite is in lite.py. pymilvus takes half a second to import, so it is
imported when a connection is opened.
"""

import contextlib
import errno
import logging
import os
import threading
import time
import typing
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit, urlunsplit

from similar_images.console import RUN_AGAIN, SYSTEM_ADVICE, warn

if typing.TYPE_CHECKING:
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

RETRY_SECONDS = 120  # how long a failing request is repeated
MAX_DELAY_SECONDS = 15.0
OWN_RETRIES = 3  # by pymilvus itself, which tells the user nothing
EXACT_ROWS = 100_000  # up to so many rows a server searches exactly by default
UPSERT_ROWS = 1000  # in one request; the vectors of 512 dimensions are then 2 MB
UPSERT_BYTES = 2 * 2**20  # of vectors in one request; a server takes 64 MB, with paths of 4 kB each
UPSERTS_AT_ONCE = 2
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
# Errors that a retry does not change: Milvus's codes for a missing collection or index and for an
# invalid request, words of its messages, and gRPC's codes with what to do about them.
FINAL_CODES = (4, 100, 700, 1100)
FINAL_WORDS = (
    "cannot parse expression",
    "failed to create query plan",
    "auth check failure",
    "larger than max",  # a message, for the server or a proxy
)
FINAL_GRPC_CODES = {
    "ALREADY_EXISTS": "",
    "INVALID_ARGUMENT": "",
    "PERMISSION_DENIED": "set $MILVUS_TOKEN to a user with that permission",
    "UNAUTHENTICATED": "check $MILVUS_TOKEN",
    "UNIMPLEMENTED": "check that --milvus-uri is the address of Milvus's gRPC port",
}


class CollectionError(Exception):
    """A problem with Milvus or with the collection; the message says what to do."""


def is_lite(uri: str) -> bool:
    """Return whether uri is a file of Milvus Lite, not the address of a server."""
    return "://" not in uri


def redact(uri: str) -> str:
    """Return an address without user, password and query string, to be printed.

    >>> redact("https://me:secret@host:19530")
    'https://host:19530'
    """
    if is_lite(uri):
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _secrets(uri: str) -> list[str]:
    """Return what must never be printed: the token and the credentials in the address."""
    credentials = urlsplit(uri).netloc.rpartition("@")[0] if "://" in uri else ""
    token = os.environ.get("MILVUS_TOKEN", "")
    parts = [credentials, token, credentials.partition(":")[2], token.partition(":")[2]]
    return sorted(filter(None, {*parts, *map(unquote, parts)}), key=len, reverse=True)


def one_line(text: object, uri: str) -> str:
    """Return a library's message in one line, without secrets that it may repeat."""
    line = " ".join(str(text).split())
    for secret in _secrets(uri):
        line = line.replace(secret, "***")
    return line


def open_pymilvus(uri: str, **options: object) -> "MilvusClient":
    """Return pymilvus's client of the Milvus at uri; the token is read from $MILVUS_TOKEN."""
    from pymilvus import MilvusClient

    # pymilvus logs what it raises, with the traceback; we print it once, in one line.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    with _grpc_errors():
        return MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), **options)


@contextlib.contextmanager
def _grpc_errors() -> Iterator[None]:
    """Raise MilvusException for gRPC's errors: pymilvus lets some through and hides others."""
    import grpc
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        cause = error if isinstance(error, grpc.RpcError) else error.__context__
        if not isinstance(cause, grpc.RpcError):
            raise
        code = cause.code()
        raise MilvusException(code, f"{code.name}: {cause.details()}") from cause


def explained(error: "MilvusException", uri: str, advice: str) -> CollectionError:
    """Return the error in one line that ends in advice, or in better advice if there is any."""
    reason = one_line(error.message, uri) or type(error).__name__
    advice = refusal(error) or advice
    for code in DISK_ERRORS:
        if os.strerror(code) in reason:
            advice = f"{SYSTEM_ADVICE[code]}, and run it again"
    return CollectionError(f"Milvus at {redact(uri)}: {reason}; {advice}")


def refusal(error: "MilvusException") -> str | None:
    """Return what to do about a request that gRPC refused for good; None if it did not."""
    return FINAL_GRPC_CODES.get(getattr(error.code, "name", ""))


class Client:
    """A connection to a Milvus server; a context manager.

    exact_rows: up to so many rows, search is exact by default.
    needs_index: whether a search needs an index; if not, search without one is exact.
    reads_rows_to_count: whether a count with a filter reads all columns of the rows into memory.
    is_own: whether the collections' properties can be trusted, since only this user writes them.
    upsert_rows: at most so many rows are upserted in one request, see rows_per_upsert().
    upserts_at_once: so many requests to upsert rows are under way at a time.
    """

    exact_rows = EXACT_ROWS
    needs_index = True
    reads_rows_to_count = False
    is_own = False
    upsert_rows = UPSERT_ROWS
    upserts_at_once = UPSERTS_AT_ONCE
    damaged = RUN_AGAIN  # what to do if a collection can't be opened

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
        """Call a method of pymilvus's client; every request goes through here.

        A failing request is repeated, with a warning, until RETRY_SECONDS have passed or stop()
        is called, so it must be safe to repeat. Raises CollectionError, in one line that ends
        in advice.
        """
        from pymilvus.exceptions import MilvusException

        request = getattr(self.milvus, method)
        delay, deadline = 1.0, time.monotonic() + RETRY_SECONDS
        while True:
            try:
                with _grpc_errors():
                    return request(*args, **options, retry_times=OWN_RETRIES)
            except MilvusException as error:
                late = time.monotonic() + delay > deadline
                if late or self._is_final(error) or self._stopped.is_set():
                    raise explained(error, self.uri, advice) from error
                reason = one_line(error.message, self.uri)
                address = redact(self.uri)
                warn(f"Milvus at {address} fails ({reason}); trying again in {delay:.0f} s")
                if self._stopped.wait(delay):
                    raise explained(error, self.uri, advice) from error
                delay = min(2 * delay, MAX_DELAY_SECONDS)

    def stop(self) -> None:
        """End the retries of an ask() in another thread."""
        self._stopped.set()

    def rows_per_upsert(self, dimension: int) -> int:
        """Return how many rows with vectors of this dimension to upsert in one request."""
        return max(1, min(self.upsert_rows, UPSERT_BYTES // (4 * dimension)))

    def settle(self) -> None:
        """Wait until flushed rows are on the disk; a server does that itself."""

    def warn_if_too_many(self, rows: int) -> None:
        """Warn if there are too many rows for this kind of Milvus."""

    def _is_final(self, error: "MilvusException") -> bool:
        """Return whether a retry would fail in the same way."""
        from pymilvus.exceptions import ParamError

        words = str(error.message).lower()
        return (
            isinstance(error, ParamError)
            or getattr(error, "is_input_error", False)
            or error.code in FINAL_CODES
            or refusal(error) is not None
            or any(phrase in words for phrase in FINAL_WORDS)
        )
