"""Labels worth a second look: queries whose matches all agree on another label than their own."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from similar_images.matching.pairs import Pair

LEAST_MATCHES = 5  # that have to agree


@dataclass(frozen=True)
class SecondLook:
    """A query's nearest pair, and the label on which all of its matches agree."""

    pair: Pair
    label: str
    matches: int


def second_looks(pairs: Sequence[Pair]) -> list[SecondLook]:
    """Return the queries whose matches agree on another label, the most alike first.

    pairs: each query's together, nearest first. A query with fewer than LEAST_MATCHES matches
    is left out: two or three agree by chance.
    """
    found = []
    for _query, group in itertools.groupby(pairs, key=lambda pair: pair.query):
        row = list(group)
        labels = {pair.match_label for pair in row}
        if len(row) >= LEAST_MATCHES and len(labels) == 1 and row[0].same_label is False:
            found.append(SecondLook(row[0], row[0].match_label, len(row)))
    return sorted(found, key=lambda look: -look.pair.similarity)
