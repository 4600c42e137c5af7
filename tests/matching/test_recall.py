"""recall.py: the exact search equals brute force."""

from pathlib import Path

import numpy as np
import pytest
from helpers import brute_force, exact_embedder, on_both_engines

from similar_images.matching.recall import exact_search, recall
from similar_images.milvus import collection as image_collection
from similar_images.milvus.collection import existing_collection
from similar_images.milvus.connection import connect, resolve_uri
from similar_images.network.embedding import embed_images

milvus_uri = pytest.fixture(params=["lite", "server"], name="milvus")(on_both_engines)


def test_exact_search_equals_brute_force(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_collection, "READ_EMBEDDINGS", 50)  # several pages
    database, queries, similarities = brute_force(Path("database_set"), Path("query_set"))
    embedder = exact_embedder()
    names = [Path(query).relative_to("query_set").as_posix() for query in queries]
    batches = embed_images(embedder, Path("query_set"), names, workers=0)
    embeddings = np.concatenate([batch.embeddings for batch in batches])
    with connect(resolve_uri(None)) as client:
        collection = existing_collection(client, "images")
        found = exact_search(collection, embeddings, 5)
        some = exact_search(collection, embeddings, 5, 'path like "3/%"')
    for row, matches in enumerate(found):
        nearest = np.sort(similarities[row])[::-1][:5]
        np.testing.assert_allclose([match.similarity for match in matches], nearest, atol=2e-6)
        for match in matches:
            ours = similarities[row, database.index(f"database_set/{match.path}")]
            assert match.similarity == pytest.approx(ours, abs=2e-6)
    assert {match.path[:2] for matches in some for match in matches} == {"3/"}
    assert recall(found, found) == 1
    assert 0 < recall(some, found) < 1
    assert recall([[] for _ in found], found) == 0
