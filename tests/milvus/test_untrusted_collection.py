"""What a shared collection says about itself: never printed raw, never a traceback."""

import re
from pathlib import Path

import pytest
from helpers import both_engines, load

import query_code
from similar_images.images.decoding import DecodedImage
from similar_images.milvus.collection import PROPERTY_PREFIX, existing_collection
from similar_images.milvus.connection import connect, resolve_uri

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202egnp\u2066\u2028\nforged\t"


def run_both_scripts(capfd: pytest.CaptureFixture[str]) -> str:
    """Query and load; return what was printed, checked."""
    query = str(next(Path("query_set").rglob("*.png")))
    capfd.readouterr()
    for options in ([], ["--json"], ["--collection-images", "database_set"], [query]):
        assert query_code.main(options) in (0, 1)
    assert load() in (0, 1)
    return checked(capfd)


def checked(capfd: pytest.CaptureFixture[str]) -> str:
    """Return what was printed: no control character, no forged line."""
    captured = capfd.readouterr()
    printed = captured.out + captured.err
    assert not CONTROLS.search(printed)
    assert not re.search("^forged", printed, re.MULTILINE)
    return printed


def set_property(name: str, value: str) -> None:
    with connect(resolve_uri(None)) as client:
        client.milvus.alter_collection_properties("images", {f"{PROPERTY_PREFIX}{name}": value})


def test_no_property_reaches_the_terminal_raw(
    loaded: Path, milvus: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("root", "architecture", "weights"):
        set_property(name, f"{HOSTILE} {name}")
        printed = run_both_scripts(capfd)
        assert f" {name}" in printed
        assert "forged" in printed


@both_engines
def test_a_property_that_the_loader_never_writes_is_refused(
    loaded: Path, milvus: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each would otherwise end in a traceback, or in a server that fails: another dimension."""
    for name, value in (
        ("index", "of no kind"),
        ("rows", "many"),
        ("root", "a\0b"),
        ("dimension", "256"),
    ):
        set_property(name, value)
        printed = run_both_scripts(capfd)
        assert printed.count("was not made by embed_and_load.py and stays as it is; choose") == 5
        true = {"index": "auto", "rows": "180", "root": "database_set", "dimension": "512"}
        set_property(name, true[name])


@both_engines
def test_rows_of_any_path_end_in_no_traceback_and_are_not_printed_raw(
    loaded: Path, milvus: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """All of these paths are matches: they have the embedding of an image that is searched for."""
    paths = [HOSTILE, "a\0b.png", "../../x.png", "/etc/passwd", r"..\..\x.png", "D:x.png", "."]
    with connect(resolve_uri(None)) as client:
        collection = existing_collection(client, "images")
        [first, *_], embeddings = next(collection.stored_embeddings())
        images = [DecodedImage(path, 1, 32, 32, 1, label=HOSTILE) for path in paths]
        collection.upsert(images, embeddings[[0] * len(paths)])
    image = str(Path("database_set", first))
    capfd.readouterr()
    for options in ([image], [image, "--json"], ["--queries", "database_set"]):
        assert query_code.main([*options, "--top-k", "9"]) == 0
        printed = checked(capfd)
        assert "passwd" in printed or "--queries" in options
    for file in Path("results").glob("*.[mt]*"):
        assert not CONTROLS.search(file.read_text().replace("\t", ""))
    assert load() == 0
    checked(capfd)
