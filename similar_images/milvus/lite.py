"""Milvus Lite: a file that one process at a time can open, and what differs from a server."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from similar_images.console import CHECK_DISK, warn
from similar_images.milvus.client import (
    DISK_ERRORS,
    Client,
    CollectionError,
    one_line,
    open_pymilvus,
)
from similar_images.whole_files import sync_folder

MEMTABLE_BYTES = 8 * 2**20  # with the default of 128 MB, all rows of a load stay in memory
# pymilvus asks every ten seconds whether the server is alive. Lite, which runs in this process,
# sometimes closes the connection while a folder is embedded, and gRPC logs that.
CHANNEL = {"grpc.keepalive_time_ms": 2**31 - 1}  # never
MANY_ROWS = 200_000  # from here on the user is warned about the limits of Milvus Lite
REBUILD = "move it away and run python embed_and_load.py: it is made from the images alone"
# What flock and msvcrt.locking report if another process holds the lock; any other error means
# that the file could not be locked, for example on a network disk.
LOCKED = (errno.EAGAIN, errno.EACCES)


class LiteClient(Client):
    """A Milvus Lite file: open in this process alone, searched exactly, no retries."""

    exact_rows = sys.maxsize
    is_own = True
    upsert_rows = 256  # a row costs the same from 64 to 1,000 at a time: 0.15 ms
    upserts_at_once = 1  # it must not be written to by two threads
    damaged = REBUILD
    _warned = False

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.milvus.close()
        # Otherwise the file stays locked until the process ends.
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(self.uri)

    def settle(self) -> None:
        """Wait until flushed rows are on the disk: Lite does not sync its files."""
        sync_folder(Path(self.uri))

    def warn_if_too_many(self, rows: int) -> None:
        """Warn once if there are too many rows for Milvus Lite."""
        if rows >= MANY_ROWS and not self._warned:
            self._warned = True
            warn(
                f"{rows:,} rows are many for Milvus Lite, which keeps all of them in memory "
                "(several GB for a million) and reads all of them for each request; use a server "
                "(docs/server.md)"
            )


def open_lite(uri: str, must_exist: bool) -> LiteClient:
    """Return a client of the Milvus Lite file; CollectionError if it can't be opened."""
    if must_exist and not Path(uri).exists():
        raise CollectionError(f"there is no {uri}; run python embed_and_load.py first")
    if not Path(uri).parent.is_dir():
        raise CollectionError(f"there is no folder {Path(uri).parent}; check --milvus-uri")
    os.environ.setdefault("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", str(MEMTABLE_BYTES))
    from pymilvus.exceptions import MilvusException

    with _logged_failure() as failure:
        try:
            return LiteClient(open_pymilvus(uri, grpc_options=CHANNEL), uri)
        except (MilvusException, OSError, ValueError) as error:
            raise CollectionError(_reason(uri, failure.error or error)) from error


class _Failure(logging.Handler):
    """Keeps the error that kept Milvus Lite from opening a file, which it only logs."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.error = record.exc_info[1]


@contextlib.contextmanager
def _logged_failure() -> Iterator[_Failure]:
    failure = _Failure()
    log = logging.getLogger("milvus_lite")
    log.addHandler(failure)
    log.addHandler(logging.NullHandler())
    log.propagate = False
    try:
        yield failure
    finally:
        log.removeHandler(failure)


def _reason(uri: str, error: BaseException) -> str:
    """Return why a Milvus Lite file can't be opened, and what to do."""
    if type(error).__name__ != "DataDirLockedError":
        number = error.errno if isinstance(error, OSError) else None
        advice = CHECK_DISK if number in DISK_ERRORS else REBUILD
        return f"{uri} can't be opened as a Milvus Lite file ({one_line(error, uri)}); {advice}"
    if getattr(error.__cause__, "errno", errno.EAGAIN) in LOCKED:
        return f"{uri} is in use by {_holder(Path(uri))}; wait until it has ended"
    return (
        f"{uri} can't be locked ({error.__cause__}); choose a folder on a local disk with "
        "--milvus-uri, or use a server (docs/server.md)"
    )


def _holder(folder: Path) -> str:
    """Return which process has a Milvus Lite file open, as far as the system tells."""
    try:
        inode = os.stat(folder / "LOCK").st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()  # number: FLOCK ADVISORY WRITE pid major:minor:inode start end
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
                words = Path("/proc", fields[4], "cmdline").read_text().split("\0")
                names = [Path(word).name for word in words if word.endswith(".py")]
                return f"process {fields[4]} ({(names or [Path(words[0]).name])[0]})"
    except (OSError, ValueError, IndexError):
        pass  # not Linux, or the process has just ended
    return "another process"
