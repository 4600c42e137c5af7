"""Several loaders at once, as torchrun starts them: which one this is, and what they exchange.

torchrun numbers its processes (ranks) in the environment and keeps a small key-value store, through
which the ranks wait for each other and add up. Each rank also writes a heartbeat there once a
second: when one stops, or the store is lost, all ranks end. Without torchrun there is one rank.
"""

import collections
import contextlib
import datetime
import itertools
import json
import os
import sys
import threading
import time
import typing
import zlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

if typing.TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

VARIABLES = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun beside WORLD_SIZE
START_SECONDS = 300  # within which all ranks must have started
POLL_SECONDS = 0.2
BEAT_SECONDS = 1.0
LEAVE_SECONDS = 5.0
SILENT_BEATS = 40  # own heartbeats without one of another rank, after which that rank is lost
FAILURE = "failure"  # key: '', or the rank and machine that met an error, and the error's text
CONNECTION_LOST = "lost the connection to the other ranks"


class RankError(Exception):
    """The ranks can't work together; the message says what to do."""


class Ranks:
    """This process among the ranks that torchrun started, or alone; a context manager."""

    def __init__(self) -> None:
        """Read torchrun's variables."""
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.node = int(os.environ.get("GROUP_RANK", "0"))  # torchrun's number of this machine
        self._numbers: collections.Counter[str] = collections.Counter()
        self._store: Store | None = None
        self._leaving = threading.Event()
        self._ending = threading.Lock()

    def __enter__(self) -> "Ranks":
        """Connect to the other ranks, if there are any, and wait until all have started."""
        if self.count > 1:
            self._store = self._connect()
            store = self._store.clone()  # a blocked request of one thread must not block the other
            self._watcher = threading.Thread(target=self._watch, args=[store], daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Leave; tell the other ranks if this one has failed."""
        if self._store is not None:
            self._leaving.set()
            self._watcher.join(LEAVE_SECONDS)
            if error is not None and not self._watcher.is_alive():  # else the store hangs
                with contextlib.suppress(RuntimeError):
                    self._report(self._store, "failed or was interrupted")

    @property
    def first(self) -> bool:
        """Whether this is the rank that prepares, reports and adds up."""
        return self.rank == 0

    @property
    def prefix(self) -> str:
        """The beginning of an error message, which names the rank; '' where there is only one."""
        return f"rank {self.rank}: " if self.count > 1 else ""

    def mine(self, path: str) -> bool:
        """Return whether this rank is the one that loads the image of that path."""
        return self.count == 1 or zlib.crc32(os.fsencode(path)) % self.count == self.rank

    @contextlib.contextmanager
    def after(self, leads: bool, what: str) -> Iterator[None]:
        """Run the body once the rank that leads has run it; if it fails there, all ranks end.

        what: the step's name, the same on all ranks that wait for the same leader.
        """
        if leads or self._store is None:
            yield
            self._ask("set", what, "done")
        else:
            self._wait(what)
            yield

    def add(self, what: str, amount: int) -> int:
        """Add to a number that all ranks share; return it."""
        if self._store is not None:
            return int(self._ask("add", what, amount))
        self._numbers[what] += amount
        return self._numbers[what]

    def gather(
        self, what: str, value: dict[str, typing.Any], meanwhile: Callable[[], object]
    ) -> list[dict[str, typing.Any]]:
        """Return all ranks' values on the first rank, nothing on the others; waits for them.

        A value must be small: the store takes up to 8 MB.
        """
        if self._store is None:
            return [value]
        self._ask("set", f"{what}/{self.rank}", json.dumps(value))
        if not self.first:
            return []
        keys = [f"{what}/{rank}" for rank in range(self.count)]
        return [json.loads(self._wait(key, meanwhile)) for key in keys]

    # --- The store ----------------------------------------------------------------------------

    def _connect(self) -> "Store":
        """Return a connection to torchrun's store, once all ranks are connected."""
        missing = ", ".join(name for name in VARIABLES if not os.environ.get(name))
        if missing:
            raise RankError(
                f"WORLD_SIZE is {self.count}, but not set: {missing}; start several loaders with "
                "torchrun, or unset WORLD_SIZE"
            )
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # its errors reach us as exceptions
        from torch.distributed.rendezvous import rendezvous

        limit = datetime.timedelta(seconds=START_SECONDS)
        try:
            store: Store = next(iter(rendezvous("env://", timeout=limit)))[0]
            if self.first:
                store.set(FAILURE, "")
            store.set(f"beat/{self.rank}", "0")
            store.wait([FAILURE, *(f"beat/{rank}" for rank in range(self.count))], limit)
        except RuntimeError:
            raise RankError(
                f"not all {self.count} ranks could connect to {os.environ['MASTER_ADDR']}:"
                f"{os.environ['MASTER_PORT']} within {START_SECONDS} s; run it again"
            ) from None
        return store

    def _ask(self, method: str, *args: typing.Any) -> typing.Any:
        """Return what a method of the store returns, if there is one; end if it is lost."""
        try:
            return getattr(self._store, method)(*args) if self._store is not None else None
        except RuntimeError:
            return self._end(CONNECTION_LOST)

    def _wait(self, key: str, meanwhile: Callable[[], object] = bool) -> bytes:
        """Return a key's value once it is there; _watch ends the process if it never will be."""
        while not self._ask("check", [key]):
            meanwhile()
            time.sleep(POLL_SECONDS)
        return bytes(self._ask("get", key))

    # --- Other ranks that end before their time -----------------------------------------------

    def _watch(self, store: "Store") -> None:
        """Write this rank's heartbeat; end the process if another rank has failed or is lost.

        The first rank watches all others, and they watch the first. Silence is counted in this
        rank's own beats, so that a job that was suspended as a whole can go on.
        """
        watched = range(self.count) if self.first else range(1)
        keys = [FAILURE, *(f"beat/{rank}" for rank in watched)]
        before: list[bytes] = []
        silent = collections.Counter[int]()
        for beat in itertools.count(1):
            if self._leaving.wait(BEAT_SECONDS):
                return
            failure, *beats = self._exchange(store, str(beat), keys)
            for rank, (last, now) in enumerate(zip(before, beats, strict=False)):
                silent[rank] = silent[rank] + 1 if now == last else 0
            before = beats
            lost = [str(rank) for rank in watched if silent[rank] >= SILENT_BEATS]
            if lost and not failure:
                failure = self._report(store, f"lost contact with rank {', '.join(lost)}")
            if failure:
                self._leaving.wait(BEAT_SECONDS)  # that rank prints its error before torchrun acts
                rank, node, text = json.loads(failure)
                shown = text if rank == self.rank else f"rank {rank} {text}"
                self._end(shown if rank == self.rank or node != self.node else "")

    def _exchange(self, store: "Store", beat: str, keys: list[str]) -> list[bytes]:
        """Write a heartbeat and return the keys' values; end if the store is lost or silent."""
        limit = threading.Timer(SILENT_BEATS * BEAT_SECONDS, self._end, [CONNECTION_LOST])
        limit.daemon = True
        limit.start()  # the store's own time limits don't hold where its machine is gone
        try:
            store.set(f"beat/{self.rank}", beat)
            return list(map(bytes, store.multi_get(keys)))
        except RuntimeError:
            return self._end(CONNECTION_LOST)
        finally:
            limit.cancel()

    def _report(self, store: "Store", text: str) -> bytes:
        """Tell all ranks why they must end; return the reason that was told first."""
        reason = json.dumps([self.rank, self.node, text])
        return bytes(store.compare_set(FAILURE, "", reason))

    def _end(self, text: str) -> typing.NoReturn:
        """End the process with an error in one line; with none where another rank has said why.

        At once and from any thread: the main one may be waiting for the network, or for Milvus.
        All rows that were counted are in the collection.
        """
        with self._ending:
            if self._leaving.is_set() and threading.current_thread() is not threading.main_thread():
                raise SystemExit  # the main thread has an error of its own to print
            if text:
                tqdm.write(f"error: {self.prefix}{text}; run it again", file=sys.stderr)
            os._exit(1)
