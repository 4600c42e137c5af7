"""Write observations.md: the settings of a run, and statistics of its pairs."""

import datetime
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from similar_images.matching.findings import Findings
from similar_images.matching.label_issues import LEAST_MARGIN
from similar_images.matching.pairs import Pair, nearest
from similar_images.results.rendering import letters, render
from similar_images.text import natural

LISTED = 5  # rows of each list in the report


class Agreement(NamedTuple):
    """How many of the pairs with two labels share one."""

    same: int
    of: int


def report(drawn: Sequence[Pair], findings: Findings, summary: Mapping[str, object]) -> str:
    """Return the report in Markdown; drawn: the pairs of the comparison picture."""
    rows = findings.rows
    first = nearest(rows)
    ordered = sorted(first, key=lambda pair: pair.similarity)
    wrong = Counter((p.query_label, p.match_label) for p in first if p.same_label is False)
    agreement = _agreement(first)
    near = {one.pair: one for one in findings.near if one.pair.rank == 1}
    same = {pair for pair, one in near.items() if one.is_same}
    return render(
        "observations.md",
        now=datetime.datetime.now(datetime.UTC),
        summary=summary,
        listed=LISTED,
        matched=len(first),
        agreement=agreement,
        labels=_label_rows(first),
        confusions=wrong.most_common(LISTED),
        lowest_rank=max(map(len, rows), default=0),
        all_ranks=_agreement(itertools.chain.from_iterable(rows)),
        same=len(same),
        part=len(near) - len(same),
        lower=sum(one.is_same for one in findings.near) - len(same),
        changes=_most_frequent((near[pair].verdict.words for pair in same), LISTED),
        others=_agreement(pair for pair in first if pair not in same),
        leaks=len(findings.leaks),
        groups=findings.groups,
        conflicts=findings.conflicts,
        relabelled=findings.relabelled_copies,
        copy_labels=findings.labels,
        issues=findings.issues,
        least_margin=LEAST_MARGIN,
        sample=[
            (letter, pair, sum(other.similarity > pair.similarity for other in first) + 1)
            for letter, pair in zip(letters(), drawn, strict=False)
        ],
        median=statistics.median(pair.similarity for pair in first) if first else None,
        extremes={"Most": ordered[::-1][:LISTED], "Least": ordered[:LISTED]},
    )


def _agreement(pairs: Iterable[Pair]) -> Agreement:
    answers = [pair.same_label for pair in pairs if pair.same_label is not None]
    return Agreement(sum(answers), len(answers))


def _most_frequent(words: Iterable[str], number: int) -> list[str]:
    return [f"{word} ({count:,})" for word, count in Counter(words).most_common(number)]


def _label_rows(first: Sequence[Pair]) -> list[tuple[str, Agreement, str]]:
    """Return the query labels, their agreement, and the label most often confused with each."""
    by_label = defaultdict(list)
    for pair in (pair for pair in first if pair.same_label is not None):
        by_label[pair.query_label].append(pair)
    confused = {
        label: _most_frequent((p.match_label for p in group if not p.same_label), 1)
        for label, group in by_label.items()
    }
    labels = sorted(by_label, key=natural)
    return [(x, _agreement(by_label[x]), "".join(confused[x]) or "none") for x in labels]
