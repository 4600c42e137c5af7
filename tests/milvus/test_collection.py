"""collection.py: what rows hold, how they are read in pages and counted, whatever their names."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import DIMENSION, both_engines, exact_embedder, load, pairings, rows
from PIL import Image

import query_code
from similar_images.images.decoding import DecodedImage
from similar_images.images.image_files import Listing, iter_images
from similar_images.milvus import collection as image_collection
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import MAX_TOP_K, ImageCollection, existing_collection
from similar_images.milvus.connection import connect, resolve_uri
from similar_images.network.embedding import embed_images


@both_engines
def test_rows_hold_what_the_contract_says(loaded: Path) -> None:
    stored = rows()
    paths = sorted(image.path for image in iter_images(Path("database_set"), Listing()))
    assert sorted(stored) == paths
    embedder = exact_embedder()
    batches = embed_images(embedder, Path("database_set"), paths, workers=0)
    expected = np.concatenate([batch.embeddings for batch in batches])
    for path, embedding in zip(paths, expected, strict=True):
        row, status = stored[path], Path("database_set", path).stat()
        np.testing.assert_allclose(row["embedding"], embedding, atol=1e-6)
        assert (row["width"], row["height"]) == (32, 32)
        assert (row["file_size"], row["modified_at"]) == (status.st_size, status.st_mtime_ns)
        assert row["label"] == path.partition("/")[0]
        assert 0 <= row["inserted_at"] / 1000 - status.st_mtime < 3600  # type: ignore[operator]


@both_engines
def test_rows_for_which_a_filter_is_true_are_counted(loaded: Path, milvus: str) -> None:
    """Also rows that have just been replaced or deleted."""
    sizes = [int(str(row["file_size"])) for row in rows().values()]
    middle = sorted(sizes)[90]
    larger = sum(size > middle for size in sizes)
    assert 0 < larger < 180
    with connect(resolve_uri(None), must_exist=True) as client:
        collection = existing_collection(client, "images")
        assert collection.count() == 180
        assert collection.count(f"file_size > {middle}") == larger
        assert collection.count("width > 1000") == 0
        assert collection.count('path like "%" or width < 9') == 180
        with pytest.raises(CollectionError, match=r"; check --filter$"):
            collection.count("file_size >")
        vector = np.eye(DIMENSION, dtype=np.float32)[:2]
        new = [DecodedImage(name, 10**9, 1, 2, 3) for name in ("new 1.png", "new 2.png")]
        for _ in range(2):
            collection.upsert(new, vector)
            assert collection.count(f"file_size > {middle}") == larger + 2
        collection.delete(["new 1.png"])
        assert collection.count(f"file_size > {middle}") == larger + 1


@both_engines
def test_an_image_is_its_own_nearest_and_nothing_is_nearer_than_equal(loaded: Path) -> None:
    with connect(resolve_uri(None), must_exist=True) as client:
        collection = existing_collection(client, "images")
        paths, embeddings = next(collection.stored_embeddings())
        found = [match for page in collection.search(embeddings) for [match] in page]
    assert [match.path for match in found] == paths
    similarities = np.array([match.similarity for match in found])
    np.testing.assert_allclose(similarities, 1, atol=1e-6)
    assert similarities.max() <= 1


NAMES = [
    'quote".png',
    "apostrophe's.png",
    "back\\slash.png",
    'all\\"of\\\'them".png',
    'a" or path != "".png',
    "new\nline.png",
    "tab\tulator.png",
    "percent%_like.png",
    "{path}.png",
    'z 15".png',
    'z" or path != ".png',
    "z\\",
    "\u202egnp.exe.png",
    "\x1b[31mred.png",
    " leading and trailing .png",
    "e\u0301 and \u00e9.png",
    "😀.png",
]


@both_engines
def test_an_answer_is_bounded_however_many_matches_are_asked_for(loaded: Path) -> None:
    embeddings = np.array([row["embedding"] for row in rows().values()], np.float32)
    with connect(resolve_uri(None), must_exist=True) as client:
        collection = existing_collection(client, "images")
        answers = list(collection.search(embeddings, MAX_TOP_K))
        assert all(len(some) * MAX_TOP_K <= 100_000 for some in answers)
        found = [match.similarity for some in answers for row in some for match in row]
        (together,) = collection.search(embeddings, top_k=len(embeddings))
    assert found == pytest.approx([match.similarity for row in together for match in row])


@both_engines
def test_names_cannot_break_a_filter_or_a_line(
    own_folder: Path, milvus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = "/".join(["d" * 150, "e" * 150, "f.png"])  # 306 characters
    names = [*NAMES, deep]
    names = [name if name.endswith(".png") else f"{name}.png" for name in names]
    for number, name in enumerate(names):
        path = own_folder / "odd names" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = (16 * number, 255 - 16 * number, 7 * number)
        Image.new("RGB", (12, 12), colour).save(path, "PNG")
    Path("odd names/bad\nname.png").write_bytes(b"no image")
    assert load("--images", "odd names") == 0
    assert set(rows()) == set(names)
    shutil.copytree("odd names", "odd copies")
    assert query_code.main(["--queries", "odd copies"]) == 0
    written = pairings()
    assert len(written) == len(names)
    for row in written:
        assert row["query"] == row["match"].replace("odd names", "odd copies", 1)
    assert load("--images", "odd names") == 0
    assert f"{len(names)} were already in the collection" in capsys.readouterr().out
    for name in names[::2]:
        (own_folder / "odd names" / name).unlink()
    assert load("--images", "odd names", "--prune", "--prune-most") == 0
    assert set(rows()) == set(names[1::2])
    printed = capsys.readouterr()
    report = Path("results/observations.md").read_text() + Path("results/pairings.txt").read_text()
    for text in (printed.out, printed.err, report):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert not re.search(r"^name\.png|^line\.png", text, re.MULTILINE)


@both_engines
def test_rows_are_read_in_pages_whatever_the_last_key_of_a_page(
    own_folder: Path, milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hostile name alone, last of all, and at the end of a page of one row."""
    vector = np.eye(512, dtype=np.float32)
    with connect(resolve_uri(None)) as client:
        properties = {"root": "/nowhere", "dimension": "512"}
        collection = ImageCollection.create(client, "images", properties)
        for name in NAMES:
            names = sorted({"!first.png", name})
            for some in ([name], names):
                collection.upsert([DecodedImage(n, 1, 2, 3, 4) for n in some], vector[: len(some)])
                for page in (1, 2):
                    monkeypatch.setattr(image_collection, "READ_ROWS", page)
                    monkeypatch.setattr(image_collection, "READ_EMBEDDINGS", page)
                    assert [image.path for image in collection.stored_images()] == some
                    pages = collection.stored_embeddings("file_size == 1 or width > 5")
                    assert [path for paths, _ in pages for path in paths] == some
                    assert not list(collection.stored_embeddings("file_size == 9 or width > 5"))
            collection.delete(names)
            assert collection.count() == 0
        every = sorted(NAMES)
        collection.upsert([DecodedImage(n, 1, 2, 3, 4) for n in every], vector[: len(every)])
        monkeypatch.setattr(image_collection, "READ_ROWS", 1)
        assert [image.path for image in collection.stored_images()] == every


@pytest.mark.parametrize("milvus", ["server"], indirect=True)
def test_vectors_of_many_dimensions_are_read_and_searched_in_parts(
    own_folder: Path, milvus: str
) -> None:
    """A server refuses requests of 64 MB, and the tests' one also answers of 40 MB."""
    dimension, count = 32_768, 320  # Milvus's maximum; 42 MB
    vectors = np.eye(count, dimension, dtype=np.float32)
    names = [f"{number:03}.png" for number in range(count)]
    with connect(resolve_uri(None)) as client:
        properties = {"root": "/nowhere", "dimension": str(dimension)}
        collection = ImageCollection.create(client, "images", properties)
        at_once = client.rows_per_upsert(dimension)
        for start in range(0, count, at_once):
            images = [DecodedImage(name, 1, 2, 3, 4) for name in names[start : start + at_once]]
            collection.upsert(images, vectors[start : start + at_once])
        assert [path for paths, _ in collection.stored_embeddings() for path in paths] == names
        read = {stored.path: row for stored, row in collection.embeddings_of(names)}
        assert all(read[name][place] == 1 for place, name in enumerate(names))
        pages = collection.search(np.concatenate([vectors, vectors]))
        assert [match.path for page in pages for [match] in page] == [*names, *names]
