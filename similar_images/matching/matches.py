"""The matches of many queries in little memory, and the pairs that are made of them."""

from array import array
from collections.abc import Iterator, Sequence
from typing import overload

from similar_images.images.image_files import label_of
from similar_images.matching.collection_folder import CollectionFolder
from similar_images.matching.pairs import Pair
from similar_images.matching.queries import Queries
from similar_images.milvus.schema import Match


class Matches(Sequence[list[Match]]):
    """Each query's matches, nearest first; one takes 8 bytes, and each path is kept once."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._places: dict[str, int] = {}
        self._found = array("i")  # places in paths
        self._similarities = array("f")
        self._ends = array("q", [0])

    def append(self, matches: Sequence[Match]) -> None:
        """Add the matches of the next query."""
        for path, similarity in matches:
            place = self._places.setdefault(path, len(self.paths))
            if place == len(self.paths):
                self.paths.append(path)
            self._found.append(place)
            self._similarities.append(similarity)
        self._ends.append(len(self._found))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[list[Match]]:
        return map(self.__getitem__, range(len(self)))

    @overload
    def __getitem__(self, query: int) -> list[Match]: ...
    @overload
    def __getitem__(self, query: slice) -> list[list[Match]]: ...
    def __getitem__(self, query: int | slice) -> list[Match] | list[list[Match]]:
        if isinstance(query, slice):
            return [self[i] for i in range(*query.indices(len(self)))]
        part = slice(self._ends[query], self._ends[query + 1])
        return [
            Match(self.paths[place], similarity)
            for place, similarity in zip(self._found[part], self._similarities[part], strict=True)
        ]


class RowNames:
    """How the rows of a collection are named in the results, each once.

    A row that is itself a query has the query's path, so that each image has one name.
    """

    def __init__(self, queries: Queries, folder: CollectionFolder) -> None:
        self._folder = folder
        self._known = {
            row: (path, label_of(row), True)
            for path, rows in zip(queries.paths, queries.rows, strict=True)
            for row in rows
        }

    def of(self, row: str) -> tuple[str, str, bool]:
        """Return a row's path as opened from here, its label, and whether it may be opened."""
        if row not in self._known:
            path, may_open = self._folder.opened(row)
            self._known[row] = path, label_of(row), may_open
        return self._known[row]

    def rows(self) -> dict[str, str]:
        """Return the rows named so far, by their path as it can be opened."""
        return {path: row for row, (path, _, _) in self._known.items()}


class Pairs(Sequence[list[Pair]]):
    """The pairs of each query that has a match, nearest first; they are made as they are read."""

    def __init__(self, queries: Queries, matches: Sequence[list[Match]], names: RowNames) -> None:
        self._queries = queries
        self._matches = matches
        self._names = names
        self._matched = [query for query, found in enumerate(matches) if found]
        self.total = sum(map(len, matches))  # of pairs

    def __len__(self) -> int:
        return len(self._matched)

    def __iter__(self) -> Iterator[list[Pair]]:
        return map(self._row, self._matched)

    @overload
    def __getitem__(self, number: int) -> list[Pair]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[Pair]]: ...
    def __getitem__(self, number: int | slice) -> list[Pair] | list[list[Pair]]:
        if isinstance(number, slice):
            return [self._row(query) for query in self._matched[number]]
        return self._row(self._matched[number])

    def _row(self, query: int) -> list[Pair]:
        path, label = self._queries.paths[query], self._queries.labels[query]
        row = []
        for rank, match in enumerate(self._matches[query], start=1):
            name, match_label, may_open = self._names.of(match.path)
            row.append(Pair(path, name, match.similarity, rank, label, match_label, may_open))
        return row
