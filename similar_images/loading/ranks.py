"""Several loaders at once, as torchrun starts them: which one this is, and how they meet.

torchrun numbers its processes (ranks) in the environment and ends the others when one fails;
torch.distributed connects them. Without torchrun there is one rank.
"""

import datetime
import os
import zlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

START_LIMIT = datetime.timedelta(minutes=5)  # within which all ranks must be connected
WAIT_LIMIT = datetime.timedelta(days=2)  # for the slowest rank; torchrun ends those of a lost one

P = ParamSpec("P")
T = TypeVar("T")


class RankError(Exception):
    """The ranks can't work together; the message says what to do."""


def _number(name: str, default: int = 0) -> int:
    """Return an environment variable's number, -1 if it is not one."""
    text = os.environ.get(name) or str(default)
    return int(text) if text.isdecimal() else -1


class Ranks:
    """This process among the ranks that torchrun started, or alone; a context manager."""

    def __init__(self) -> None:
        """Read torchrun's variables; without several ranks, the others mean nothing."""
        self.count = max(1, _number("WORLD_SIZE", 1))
        self.rank = _number("RANK") if self.count > 1 else 0
        self.local_rank = _number("LOCAL_RANK") if self.count > 1 else 0
        self._group: Any = None

    def __enter__(self) -> "Ranks":
        """Connect to the other ranks, if there are any."""
        if self.count > 1:
            self._connect()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Leave; after an error connections stay until it is printed and the process ends."""
        if self._group and error is None:
            from torch import distributed

            distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the rank that checks and reports."""
        return self.rank == 0

    @property
    def prefix(self) -> str:
        """The beginning of a line that names the rank; '' where there is only one."""
        return f"rank {self.rank}: " if self.count > 1 else ""

    def mine(self, path: str) -> bool:
        """Return whether this rank is the one that loads the image of that path."""
        return self.count == 1 or zlib.crc32(os.fsencode(path)) % self.count == self.rank

    def in_turn(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Return what work returns; the first rank calls it before the others."""
        if self.first:
            result = work(*args, **options)
        self.gather(None)
        if not self.first:
            result = work(*args, **options)
        return result

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order; waits for all of them."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values = [value] * self.count
        try:
            distributed.all_gather_object(values, value, self._group)
        except RuntimeError:  # another rank has ended, and prints why
            if self.local_rank:
                raise SystemExit(1) from None  # one line on each machine is enough
            raise RankError("lost the connection to another rank; run it again") from None
        return values

    def _connect(self) -> None:
        if not 0 <= self.rank < self.count:
            raise RankError(f"RANK is not from 0 to {self.count - 1}; unset it and WORLD_SIZE")
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # its errors reach us as exceptions
        from torch import distributed

        try:
            distributed.init_process_group("gloo", timeout=START_LIMIT)
            self._group = distributed.new_group(timeout=WAIT_LIMIT)
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise RankError(
                f"the {self.count} ranks can't connect ({reason}); start several loaders with "
                "torchrun, or unset WORLD_SIZE"
            ) from None
