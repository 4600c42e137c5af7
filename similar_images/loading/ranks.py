"""Several loaders at once, as torchrun starts them: which of them this is, and what they share.

torchrun names the ranks in the environment and keeps a small key-value store, through which
they wait for each other and add up. Without torchrun there is one rank, and no store.
"""

import collections
import contextlib
import json
import os
import time
import typing
import zlib
from collections.abc import Callable, Iterator

from similar_images.console import Progress

if typing.TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

POLL_SECONDS = 0.2
DONE, FAILED = "done", "failed"


class RankError(Exception):
    """Another rank has failed, and has said so."""


class Ranks:
    """This process among the loaders that torchrun started, or alone."""

    def __init__(self) -> None:
        """Read torchrun's variables; on several ranks, connect to its store."""
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.node = int(os.environ.get("GROUP_RANK", "0"))  # torchrun's number of this machine
        self._numbers: collections.Counter[str] = collections.Counter()
        self._store: Store | None = None
        if self.count > 1:
            from torch.distributed.rendezvous import rendezvous

            self._store = next(iter(rendezvous("env://")))[0]

    @property
    def first(self) -> bool:
        """Whether this is the rank that makes ready, speaks, and adds up."""
        return self.rank == 0

    @property
    def prefix(self) -> str:
        """What an error message begins with, to say which rank met it; '' where there is one."""
        return f"rank {self.rank}: " if self.count > 1 else ""

    def mine(self, path: str) -> bool:
        """Return whether this rank is the one that loads the picture of that path."""
        return self.count == 1 or zlib.crc32(os.fsencode(path)) % self.count == self.rank

    @contextlib.contextmanager
    def after(self, leads: bool, what: str) -> Iterator[None]:
        """Run the body once the rank that leads has run it; raise RankError if it failed there.

        what: the step's name, the same on all ranks that wait for the same leader.
        """
        if self._store is None:
            yield
        elif leads:
            try:
                yield
            except BaseException:
                self._store.set(what, FAILED)
                raise
            self._store.set(what, DONE)
        else:
            if self._wait(what) == FAILED.encode():
                raise RankError
            yield

    def add(self, what: str, amount: int) -> int:
        """Add to a number that all ranks share; return it."""
        if self._store is not None:
            return int(self._store.add(what, amount))
        self._numbers[what] += amount
        return self._numbers[what]

    def gather(
        self, what: str, value: dict[str, typing.Any], meanwhile: Callable[[], object]
    ) -> list[dict[str, typing.Any]]:
        """Return all ranks' values on the first rank, nothing on the others; waits for them."""
        if self._store is None:
            return [value]
        self._store.set(f"{what}/{self.rank}", json.dumps(value))
        if not self.first:
            return []
        keys = [f"{what}/{rank}" for rank in range(self.count)]
        return [json.loads(self._wait(key, meanwhile)) for key in keys]

    def _wait(self, key: str, meanwhile: Callable[[], object] = bool) -> bytes:
        """Return a key's value once it is there; torchrun ends us if the other rank dies."""
        assert self._store is not None
        while not self._store.check([key]):
            meanwhile()
            time.sleep(POLL_SECONDS)
        return bytes(self._store.get(key))


class SharedProgress:
    """One bar for all ranks, on the first: the rows that Milvus has taken, of those to take."""

    def __init__(self, ranks: Ranks, expected: Callable[[], int | None], bar: Progress) -> None:
        """Take the first rank's bar, and what tells how many images this rank has, if it knows."""
        self._ranks = ranks
        self._expect = expected
        self._expected = 0
        self._bar = bar

    @property
    def words(self) -> str:
        """Whose images are counted, where there are several ranks."""
        return f" by the first of {self._ranks.count} ranks" if self._ranks.count > 1 else ""

    def __enter__(self) -> "SharedProgress":
        self.update()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._bar.__exit__(kind, error, traceback)

    def update(self, count: int = 0) -> None:
        """Count images of this rank, and show what all of them have done."""
        expected = self._expect() or 0
        self._bar.total = self._ranks.add("expected", expected - self._expected) or None
        self._expected = expected
        self._bar.update(self._ranks.add("done", count) - self._bar.n)
