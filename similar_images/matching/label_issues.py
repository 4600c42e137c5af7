"""Find labels worth a second look: the matches of a query vote for another label than its own.

Queries are ranked by the margin of the vote. docs/label_issues.md shows how many wrong labels that
finds, and how LEAST_MARGIN was chosen.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from similar_images.matching.pairs import Pair

LEAST_MATCHES = 5  # with labels: fewer agree by chance
LEAST_MARGIN = 0.8  # of what is listed


@dataclass(frozen=True)
class LabelIssue:
    """A query whose matches vote for another label, and how clearly.

    The suggested label is the most frequent one among the matches, the query's own aside; of
    equally frequent ones it is that of the nearest match.
    """

    pair: Pair  # the query and its nearest match with the suggested label
    votes: int  # matches with the suggested label
    own_votes: int  # matches with the query's own label
    matches: int  # that have a label

    @property
    def suggested(self) -> str:
        """The label that the matches suggest."""
        return self.pair.match_label

    @property
    def margin(self) -> float:
        """The share of the suggested label less that of the query's own, -1 to 1."""
        return (self.votes - self.own_votes) / self.matches


def label_issues(
    rows: Iterable[Sequence[Pair]], least_margin: float = LEAST_MARGIN
) -> list[LabelIssue]:
    """Return the queries with at least this margin: the largest first, then the most similar.

    rows: each query's pairs, nearest first. Left out are queries without a label, those with fewer
    than LEAST_MATCHES labelled matches, and those whose matches all have their label.
    """
    issues = (issue for row in rows if (issue := _vote(row)) and issue.margin >= least_margin)
    return sorted(issues, key=lambda i: (-i.margin, -i.pair.similarity, i.pair.query))


def _vote(row: Sequence[Pair]) -> LabelIssue | None:
    """Return the vote of a query's matches, whatever the margin; None if there is none."""
    votes = Counter(pair.match_label for pair in row if pair.same_label is not None)
    if votes.total() < LEAST_MATCHES:
        return None
    own, matches = votes.pop(row[0].query_label, 0), votes.total()
    if not votes:
        return None
    suggested, count = votes.most_common(1)[0]  # of equal counts the first counted: the nearest
    pair = next(pair for pair in row if pair.match_label == suggested)
    return LabelIssue(pair, count, own, own + matches)
