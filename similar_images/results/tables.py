"""The tables of a run, tab-separated as people and pandas read them."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

from similar_images.matching.duplicate_groups import Copy, Group
from similar_images.matching.label_issues import LabelIssue
from similar_images.matching.near_duplicates import NearDuplicate
from similar_images.matching.pairs import Pair
from similar_images.text import table_cell

_PAIRING = ("query", "rank", "match", "similarity")
_NEAR_DUPLICATE = (*_PAIRING, "verdict", "change")
COLUMNS = {
    "pairings.txt": _PAIRING,
    "near_duplicates.txt": _NEAR_DUPLICATE,
    "duplicate_groups.txt": ("group", *Copy._fields),
    "leaks.txt": _NEAR_DUPLICATE,
    "label_conflicts.txt": ("query", "label", "match", "match_label", "similarity", "change"),
    "label_issues.txt": (
        *("query", "label", "suggested", "margin", "votes", "matches"),
        *("match", "similarity"),
    ),
}


def pairings_text(rows: Iterable[Sequence[Pair]]) -> Iterator[str]:
    r"""Yield the pairs.

    >>> list(pairings_text([[Pair("q/cat/1.png", "d/cat/2.png", 0.5)]]))
    ['query\trank\tmatch\tsimilarity\n', 'q/cat/1.png\t1\td/cat/2.png\t0.500000\n']
    """
    pairs = itertools.chain.from_iterable(rows)
    return tab_separated(COLUMNS["pairings.txt"], map(pairing, pairs))


def pairing(pair: Pair) -> list[object]:
    """Return a pair's cells in the pairings."""
    return [pair.query, pair.rank, pair.match, pair.similarity]


def near_duplicates_text(found: Iterable[NearDuplicate]) -> Iterator[str]:
    """Yield near-duplicates, or leaks, in the form of the pairings, with verdict and changes."""
    rows = ([*pairing(one.pair), one.verdict.kind, one.verdict.words] for one in found)
    return tab_separated(_NEAR_DUPLICATE, rows)


def label_conflicts_text(conflicts: Iterable[NearDuplicate]) -> Iterator[str]:
    """Yield the label conflicts."""
    rows = (
        [pair.query, pair.query_label, pair.match, pair.match_label, pair.similarity, verdict.words]
        for pair, verdict in ((one.pair, one.verdict) for one in conflicts)
    )
    return tab_separated(COLUMNS["label_conflicts.txt"], rows)


def groups_text(groups: Sequence[Group]) -> Iterator[str]:
    """Yield the groups."""
    rows = ([number, *copy] for number, group in enumerate(groups, 1) for copy in group.copies)
    return tab_separated(COLUMNS["duplicate_groups.txt"], rows)


def copies_text(groups: Iterable[Group]) -> Iterator[str]:
    """Yield the paths of copies as they are, one a line, without those that a line can't hold."""
    for group in groups:
        yield from (f"{copy.path}\n" for copy in group.spare if is_one_line(copy.path))


def is_one_line(path: str) -> bool:
    """Return whether a path can stand on a line of a UTF-8 file."""
    return len(path.splitlines()) == 1 and not any("\ud800" <= char <= "\udfff" for char in path)


def label_issues_text(issues: Iterable[LabelIssue]) -> Iterator[str]:
    r"""Yield the issues.

    >>> pair = Pair("q/cat/1.png", "d/dog/2.png", 0.5, 2, "cat", "dog")
    >>> list(label_issues_text([LabelIssue(pair, 18, 1, 20)]))[1].split("\t")
    ['q/cat/1.png', 'cat', 'dog', '0.8500', '18', '20', 'd/dog/2.png', '0.500000\n']
    """
    return tab_separated(COLUMNS["label_issues.txt"], map(_issue_cells, issues))


def _issue_cells(issue: LabelIssue) -> list[object]:
    pair = issue.pair
    labels = [pair.query_label, issue.suggested, f"{issue.margin:.4f}"]
    return [pair.query, *labels, issue.votes, issue.matches, pair.match, pair.similarity]


def tab_separated(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield rows under a header, separated by tabs.

    Control characters are escaped, and quotation marks, which readers of CSV would take for more.
    """
    for row in itertools.chain([header], rows):
        yield "\t".join(map(_cell, row)) + "\n"


def _cell(value: object) -> str:
    return table_cell(f"{value:.6f}" if isinstance(value, float) else str(value))
