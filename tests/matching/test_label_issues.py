"""label_issues.py: which labels are worth a second look, and in which order."""

import csv
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from similar_images.matching.label_issues import (
    LEAST_MARGIN,
    LEAST_MATCHES,
    label_issues,
)
from similar_images.matching.pairs import Pair
from similar_images.results.tables import label_issues_text
from similar_images.text import printable


def row(query: str, label: str, matches: str, similarity: float = 0.9) -> list[Pair]:
    """Return a query's pairs, nearest first: a letter is a match's label, '-' is none."""
    return [
        Pair(query, str(rank), similarity - rank / 1000, rank, label, match.strip("-"))
        for rank, match in enumerate(matches, start=1)
    ]


def test_the_largest_margin_comes_first_then_the_most_similar_match_then_the_path() -> None:
    rows = [
        row("8 of 10", "a", "bbbbcbcbbb"),
        row("less similar", "a", "bbbbb", 0.5),
        row("most similar", "a", "bbbbb", 0.8),
        row("by path 2", "a", "ccccc", 0.6),
        row("by path 1", "a", "bbbbb", 0.6),
        row("9 of 10", "a", "cbbbbbbbbb", 0.99),
    ]
    issues = label_issues(rows)
    assert [issue.pair.query for issue in issues] == [
        *("most similar", "by path 1", "by path 2", "less similar", "9 of 10", "8 of 10")
    ]
    nine = issues[4]
    assert (nine.suggested, nine.votes, nine.own_votes, nine.matches) == ("b", 9, 0, 10)
    assert nine.pair.rank == 2, "the nearest match with the suggested label"
    assert nine.margin == pytest.approx(0.9)


def test_what_has_too_small_a_margin_or_too_few_labels_is_left_out() -> None:
    rows = [
        row("its own", "a", "aaaaa"),
        row("own label has one of ten", "a", "abbbbbbbbb"),
        row("own label has two of ten", "a", "aabbbbbbbb"),
        row("too few", "a", "bbbb"),
        row("too few with a label", "a", "bbbb-"),
        row("five with a label", "a", "--bbbbb"),
        row("no label", "", "bbbbb"),
        row("the others differ", "a", "bcdefghijk"),
    ]
    listed = ["five with a label", "own label has one of ten"]
    assert [issue.pair.query for issue in label_issues(rows)] == listed
    assert [issue.margin for issue in label_issues(rows)] == [1, LEAST_MARGIN]


@pytest.mark.parametrize("count", [5, 10, 20, 50, 100])
def test_one_match_of_a_third_label_hides_no_query(count: int) -> None:
    assert label_issues([row("q", "a", "c" + (count - 1) * "b")])


def test_of_equally_frequent_labels_that_of_the_nearest_match_is_suggested() -> None:
    for matches, suggested in (("abccb", "b"), ("cbbca", "c"), ("acbbb", "b")):
        assert label_issues([row("q", "a", matches)], -1)[0].suggested == suggested


@given(st.lists(st.tuples(st.sampled_from("abc-"), st.text("abc-", max_size=9)), max_size=9))
def test_margins_are_those_of_the_definition(queries: list[tuple[str, str]]) -> None:
    rows = [row(str(i), label.strip("-"), labels) for i, (label, labels) in enumerate(queries)]
    found = {issue.pair.query: issue for issue in label_issues(rows, least_margin=-1)}
    for number, (label, labels) in enumerate(queries):
        known = labels.replace("-", "")
        others = [labels.count(x) for x in "abc" if x != label]
        listed = label != "-" and len(known) >= LEAST_MATCHES and any(others)
        assert (str(number) in found) == listed
        if listed:
            issue = found[str(number)]
            margin = Fraction(max(others) - labels.count(label), len(known))
            assert issue.margin == float(margin)
            assert issue.votes == labels.count(issue.suggested) == max(others)


def test_no_path_or_label_can_forge_a_line() -> None:
    evil = 'a\t"b\n\u2028'
    pairs = [Pair(evil, evil, 0.25, rank, "own " + evil, evil) for rank in range(1, 6)]
    lines = "".join(label_issues_text(label_issues([pairs]))).splitlines()
    assert lines[0] == "query label suggested margin votes matches match similarity".replace(
        " ", "\t"
    )
    (issue,) = csv.reader(lines[1:], delimiter="\t")
    shown = printable(evil).replace('"', r"\u0022")
    assert issue == [shown, "own " + shown, shown, "1.0000", "5", "5", shown, "0.250000"]
