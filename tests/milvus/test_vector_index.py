"""vector_index.py: which index a collection gets, and how it is described."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import both_engines, load, rows

import query_code
from similar_images.milvus.client import Client
from similar_images.milvus.collection import existing_collection
from similar_images.milvus.connection import connect, resolve_uri
from similar_images.milvus.schema import VECTOR
from similar_images.milvus.vector_index import Index

Fails = Callable[..., str]


@both_engines
def test_an_index_is_chosen_and_its_recall_reported(
    loaded: Path, milvus: str, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    def index_files() -> bool:
        return any(Path("milvus.db").rglob("*.idx"))

    lite = milvus == "./milvus.db"
    assert "has no search parameter ef" in fails(query_code.main, "--search-params", "ef=9")
    before = rows()
    for kind, name, parameter in (("hnsw", "HNSW", "ef"), ("ivf_flat", "IVF_FLAT", "nprobe")):
        assert load("--index", kind) == 0
        assert load() == 0, "without --index the collection keeps its own"
        options = ["--top-k", "3", "--recall-sample", "7", "--search-params", f"{parameter}=64"]
        capsys.readouterr()
        assert query_code.main(options) == 0
        assert "% recall@3 against exact search, on 7 queries" in capsys.readouterr().out
        report = Path("results/observations.md").read_text().replace("\\", "")
        assert f"approximate ({name}" in report
        assert f"{parameter} 64" in report
        assert "recall@3" in report
    assert index_files() == lite
    assert load("--index", "flat") == 0
    assert not index_files(), "it would hold every vector twice"
    assert query_code.main(["--recall-sample", "20"]) == 0
    report = Path("results/observations.md").read_text().replace("\\", "")
    assert "exact (FLAT" in report
    assert re.search(r"100\.0% recall@1 .*\(95% confidence interval \d+\.\d% to 100\.0%\)", report)
    assert rows() == before


@both_engines
def test_a_large_collection_gets_an_approximate_index_and_one_made_by_hand_stays(
    loaded: Path, milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def index() -> str:
        with connect(resolve_uri(None)) as client:
            return existing_collection(client, "images").index["index_type"]

    with connect(resolve_uri(None)) as client:
        by_hand = Index("IVF_SQ8", {"nlist": 8}, {"nprobe": 8})
        existing_collection(client, "images").use_index(by_hand)
    assert load() == 0
    assert index() == "IVF_SQ8"
    assert query_code.main([]) == 0
    report = Path("results/observations.md").read_text().replace("\\", "")
    assert "approximate (IVF_SQ8" in report, "as it is, not as the collection was asked to be"
    assert load("--index", "auto") == 0
    assert index() == "FLAT"
    monkeypatch.setattr(Client, "exact_rows", 179)
    assert load() == 0
    assert index() == ("FLAT" if milvus == "./milvus.db" else "HNSW")


@both_engines
def test_a_collection_that_lost_its_index_gets_one_again_or_is_searched_exactly(
    loaded: Path, milvus: str, fails: Fails
) -> None:
    before = rows()
    assert load("--index", "hnsw") == 0
    with connect(resolve_uri(None)) as client:
        client.milvus.release_collection("images")
        client.milvus.drop_index("images", VECTOR)
    if milvus == "./milvus.db":
        assert query_code.main([]) == 0
        report = Path("results/observations.md").read_text().replace("\\", "")
        assert "exact (FLAT" in report
    else:
        assert "has lost its index; run python embed_and_load.py" in fails(query_code.main)
    assert load() == 0
    with connect(resolve_uri(None)) as client:
        assert existing_collection(client, "images").index["index_type"] == "HNSW"
    assert rows() == before
    assert query_code.main([]) == 0
