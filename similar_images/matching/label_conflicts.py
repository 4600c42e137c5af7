"""Find label conflicts: images that are the same and have different labels.

They are the surest sign of a wrong label, so they are looked for further than the matches that were
asked for: there, other copies may stand before them.
"""

from collections.abc import Iterable, Sequence

from similar_images.console import QUIET, Console
from similar_images.matching.near_duplicates import NearDuplicate
from similar_images.matching.pairs import Pair, RowNames
from similar_images.matching.queries import Queries
from similar_images.matching.search import Search

LOOKED_AT = 16  # nearest images of a query: the first of them with another label is compared
AT_ONCE = 1000  # queries: what is found for them is in memory


def pairs_with_other_labels(
    search: Search,
    queries: Queries,
    names: RowNames,
    rows: Iterable[Sequence[Pair]],
    console: Console = QUIET,
) -> list[Pair]:
    """Return each query's nearest pair with another label, those of the same two images once.

    rows: pairs that are left out; with as many matches as are looked at, they have them all.
    """
    if search.options.top_k >= LOOKED_AT:
        return []
    known = {frozenset(pair[:2]) for row in rows for pair in row}
    found: dict[frozenset[str], Pair] = {}
    labelled = [place for place, label in enumerate(queries.labels) if label]
    with console.progress("queries looked up for other labels", len(labelled)) as progress:
        for start in range(0, len(labelled), AT_ONCE):
            some = queries.some(labelled[start : start + AT_ONCE])
            for row in search.pairs(some, search.matches(some, LOOKED_AT), names):
                different = [pair for pair in row if pair.same_label is False][:1]
                found |= {frozenset(pair[:2]): pair for pair in different}
            progress.update(len(some.paths))
    return [pair for both, pair in found.items() if both not in known]


def label_conflicts(near: Iterable[NearDuplicate]) -> list[NearDuplicate]:
    """Return the pairs that are the same and have different labels, the most similar first.

    Those of the same two images are returned once.
    """
    conflicts = [one for one in near if one.is_same and one.pair.same_label is False]
    once = {frozenset(one.pair[:2]): one for one in conflicts}
    return sorted(once.values(), key=lambda one: (-one.pair.similarity, one.pair[:2]))
