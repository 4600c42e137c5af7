"""Milvus Lite: a file that one process at a time opens, and all that it does differently."""

import contextlib
import logging
import os
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

from similar_images.console import warn
from similar_images.milvus.client import Client, CollectionError, one_line, open_pymilvus
from similar_images.whole_files import sync_folder

if typing.TYPE_CHECKING:
    from pymilvus.exceptions import MilvusException

MEMTABLE_BYTES = 8 * 2**20  # Lite's default, 128 MB, would keep all rows in memory until the end
# pymilvus asks every ten seconds whether the other side is alive. Lite, which is this process,
# sometimes closes the connection while a folder is embedded, and gRPC prints that.
CHANNEL = {"grpc.keepalive_time_ms": 2**31 - 1}  # never
MANY_ROWS = 200_000  # from here on the user is told about Milvus Lite's limits
REBUILD = "move it away and run python embed_and_load.py: it is made from the images alone"


class LiteClient(Client):
    """A Milvus Lite file: opened by this process alone, searched exactly, never asked again."""

    exact_rows = sys.maxsize
    needs_index = False  # a FLAT index would hold the vectors a second time, on disk and in memory
    reads_rows_to_count = True
    is_own = True
    damaged = REBUILD
    _warned = False

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        super().__exit__(kind, error, traceback)
        # Otherwise the file stays locked until the process ends.
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(self.uri)

    def settle(self) -> None:
        """Wait until what was flushed is on the disk, which Lite leaves to the system."""
        sync_folder(Path(self.uri))

    def warn_if_too_many(self, rows: int) -> None:
        """Warn, once, if Milvus Lite is not meant for so many rows."""
        if rows >= MANY_ROWS and not self._warned:
            self._warned = True
            warn(
                f"{rows:,} rows are many for Milvus Lite, which keeps all of them in memory "
                "(several GB for a million) and reads all of them for each request; a server "
                "takes more (docs/server.md)"
            )

    def _is_final(self, error: "MilvusException") -> bool:
        return True


def open_lite(uri: str, must_exist: bool) -> LiteClient:
    """Return a client of the Milvus Lite file; CollectionError if it can't be opened."""
    if must_exist and not Path(uri).exists():
        raise CollectionError(f"there is no {uri}; run python embed_and_load.py first")
    os.environ.setdefault("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", str(MEMTABLE_BYTES))
    from pymilvus.exceptions import MilvusException

    with _logged_failure() as failure:
        try:
            return LiteClient(open_pymilvus(uri, grpc_options=CHANNEL), uri)
        except (MilvusException, OSError, ValueError) as error:
            raise CollectionError(_reason(uri, failure.error)) from error


class _Failure(logging.Handler):
    """Keeps the reason why Milvus Lite did not open a file, which it only logs."""

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


def _reason(uri: str, error: BaseException | None) -> str:
    if type(error).__name__ == "DataDirLockedError":
        return f"{uri} is in use by {_holder(Path(uri))}; wait until it has ended"
    return f"{uri} can't be opened as a Milvus Lite file ({one_line(error, uri)}); {REBUILD}"


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
