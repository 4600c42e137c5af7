"""recall.py: the exact search equals brute force; similarities that an index claims don't count."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from helpers import both_engines, brute_force, exact_embedder

from similar_images.matching.collection_folder import CollectionFolder
from similar_images.matching.queries import Queries
from similar_images.matching.recall import compare_exactly, measured_recall, recall
from similar_images.matching.search import Search, SearchOptions
from similar_images.milvus import collection as image_collection
from similar_images.milvus.client import Client
from similar_images.milvus.collection import existing_collection
from similar_images.milvus.connection import connect, resolve_uri
from similar_images.milvus.schema import Match
from similar_images.network.embedding import embed_images
from similar_images.network.model_description import Model


def oracle() -> tuple[list[str], np.ndarray, np.ndarray]:
    """The database's paths, the queries' embeddings, and all similarities of both."""
    database, queries, similarities = brute_force(Path("database_set"), Path("query_set"))
    names = [Path(query).relative_to("query_set").as_posix() for query in queries]
    batches = embed_images(exact_embedder(), Path("query_set"), names, workers=0)
    embeddings = np.concatenate([batch.embeddings for batch in batches])
    return [path.removeprefix("database_set/") for path in database], embeddings, similarities


def search_of(client: Client, top_k: int, expression: str = "") -> Search:
    folder = CollectionFolder(existing_collection(client, "images"), None)
    options = SearchOptions(top_k, None, expression, {}, recall_sample=100, keep_in=[])
    return Search(collection=folder.collection, folder=folder, options=options, parameters={})


def queries_of(embeddings: np.ndarray, rows: list[set[str]] | None = None) -> Queries:
    count, rows = len(embeddings), rows or [set() for _ in embeddings]
    model = cast(Model, None)  # not looked at
    return Queries([""] * count, [""] * count, embeddings, rows, [], model, "")


@both_engines
def test_exact_search_equals_brute_force(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_collection, "READ_EMBEDDINGS", 50)  # several pages
    names, embeddings, similarities = oracle()
    queries = queries_of(embeddings)
    nothing: list[list[Match]] = [[] for _ in embeddings]
    threes = [place for place, name in enumerate(names) if name.startswith("3/")]
    own = [{names[row.argmax()]} for row in similarities]
    with connect(resolve_uri(None)) as client:
        five, without = search_of(client, 5), queries_of(embeddings, own)
        found, _ = compare_exactly(five, queries, nothing)
        some, _ = compare_exactly(search_of(client, 5, 'path like "3/%"'), queries, nothing)
        others, _ = compare_exactly(five, without, nothing)
        all_rows, _ = compare_exactly(search_of(client, 500), without, nothing)
    ordered = np.sort(similarities)[:, ::-1]
    np.testing.assert_allclose(found, ordered[:, :5], atol=2e-6)
    np.testing.assert_allclose(some, np.sort(similarities[:, threes])[:, :-6:-1], atol=2e-6)
    np.testing.assert_allclose(others, ordered[:, 1:6], atol=2e-6)
    np.testing.assert_allclose(all_rows, ordered[:, 1:], atol=2e-6)
    assert recall(found, found) == 1
    assert 0 < recall(some, found) < 1
    assert recall([[] for _ in found], found) == 0


@both_engines
@pytest.mark.parametrize(
    ("ranks", "claimed", "words"),
    [
        (range(100, 105), 1.0, "0.0% recall@5 against exact search, on 20 queries"),
        (range(3, 8), 1.0, "40.0% recall@5"),
        (range(5), 0.0, "100.0% recall@5"),
    ],
)
def test_a_match_counts_by_its_exact_similarity(
    ranks: range, claimed: float, words: str, loaded: Path
) -> None:
    names, embeddings, similarities = oracle()
    order = np.argsort(-similarities, axis=1)
    found = [[Match(names[row[rank]], claimed) for rank in ranks] for row in order]
    with connect(resolve_uri(None)) as client:
        search = search_of(client, 5)
        assert measured_recall(search, queries_of(embeddings), found, seed=1).startswith(words)
