"""matching.py and query_code.py: what counts as a match, and what is said of the others."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import pairings

import query_code
from similar_images.matching.matches import Matches
from similar_images.matching.search import strong_enough
from similar_images.milvus.schema import Match

Fails = Callable[..., str]


def matches_of(*rows: list[Match]) -> Matches:
    matches = Matches()
    for row in rows:
        matches.append(row)
    return matches


def test_matches_are_kept_as_they_were_found() -> None:
    rows = [[Match("a", 0.75), Match("b", 0.5)], [], [Match("a", 0.25)]]
    matches = matches_of(*rows)
    assert [*matches] == rows
    assert matches[1:] == rows[1:]
    assert matches.paths == ["a", "b"]


def test_weaker_matches_are_dropped() -> None:
    matches = matches_of([Match("a", 0.75), Match("b", 0.5)], [Match("c", 0.25)])
    assert strong_enough(matches, None) is matches
    assert [*strong_enough(matches, 0.5)] == [[Match("a", 0.75), Match("b", 0.5)], []]
    assert [*strong_enough(matches, 0.95)] == [[], []]
    copies = matches_of([Match("a", 0.9999995), Match("b", 0.99999)])
    (kept,) = strong_enough(copies, 1.0)
    assert [match.path for match in kept] == ["a"], "equal, up to rounding"


def test_queries_without_a_match_are_counted_everywhere(
    loaded: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query_code.main(["--top-k", "3"]) == 0
    similarities = sorted(float(row["similarity"]) for row in pairings() if row["rank"] == "1")
    least = (similarities[7] + similarities[8]) / 2
    before = pairings()
    capsys.readouterr()
    assert query_code.main(["--top-k", "3", "--min-similarity", f"{least:.7f}", "--json"]) == 0
    captured = capsys.readouterr()
    assert "without a match: 8 queries" in captured.err
    strong = [row for row in before if float(row["similarity"]) >= least]
    assert pairings() == strong
    printed = [json.loads(line) for line in captured.out.splitlines()]
    assert len(printed) == len(strong)
    report = Path("results/observations.md").read_text()
    assert "12 of 20 query images were matched" in report
    assert "- Queries without a match: 8" in report
    assert f"- Minimum similarity: {float(f'{least:.7f}'):g}\n" in report
    page = Path("results/gallery.html").read_text()
    dropped = {row["query"] for row in before} - {row["query"] for row in strong}
    assert len(dropped) == 8
    assert not any(query in page for query in dropped)
    assert "check --filter and --min-similarity" in fails(
        query_code.main, "--min-similarity", "1.05"
    )


def test_near_duplicates_have_the_pairings_form(loaded: Path) -> None:
    """The queries are copies of the database."""
    shutil.copytree("database_set", "copies")
    assert query_code.main(["--queries", "copies"]) == 0
    with open("results/near_duplicates.txt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 180
    assert {row["change"] for row in rows} == {"the same pixels"}
    report = Path("results/observations.md").read_text()
    assert "For 180 of 180 queries, the nearest match is a near-duplicate" in report
    assert "100.0% with them. Queries" in report
