"""What a query gives: pairs of a picture and its match, and the files that they are written to."""

import csv
import io
import itertools
import os
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from image_files import printable


@dataclass(frozen=True)
class Pair:
    """A query and one of its matches; rank 1 is the nearest."""

    query: str  # as a reader can open it
    match: str
    similarity: float  # cosine, -1 to 1
    rank: int = 1
    query_label: str = ""  # '' where there is none
    match_label: str = ""

    @property
    def same_label(self) -> bool | None:
        """Whether both labels are the same; None where one is missing."""
        if not self.query_label or not self.match_label:
            return None
        return self.query_label == self.match_label


@dataclass(frozen=True)
class Summary:
    """What was run, for the title and the observations."""

    queries: int
    images: int
    model: str
    index: str  # how the collection was searched
    device: str
    recall: str = ""  # how much an approximate index found, if that was measured
    filter: str = ""
    skipped: list[str] = field(default_factory=list)
    unmatched: int = 0


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


# --- pairings.txt -----------------------------------------------------------------------------


def pairings_text(pairs: Sequence[Pair]) -> str:
    r"""Return the pairs as tab-separated lines under a header; odd characters are escaped.

    >>> pairings_text([Pair("q/cat/1.png", "d/cat/2.png", 0.5)])
    'query\trank\tmatch\tsimilarity\nq/cat/1.png\t1\td/cat/2.png\t0.500000\n'
    """
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(["query", "rank", "match", "similarity"])
    for pair in pairs:
        row = [printable(pair.query), pair.rank, printable(pair.match), f"{pair.similarity:.6f}"]
        writer.writerow(row)
    return out.getvalue()


def letters() -> Iterator[str]:
    """Yield A to Z, then AA, AB and so on."""
    for length in itertools.count(1):
        for chars in itertools.product(string.ascii_uppercase, repeat=length):
            yield "".join(chars)
