"""A progress bar that counts the images of all ranks."""

from collections.abc import Callable

from similar_images.console import Progress
from similar_images.loading.ranks import Ranks


class SharedProgress:
    """One progress bar for all ranks, shown by the first: the rows that Milvus has stored."""

    def __init__(self, ranks: Ranks, expected: Callable[[], int | None], bar: Progress) -> None:
        """Take the first rank's bar, and a function that returns this rank's total when known."""
        self._ranks = ranks
        self._expected = expected
        self._added = False
        self._bar = bar

    @property
    def words(self) -> str:
        """Where there are several ranks: that a number is the first rank's alone."""
        return f" on the first of {self._ranks.count} ranks" if self._ranks.count > 1 else ""

    def __enter__(self) -> "SharedProgress":
        self.update()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._bar.__exit__(kind, error, traceback)

    def update(self, count: int = 0) -> None:
        """Count images of this rank, and show the sum of all ranks; the total once all know it."""
        expected = self._expected()
        if expected is not None and not self._added:
            self._added = True
            self._ranks.add("expected", expected)
            self._ranks.add("ranks that know", 1)
        if self._ranks.add("ranks that know", 0) == self._ranks.count:
            self._bar.total = self._ranks.add("expected", 0) or None
        self._bar.update(self._ranks.add("done", count) - self._bar.n)
