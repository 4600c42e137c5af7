"""Find possible label errors: queries whose matches all have one label, but not the query's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from similar_images.matching.pairs import Pair

LEAST_MATCHES = 5  # fewer agree by chance


@dataclass(frozen=True)
class SecondLook:
    """A query's nearest pair, and the label that all of its matches have."""

    pair: Pair
    label: str
    matches: int


def second_looks(rows: Iterable[Sequence[Pair]]) -> list[SecondLook]:
    """Return the queries whose matches all have one label but not the query's, most similar first.

    rows: each query's pairs, nearest first. Queries with fewer than LEAST_MATCHES
    matches are left out.
    """
    found = []
    for row in rows:
        labels = {pair.match_label for pair in row}
        if len(row) >= LEAST_MATCHES and len(labels) == 1 and row[0].same_label is False:
            found.append(SecondLook(row[0], row[0].match_label, len(row)))
    return sorted(found, key=lambda look: -look.pair.similarity)
