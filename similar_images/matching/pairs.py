"""A query and its match; how the rows of a collection are named in the results."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from similar_images.matching.collection_folder import CollectionFolder
from similar_images.matching.queries import Queries


class Pair(NamedTuple):
    """A query and one of its matches; rank 1 is the nearest."""

    query: str  # a path that can be opened from the current folder
    match: str  # likewise
    similarity: float  # cosine, -1 to 1
    rank: int = 1
    query_label: str = ""  # '' where there is none
    match_label: str = ""
    may_open_match: bool = True  # False: only a shared collection names the path
    match_changed: bool = False  # its file is not the one that was loaded, or gone

    @property
    def same_label(self) -> bool | None:
        """Whether both labels are the same; None where one is missing."""
        if not self.query_label or not self.match_label:
            return None
        return self.query_label == self.match_label


class RowNames(dict[str, tuple[str, bool]]):
    """By row: its path as it can be opened from here, and whether it may be opened.

    A row that is itself a query has the query's path, so that each image has one name.
    """

    def __init__(self, queries: Queries, folder: CollectionFolder) -> None:
        self._folder = folder
        for path, rows in zip(queries.paths, queries.rows, strict=True):
            for row in rows:  # where the query is itself, not where a link leads
                if folder.is_here(path, row):
                    self[row] = path, True

    def __missing__(self, row: str) -> tuple[str, bool]:
        self[row] = self._folder.opened(row)
        return self[row]


def paths_to_show(pairs: Iterable[Pair]) -> list[str]:
    """Return the paths of the pairs' images that may be opened, each once."""
    paths = ((pair.query, pair.match if pair.may_open_match else pair.query) for pair in pairs)
    return list(dict.fromkeys(path for both in paths for path in both))


def nearest(rows: Iterable[Sequence[Pair]]) -> list[Pair]:
    """Return each query's first pair."""
    return [row[0] for row in rows]


def choose_rows(rows: Sequence[list[Pair]], count: int, seed: int) -> list[list[Pair]]:
    """Return `count` of the queries' rows at random, the same ones for the same seed."""
    return random.Random(seed).sample(rows, min(count, len(rows)))
