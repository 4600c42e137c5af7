"""A query and its match, as the search returns them; pairings.txt."""

import csv
import itertools
import random
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from similar_images.text import printable


class Pair(NamedTuple):
    """A query and one of its matches; rank 1 is the nearest."""

    query: str  # a path that can be opened from the current folder
    match: str  # likewise
    similarity: float  # cosine, -1 to 1
    rank: int = 1
    query_label: str = ""  # '' where there is none
    match_label: str = ""
    may_open_match: bool = True  # False: only a shared collection names the path

    @property
    def same_label(self) -> bool | None:
        """Whether both labels are the same; None where one is missing."""
        if not self.query_label or not self.match_label:
            return None
        return self.query_label == self.match_label


@dataclass(frozen=True)
class Summary:
    """What was run, for the title and the reports."""

    queries: int
    pairs: int  # of queries and matches
    images: int  # that were searched: with a filter, the rows that satisfy it
    model: str
    index: str  # how the collection was searched
    device: str
    recall: str = ""  # of an approximate index, if it was measured
    filter: str = ""
    min_similarity: float | None = None
    skipped: list[str] = field(default_factory=list)
    unmatched: int = 0
    compares: bool = True  # False: pictures were not to be compared
    not_compared: int = 0  # pairs of which a picture could not be read, or may not be opened


def nearest(rows: Iterable[Sequence[Pair]]) -> list[Pair]:
    """Return each query's first pair."""
    return [row[0] for row in rows]


def choose_rows(rows: Sequence[list[Pair]], count: int, seed: int) -> list[list[Pair]]:
    """Return `count` of the queries' rows at random, the same ones for the same seed."""
    numbers = range(len(rows))
    return [rows[i] for i in random.Random(seed).sample(numbers, min(count, len(rows)))]


def pairings_text(rows: Iterable[Sequence[Pair]]) -> Iterator[str]:
    r"""Yield the pairs as tab-separated lines under a header; control characters are escaped.

    >>> list(pairings_text([[Pair("q/cat/1.png", "d/cat/2.png", 0.5)]]))
    ['query\trank\tmatch\tsimilarity\n', 'q/cat/1.png\t1\td/cat/2.png\t0.500000\n']
    """
    pairs = itertools.chain.from_iterable(rows)
    return tab_separated(["query", "rank", "match", "similarity"], map(pairing, pairs))


def pairing(pair: Pair) -> list[str]:
    """Return a pair's cells in the pairings."""
    return [pair.query, str(pair.rank), pair.match, f"{pair.similarity:.6f}"]


class _Echo:
    def write(self, text: str) -> str:
        return text


def tab_separated(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield rows of text under a header, separated by tabs, as people and pandas read them."""
    writer = csv.writer(_Echo(), delimiter="\t", lineterminator="\n")
    yield writer.writerow(header)
    for row in rows:
        yield writer.writerow(map(printable, row))


def letters() -> Iterator[str]:
    """Yield A to Z, then AA, AB and so on."""
    for length in itertools.count(1):
        for chars in itertools.product(string.ascii_uppercase, repeat=length):
            yield "".join(chars)
