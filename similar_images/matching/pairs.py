"""A query and its match, as the search returns them; pairings.txt."""

import csv
import io
import itertools
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from similar_images.text import printable


@dataclass(frozen=True)
class Pair:
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
    images: int  # that were searched: with a filter, the rows that satisfy it
    model: str
    index: str  # how the collection was searched
    device: str
    recall: str = ""  # of an approximate index, if it was measured
    filter: str = ""
    min_similarity: float | None = None
    skipped: list[str] = field(default_factory=list)
    unmatched: int = 0
    not_compared: int = 0  # pairs of which a picture could not be read, or may not be opened


def nearest(pairs: Sequence[Pair]) -> list[Pair]:
    """Return each query's first pair."""
    return [pair for pair in pairs if pair.rank == 1]


def choose_rows(rows: Sequence[list[Pair]], count: int, seed: int) -> list[list[Pair]]:
    """Return `count` of the queries' rows at random, the same ones for the same seed."""
    return random.Random(seed).sample(list(rows), min(count, len(rows)))


def pairings_text(pairs: Sequence[Pair]) -> str:
    r"""Return the pairs as tab-separated lines under a header; control characters are escaped.

    >>> pairings_text([Pair("q/cat/1.png", "d/cat/2.png", 0.5)])
    'query\trank\tmatch\tsimilarity\nq/cat/1.png\t1\td/cat/2.png\t0.500000\n'
    """
    return tab_separated(["query", "rank", "match", "similarity"], map(pairing, pairs))


def pairing(pair: Pair) -> list[str]:
    """Return a pair's cells in the pairings."""
    return [pair.query, str(pair.rank), pair.match, f"{pair.similarity:.6f}"]


def tab_separated(header: Sequence[str], rows: Iterator[list[str]]) -> str:
    """Return rows of text under a header, separated by tabs, as people and pandas read them."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    writer.writerows([printable(cell) for cell in row] for row in rows)
    return out.getvalue()


def letters() -> Iterator[str]:
    """Yield A to Z, then AA, AB and so on."""
    for length in itertools.count(1):
        for chars in itertools.product(string.ascii_uppercase, repeat=length):
            yield "".join(chars)
