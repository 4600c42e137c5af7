"""Milvus Lite: a file that one process at a time can open, and what differs from a server."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

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


class LiteClient(Client):
    """A Milvus Lite file: open in this process alone, searched exactly, no retries."""

    exact_rows = sys.maxsize
    is_own = True
    upsert_rows = 256  # a row costs the same from 64 to 1,000 at a time: 0.15 ms
    upserts_at_once = 1  # it must not be written to by two threads
    damaged = REBUILD
    running: tuple[Any, Any]  # milvus_lite's server and database

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.milvus.close()
        server, database = self.running
        server.stop(grace=2)
        database.close()  # otherwise the file stays locked until the process ends

    def settle(self) -> None:
        """Wait until flushed rows are on the disk: Lite does not sync its files."""
        sync_folder(Path(self.uri))

    def warn_if_too_many(self, rows: int) -> None:
        """Warn if there are too many rows for Milvus Lite."""
        if rows >= MANY_ROWS:
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
    logging.getLogger("milvus_lite").setLevel(logging.CRITICAL + 1)
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    try:  # pymilvus would only log what is raised
        server, database, port = start_server_in_thread(os.path.abspath(uri))
    except Exception as error:  # damage shows itself in many ways
        raise CollectionError(_reason(uri, error)) from error
    client = LiteClient(open_pymilvus(f"http://127.0.0.1:{port}", grpc_options=CHANNEL), uri)
    client.running = server, database
    return client


def _reason(uri: str, error: Exception) -> str:
    """Return why a Milvus Lite file can't be opened, and what to do."""
    if type(error).__name__ == "DataDirLockedError":
        return (
            f"{uri} is in use by another process, or its disk has no file locks "
            f"({error.__cause__}); wait until that process has ended, or use a server or a local "
            "disk (docs/server.md)"
        )
    number = error.errno if isinstance(error, OSError) else None
    advice = CHECK_DISK if number in DISK_ERRORS else REBUILD
    return f"{uri} can't be opened as a Milvus Lite file ({one_line(error, uri)}); {advice}"
