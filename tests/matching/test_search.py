"""search.py and query_code.py: what counts as a match, and what is said of the others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from helpers import pairings

import query_code
from similar_images.matching.collection_folder import CollectionFolder
from similar_images.matching.pairs import RowNames
from similar_images.matching.queries import Queries
from similar_images.matching.search import Search, SearchOptions
from similar_images.milvus.collection import existing_collection
from similar_images.milvus.connection import connect, resolve_uri
from similar_images.milvus.schema import Match
from similar_images.network.model_description import Model

Fails = Callable[..., str]


def test_weaker_matches_are_dropped(loaded: Path) -> None:
    """Whether a similarity is reached is judged up to rounding."""
    found = [[Match("a", 0.75), Match("b", 0.5)], [Match("c", 0.25)], [Match("d", 0.4999995)]]
    queries = Queries(
        ["x", "y", "z"], [""] * 3, np.empty((3, 2)), [set()] * 3, [], cast(Model, None), ""
    )
    with connect(resolve_uri(None)) as client:
        folder = CollectionFolder(existing_collection(client, "images"), None)
        for least, kept in ((None, "abcd"), (0.5, "abd"), (0.6, "a"), (0.95, "")):
            options = SearchOptions(1, least, "", {}, 0, [])
            search = Search(
                collection=folder.collection, folder=folder, options=options, parameters={}
            )
            rows = search.pairs(queries, found, RowNames(queries, folder))
            assert [Path(pair.match).name for row in rows for pair in row] == list(kept)


def test_queries_without_a_match_are_counted_everywhere(
    loaded: Path, capsys: pytest.CaptureFixture[str]
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
