"""Requests to Milvus: retries, errors in one line, secrets that are never printed.

What differs for Milvus Lite is in lite.py. pymilvus takes half a second to import, so it is
imported when a connection is opened.
"""

import contextlib
import errno
import logging
import os
import re
import threading
import time
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import unquote, urlsplit

from similar_images.console import CHECK_DISK, RUN_AGAIN, warn

if typing.TYPE_CHECKING:
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

RETRY_SECONDS = 120  # how long a failing request is repeated
MAX_DELAY_SECONDS = 10.0
OWN_RETRIES = 1  # by pymilvus itself, which tells the user nothing; 0 hides what the error was
EXACT_ROWS = 100_000  # up to so many rows a server searches exactly by default
UPSERT_ROWS = 1000  # in one request; the vectors of 512 dimensions are then 2 MB
UPSERT_BYTES = 2 * 2**20  # of vectors in one request; a server takes 64 MB, with paths of 4 kB each
UPSERTS_AT_ONCE = 2
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
# What a repetition may change: gRPC's codes, and words of Milvus's messages while it starts or is
# asked too often. A message that is too large has RESOURCE_EXHAUSTED, too.
TRANSIENT_GRPC_CODES = ("ABORTED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
TRANSIENT_WORDS = re.compile(
    "connection refused|no available|node (not|offline)|not (ready|available|fully)|rate limit"
)
TOO_LARGE = "larger than max"
NO_COLLECTION = 100  # Milvus's code
NOT_LOADED = "not loaded"  # Milvus's words
FILE = ".db"  # the end of the name of a Milvus Lite file
# An @ anywhere else follows a password that holds one of / ? # itself.
ADDRESS = re.compile(
    r"(?P<scheme>\w+:/+)?(?:[^/?#]*@)?(?P<place>[^/?#@]*(?:/[^?#@]*)?)(?:[?#][^@]*)?"
)
REPLACED = "it was dropped or replaced while it was used; run it again"
GRPC_ADVICE = {
    "PERMISSION_DENIED": "set $MILVUS_TOKEN to a user with that permission",
    "UNAUTHENTICATED": "check $MILVUS_TOKEN",
    "UNIMPLEMENTED": "check that --milvus-uri is the address of Milvus's gRPC port",
}


class CollectionError(Exception):
    """A problem with Milvus or with the collection; the message says what to do."""


class NoCollectionError(CollectionError):
    """There is no such collection, or no longer."""


class DeniedError(CollectionError):
    """The user of $MILVUS_TOKEN lacks a permission."""


def is_lite(uri: str) -> bool:
    """Return whether uri is a file of Milvus Lite, not the address of a server."""
    return re.match(r"\w{2,}:/", uri) is None  # one letter is a disk of Windows


def is_address(uri: str) -> bool:
    """Return whether uri is the address of a server in which user and password can be told."""
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018  it may be no number
    except ValueError:
        return False
    return bool(parts.hostname and ADDRESS.fullmatch(uri))


def redact(uri: str) -> str:
    """Return an address without user, password and query string, to be printed.

    >>> redact("https://me:secret@host:19530"), redact("https://me:sec/ret@host:19530")
    ('https://host:19530', 'https://…')
    """
    if is_lite(uri) and uri.endswith(FILE):
        return uri
    address = ADDRESS.match(uri)
    assert address
    scheme, place = address["scheme"] or "", address["place"]
    return scheme + (place if ADDRESS.fullmatch(uri) else "…")


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


def import_pymilvus() -> None:
    """Import pymilvus without its own settings; before anything else imports it.

    It would refuse a $MILVUS_URI that is a file, and take a .env above its folder into os.environ.
    """
    before = dict(os.environ)
    os.environ.update({"MILVUS_URI": "", "PYTHON_DOTENV_DISABLED": "1"})
    import pymilvus  # noqa: F401

    for name in os.environ.keys() - before.keys():  # an older dotenv can't be switched off
        del os.environ[name]
    os.environ.update(before)


def open_pymilvus(uri: str, **options: object) -> "MilvusClient":
    """Return pymilvus's client of the Milvus at uri; the token is read from $MILVUS_TOKEN."""
    from pymilvus import MilvusClient

    # pymilvus logs what it raises, with the traceback; we print it once, in one line.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    # A shared connection would stay open after close(), and serve the next client of the address.
    token = os.environ.get("MILVUS_TOKEN", "")
    return MilvusClient(uri, token=token, dedicated=True, **options)


def explained(error: Exception, uri: str, advice: str) -> CollectionError:
    """Return the error in one line that ends in advice, or in better advice if there is any."""
    code = getattr(error, "code", None)
    reason = one_line(getattr(error, "message", error), uri) or type(error).__name__
    advice = GRPC_ADVICE.get(getattr(code, "name", ""), advice)
    if NOT_LOADED in reason:
        advice = "let a user with the permission Load run this command"
    if any(os.strerror(number) in reason for number in DISK_ERRORS):
        advice = f"{CHECK_DISK}, and run it again"
    if code == NO_COLLECTION:
        return NoCollectionError(f"Milvus at {redact(uri)}: {reason}; {REPLACED}")
    kind = DeniedError if getattr(code, "name", "") == "PERMISSION_DENIED" else CollectionError
    return kind(f"Milvus at {redact(uri)}: {reason}; {advice}")


def is_transient(error: "MilvusException") -> bool:
    """Return whether the same request may succeed later."""
    words = str(error.message).lower()
    return TOO_LARGE not in words and (
        getattr(error.code, "name", "") in TRANSIENT_GRPC_CODES
        or error.retriable
        or TRANSIENT_WORDS.search(words) is not None
    )


def repeated(
    request: Callable[[], typing.Any],
    uri: str,
    seconds: float,
    stops_after: Callable[[float], object] = time.sleep,
) -> typing.Any:
    """Return what a request to the Milvus at uri returns.

    While it fails and may succeed later, it is repeated with a warning for so many seconds, unless
    stops_after(delay) is true; so it must be safe to repeat. Raises MilvusException.
    """
    import grpc
    from pymilvus.exceptions import MilvusException

    delay, deadline = 1.0, time.monotonic() + seconds
    while True:
        try:
            return request()
        except (MilvusException, grpc.RpcError) as raised:
            # pymilvus lets some of gRPC's errors through, and puts others into its own.
            error, cause = raised, raised.__context__
            if isinstance(raised, grpc.RpcError):
                cause = raised
            if isinstance(cause, grpc.RpcError):
                code = cause.code()
                error = MilvusException(code, f"{code.name}: {cause.details()}")
            if time.monotonic() + delay > deadline or not is_transient(error):
                raise error from cause
            reason = one_line(error.message, uri)
            warn(f"Milvus at {redact(uri)} fails ({reason}); trying again in {delay:.0f} s")
            if stops_after(delay):
                raise error from cause
            delay = min(2 * delay, MAX_DELAY_SECONDS)


class Client:
    """A connection to a Milvus server; a context manager.

    is_own: whether it is Milvus Lite, a file of this user alone: its collections' properties can be
    trusted, and its requests, which this process answers, neither wait for ever nor are repeated.
    """

    exact_rows = EXACT_ROWS  # up to so many rows, search is exact by default
    is_own = False
    upsert_rows = UPSERT_ROWS  # at most, in one request
    upserts_at_once = UPSERTS_AT_ONCE  # requests that are under way
    damaged = RUN_AGAIN  # what to do if a collection can't be opened

    def __init__(self, milvus: "MilvusClient", uri: str) -> None:
        self.milvus = milvus
        self.uri = uri
        self._left = threading.Event()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._left.set()  # ends repetitions in other threads
        if error is None:  # else a server that does not answer may be waited for
            self.milvus.close()

    def ask(
        self,
        method: Callable[..., typing.Any],
        *args: object,
        advice: str = RUN_AGAIN,
        **options: object,
    ) -> typing.Any:
        """Call a method of self.milvus; every request goes through here, see repeated().

        Raises CollectionError, in one line that ends in advice.
        """
        from pymilvus.exceptions import MilvusException

        request = partial(method, *args, **options, retry_times=OWN_RETRIES)
        seconds = 0 if self.is_own else RETRY_SECONDS
        try:
            return repeated(request, self.uri, seconds, self._left.wait)
        except MilvusException as error:
            raise explained(error, self.uri, advice) from error

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[ThreadPoolExecutor]:
        """Yield threads for requests; those of a server are not waited for when it is left."""
        pool = ThreadPoolExecutor(count)
        try:
            yield pool
        finally:
            pool.shutdown(wait=self.is_own, cancel_futures=True)

    def rows_per_upsert(self, dimension: int) -> int:
        """Return how many rows with vectors of this dimension to upsert in one request."""
        return max(1, min(self.upsert_rows, UPSERT_BYTES // (4 * dimension)))

    def settle(self) -> None:
        """Wait until flushed rows are on the disk; a server does that itself."""

    def warn_if_too_many(self, rows: int) -> None:
        """Warn if there are too many rows for this kind of Milvus."""
