"""--recreate: an alias moves to the new collection, and nothing is lost or mixed on the way."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LOAD, both_engines, load, rows

import embed_and_load
import query_code
from similar_images.milvus import schema
from similar_images.milvus.collection import STRONG, ImageCollection, existing_collection
from similar_images.milvus.connection import connect, resolve_uri
from similar_images.network.openvino_embedder import OpenVinoEmbedder

Fails = Callable[..., str]
Rows = dict[str, dict[str, object]]


def own_names() -> list[str]:
    """The collections that there are, by their own names."""
    with connect(resolve_uri(None)) as client:
        return list(client.milvus.list_collections())


def all_are_new(before: Rows, after: Rows) -> bool:
    return before.keys() == after.keys() and not any(
        after[path]["inserted_at"] == before[path]["inserted_at"] for path in before
    )


def interrupted(owner: type, step: str, monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    """Run --recreate until a step, and interrupt it there."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, interrupt)
        assert load("--recreate", *args) == 130


@both_engines
def test_recreate_replaces_only_when_it_is_done(
    loaded: Path, milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(resolve_uri(None)) as client:
        client.milvus.create_alias(existing_collection(client, "images").own_name, "mine")
    before, old = rows(), own_names()
    with monkeypatch.context() as patch:
        patch.setattr(OpenVinoEmbedder, "embed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            load("--recreate")
    assert rows() == before
    assert load("--recreate") == 0
    assert all_are_new(before, rows())
    [new] = own_names()
    assert new not in old
    assert rows(name="mine") == rows(), "every alias moves"
    assert load("--collection", "mine", "--recreate") == 0
    assert rows(name="mine") == rows()
    assert load("--collection", "mine") == 0
    assert query_code.main(["--collection", "mine"]) == 0
    assert len(own_names()) == 1
    with connect(resolve_uri(None)) as client:
        assert existing_collection(client, "images").properties["version"] == "1.0.0"


@both_engines
@pytest.mark.parametrize("step", ["replace", "drop"])
def test_a_recreate_that_ends_at_its_last_steps_is_finished_by_the_next_run(
    step: str,
    loaded: Path,
    milvus: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = rows()
    interrupted(ImageCollection, step, monkeypatch)
    assert len(own_names()) == 2
    left = rows()
    assert left == before if step == "replace" else all_are_new(before, left)
    assert query_code.main([]) == 0
    assert load() == 0
    assert rows() == left, "whole"
    capsys.readouterr()
    assert load("--recreate") == 0
    assert ("Loaded 0 images" in capsys.readouterr().out) == (step == "replace")
    assert all_are_new(before, rows())
    assert len(own_names()) == 1


def test_an_interrupted_recreate_is_not_resumed_with_other_images(
    loaded: Path, milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server it may be another loader's, which is still running."""
    interrupted(ImageCollection, "replace", monkeypatch)
    shutil.copytree("database_set", "other")
    assert load("--recreate", "--images", "other") == 0
    assert len(own_names()) == (1 if milvus == "./milvus.db" else 2)
    with connect(resolve_uri(None)) as client:
        assert existing_collection(client, "images").root == loaded / "other"
    assert load("--recreate") == 0
    assert len(own_names()) == 1
    interrupted(ImageCollection, "replace", monkeypatch)  # of all images
    assert load("--recreate", "--exclude", "0") == 0
    assert "0" not in {path.split("/")[0] for path in rows()}


@both_engines
def test_a_collection_without_an_alias_is_refused_and_replaced(
    loaded: Path, milvus: str, fails: Fails
) -> None:
    before = rows()
    with connect(resolve_uri(None)) as client:
        own_name = existing_collection(client, "images").own_name
        client.milvus.drop_alias("images")
        client.milvus.rename_collection(own_name, "images")
    assert "load it again with --recreate" in fails(embed_and_load.main, *LOAD)
    assert rows() == before
    assert load("--recreate") == 0
    assert all_are_new(before, rows())
    assert load() == 0
    assert len(own_names()) == 1


@both_engines
@pytest.mark.parametrize("recreate", [False, True])
def test_a_foreign_collection_is_left_alone(
    recreate: bool, loaded: Path, milvus: str, fails: Fails
) -> None:
    """Also one that has an alias, or a name like ours."""
    names = ("foreign", "foreign__0123abcd")
    options = ["--recreate"] if recreate else []
    with connect(resolve_uri(None)) as client:
        for name in names:
            client.milvus.create_collection(name, dimension=512, **STRONG)
            client.milvus.insert(name, [{"id": 1, "vector": [0.5] * 512}])
        client.milvus.create_alias("foreign", "theirs")
    for name in ("foreign", "theirs"):
        error = fails(embed_and_load.main, *LOAD, "--collection", name, *options)
        assert "stays as it is" in error
    with connect(resolve_uri(None)) as client:
        for name in names:
            client.milvus.load_collection(name)
            assert client.milvus.get(name, ids=[1])[0]["id"] == 1


def test_a_collection_of_an_earlier_version_is_refused_until_it_is_recreated(
    loaded: Path, milvus: str, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    with connect(resolve_uri(None)) as client, monkeypatch.context() as patch:
        properties = existing_collection(client, "images").properties
        patch.setattr(schema, "COLUMNS", schema.COLUMNS[: -len(schema.LATER)])
        for beside in (False, True):  # as an interrupted --recreate leaves it
            ImageCollection.create(client, "old", {**properties, "load": "begun"}, beside)
    options = ["--collection", "old"]
    for refused in (
        fails(embed_and_load.main, *LOAD, *options),
        fails(embed_and_load.main, *options, "--export", "v.npz"),
        fails(query_code.main, *options),
    ):
        assert "without the columns content_hash, taken_at, label; " in refused
        assert "--recreate" in refused
    assert load(*options, "--recreate") == 0
    assert rows(name="old").keys() == rows().keys()
    assert load(*options) == 0
