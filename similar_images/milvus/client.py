"""Requests to Milvus: errors in one line, retries, secrets that are never printed.

What Milvus Lite does differently from a server is in lite.py. pymilvus takes half a second to
import, so it is imported when a connection is opened.
"""

import errno
import logging
import os
import threading
import time
import typing
from urllib.parse import unquote, urlsplit, urlunsplit

from similar_images.console import warn

if typing.TYPE_CHECKING:
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

RETRY_SECONDS = 120  # how long a failing server is asked again
MAX_DELAY_SECONDS = 15.0
OWN_RETRIES = 3  # made by pymilvus itself, without a word to the user
EXACT_ROWS = 100_000  # rows up to which a server searches exactly by default
RUN_AGAIN = "run it again"
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO)
# Milvus's codes of errors that a retry won't change: no such collection or index, a bad request.
FINAL_CODES = (4, 100, 700, 1100)
FINAL_WORDS = ("cannot parse expression", "failed to create query plan", "auth check failure")


class CollectionError(Exception):
    """A problem with Milvus or the collection; the message says what to do."""


def is_lite(uri: str) -> bool:
    """Return whether uri is a file of Milvus Lite and not a server's address."""
    return "://" not in uri


def redact(uri: str) -> str:
    """Return an address that can be printed: without user, password and query string.

    >>> redact("https://me:secret@host:19530")
    'https://host:19530'
    """
    if is_lite(uri):
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _secrets(uri: str) -> list[str]:
    """Return what must never be printed: the token, and the secret parts of the address."""
    credentials = urlsplit(uri).netloc.rpartition("@")[0] if "://" in uri else ""
    token = os.environ.get("MILVUS_TOKEN", "")
    parts = [credentials, token, credentials.partition(":")[2], token.partition(":")[2]]
    return sorted(filter(None, {*parts, *map(unquote, parts)}), key=len, reverse=True)


def one_line(text: object, uri: str) -> str:
    """Return a library's message in one line, without the secrets that it may repeat."""
    line = " ".join(str(text).split())
    for secret in _secrets(uri):
        line = line.replace(secret, "***")
    return line


def open_pymilvus(uri: str, **options: object) -> "MilvusClient":
    """Return pymilvus's client of the Milvus at uri, with the token in $MILVUS_TOKEN if set."""
    from pymilvus import MilvusClient

    # It logs what it raises, traceback and all; we print it once, in one line.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), **options)


class Client:
    """A connection to a Milvus server; a context manager.

    exact_rows: the number of rows up to which search is exact by default.
    needs_index: whether nothing is found without an index; if not, search without one is exact.
    reads_rows_to_count: whether a count with a filter reads all columns of the rows into memory.
    is_own: whether only this user can have written what collections say about themselves.
    """

    exact_rows = EXACT_ROWS
    needs_index = True
    reads_rows_to_count = False
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
        """Return what a method of pymilvus's client returns; every request goes through here.

        A failing server is asked again, with a warning, until RETRY_SECONDS have passed or
        stop() was called; a request must be safe to repeat. Raises CollectionError, in one line
        that ends in advice.
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
                reason = one_line(error.message, self.uri)
                address = redact(self.uri)
                warn(f"Milvus at {address} fails ({reason}); trying again in {delay:.0f} s")
                if self._stopped.wait(delay):
                    raise self._explained(error, advice) from error
                delay = min(2 * delay, MAX_DELAY_SECONDS)

    def stop(self) -> None:
        """End the retries of an ask() in another thread."""
        self._stopped.set()

    def settle(self) -> None:
        """Wait until what was flushed is on the disk; a server sees to that itself."""

    def warn_if_too_many(self, rows: int) -> None:
        """Warn if this kind of Milvus is not meant for so many rows."""

    def _is_final(self, error: "MilvusException") -> bool:
        """Return whether a retry would fail in the same way."""
        from pymilvus.exceptions import ParamError

        words = str(error.message).lower()
        return (
            isinstance(error, ParamError)
            or getattr(error, "is_input_error", False)
            or error.code in FINAL_CODES
            or any(phrase in words for phrase in FINAL_WORDS)
        )

    def _explained(self, error: "MilvusException", advice: str) -> CollectionError:
        reason = one_line(error.message, self.uri) or type(error).__name__
        if any(os.strerror(code) in reason for code in DISK_ERRORS):
            advice = "make room, or make it writable, and run it again"
        return CollectionError(f"Milvus at {redact(self.uri)}: {reason}; {advice}")
