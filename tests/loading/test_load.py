"""What a load prunes and keeps, and what it says; on Milvus Lite and on a server."""

import contextlib
import csv
import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import LOAD, both_engines, load, rows
from PIL import Image

import embed_and_load
import query_code
from similar_images.images import image_files
from similar_images.network.openvino_embedder import OpenVinoEmbedder

Fails = Callable[..., str]


def test_nothing_is_pruned_under_what_could_not_be_listed(
    loaded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows()
    scandir = os.scandir

    def refused(folder: Any) -> Any:
        if Path(folder).name == "3":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    shutil.rmtree("database_set/4")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        assert load("--prune") == 0
    kept = {path for path in before if not path.startswith("4/")}
    assert set(rows()) == kept
    out = capsys.readouterr().out
    locked = sum(path.startswith("3/") for path in before)
    assert f"{locked} rows whose file may still exist (unreadable" in out
    assert load("--prune") == 0
    assert set(rows()) == kept


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_nothing_is_pruned_under_a_link_that_leads_nowhere(loaded: Path) -> None:
    """As where a share is not mounted."""
    before = rows()
    os.rename("database_set/5", "share")
    os.symlink(loaded / "share", "database_set/5")
    assert load("--prune") == 0
    os.rename("share", "unmounted")
    assert load("--prune") == 0
    assert set(rows()) == set(before)


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_nothing_is_pruned_whose_link_leads_nowhere(loaded: Path) -> None:
    """As where single images are links to a disk that is not mounted."""
    before = rows()
    for path in list(before)[:5]:
        Path("database_set", path).unlink()
        os.symlink(loaded / "unmounted" / path, Path("database_set", path))
    assert load("--prune") == 0
    assert set(rows()) == set(before)


def test_files_that_a_listing_lacks_are_kept_and_those_it_repeats_are_loaded_once(
    loaded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As btrfs and tmpfs list a folder whose files are replaced meanwhile."""
    before, scandir = rows(), os.scandir
    lost, gone = list(before)[:2]
    Path("database_set", gone).unlink()
    for name, colour in (("new.png", "red"), ("another.png", "tan")):
        Image.new("RGB", (9, 9), colour).save(f"database_set/{name}")

    @contextlib.contextmanager
    def listed(folder: Any) -> Iterator[Iterator["os.DirEntry[str]"]]:
        with scandir(folder) as entries:
            there = [entry for entry in entries if entry.name != Path(lost).name]
            yield iter(there + there[::-1])

    monkeypatch.setattr(os, "scandir", listed)
    capsys.readouterr()
    assert load("--prune") == 0
    assert set(rows()) == set(before) - {gone} | {"new.png", "another.png"}
    out = capsys.readouterr().out
    assert "Loaded 2 images" in out
    assert "1 row whose file may still exist" in out


@both_engines
@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_rows_under_another_path_of_a_folder_are_pruned(loaded: Path) -> None:
    """Although that path leads to the files: they are loaded under the other one."""
    before = rows()
    os.rename("database_set/5", "database_set/link")
    assert load("--prune") == 0
    assert {path.replace("5/", "link/") for path in before if path.startswith("5/")} <= set(rows())
    os.rename("database_set/link", "database_set/5")
    os.symlink("5", "database_set/link")
    assert load("--prune") == 0
    assert set(rows()) == set(before)


def test_nothing_is_pruned_under_an_empty_folder(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a disk is not mounted on a folder below the root."""
    before = rows()
    shutil.rmtree("database_set/5")
    Path("database_set/5").mkdir()
    Path("database_set/5/.keep").touch()  # a hidden file, as mount points often have
    capsys.readouterr()
    assert load("--prune") == 0
    assert set(rows()) == set(before)
    number = sum(path.startswith("5/") for path in before)
    assert f"{number} rows whose file may still exist (unreadable" in capsys.readouterr().out
    shutil.rmtree("database_set/5")
    assert load("--prune") == 0
    assert set(rows()) == {path for path in before if not path.startswith("5/")}


def test_nothing_is_pruned_that_no_decoder_takes_now(
    loaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where pillow-heif has been uninstalled."""
    Image.new("RGB", (9, 9)).save("database_set/phone.TIF")
    assert load() == 0
    before = rows()
    assert "phone.TIF" in before
    functions = (image_files.readable_formats, image_files.image_suffixes)
    with monkeypatch.context() as patch:
        refused = image_files.REFUSED_FORMATS | {"TIFF"}
        patch.setattr(image_files, "REFUSED_FORMATS", refused)
        for function in functions:
            function.cache_clear()
        assert load("--prune") == 0
        assert set(rows()) == set(before)
    for function in functions:
        function.cache_clear()


@both_engines
def test_a_prune_of_most_rows_asks_for_a_word_more(loaded: Path, fails: Fails) -> None:
    before = rows()
    for label in "0123456":
        shutil.rmtree(f"database_set/{label}")
    error = fails(embed_and_load.main, *LOAD, "--prune")
    assert "too many to remove unasked: is a disk missing?" in error
    assert "--prune-most" in error
    assert rows() == before
    assert load("--prune", "--prune-most") == 0
    assert set(rows()) == {path for path in before if path[0] in "789"}


def test_what_is_left_out_is_said(loaded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.heic", "b.heic", "c.svg"):
        Path("database_set", name).write_bytes(b"")
    capsys.readouterr()
    assert load() == 0
    said = capsys.readouterr().out
    assert "1 .svg" in said.partition("Left out: ")[2].splitlines()[0]


def test_a_folder_of_nothing_else_says_what_it_holds(own_folder: Path, fails: Fails) -> None:
    Path("phone").mkdir()
    for number in range(3):
        Path(f"phone/{number}.svg").write_bytes(b"")
    error = fails(embed_and_load.main, *LOAD, "--images", "phone")
    assert "phone holds no images (left out: 3 .svg)" in error


@both_engines
def test_files_of_known_content_are_not_embedded(
    loaded: Path, milvus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied with new times, moved to a subfolder, or with each other's names."""
    before = rows()
    one, other, *_ = sorted(before)
    shutil.copytree("database_set", "copies", copy_function=shutil.copy)
    Path("copies/sub").mkdir()
    os.rename("copies/7", "copies/sub/7")
    Path("copies", one).write_bytes(Path("database_set", other).read_bytes())
    Path("copies", other).write_bytes(Path("database_set", one).read_bytes())
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(OpenVinoEmbedder, "embed", lambda *_: 1 / 0)
        assert load("--images", "copies", "--moved") == 0
    assert "180 files of known content" in capsys.readouterr().out
    after, moved = rows(), [path for path in before if path.startswith("7/")]
    assert moved
    assert set(after) == {*before, *(f"sub/{path}" for path in moved)}
    for path in set(after) - set(moved):
        status = Path("copies", path).stat()
        row, same = after[path], before[{one: other, other: one}.get(path, path[-len(one) :])]
        assert (row["modified_at"], row["label"]) == (status.st_mtime_ns, path.split("/")[0])
        for name in ("embedding", "content_hash", "file_size", "width", "height"):
            assert row[name] == same[name]


def test_equal_files_are_embedded_once(milvus: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("images/b").mkdir(parents=True)
    for name in ("a.png", "b/2.png", "c.png"):
        Image.new("RGB", (9, 9), "red").save(Path("images", name))
    Image.new("RGB", (9, 9), "tan").save("images/d.png")
    for name in ("e.png", "f.png"):
        Path("images", name).write_bytes(b"broken")
    assert load("--images", "images") == 0
    out = capsys.readouterr().out
    assert "3 images to embed" in out
    assert "Skipped unreadable files: 2" in out
    stored = rows()
    assert sorted(stored) == ["a.png", "b/2.png", "c.png", "d.png"]
    assert stored["a.png"]["embedding"] == stored["b/2.png"]["embedding"]
    assert stored["a.png"]["embedding"] != stored["d.png"]["embedding"]


def test_a_single_value_that_changed_is_seen(milvus: str) -> None:
    """In a file that is not compressed, of the same size."""
    Path("images").mkdir()
    Image.new("RGB", (400, 400)).save("images/a.bmp")
    assert load("--images", "images") == 0
    file = bytearray(Path("images/a.bmp").read_bytes())
    file[len(file) // 3] = 255
    Path("images/a.bmp").write_bytes(file)
    before = rows()["a.bmp"]
    assert load("--images", "images") == 0
    assert rows()["a.bmp"]["embedding"] != before["embedding"]


def test_labels_come_from_a_file(
    loaded: Path, milvus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all but one image, which then has none; the rows get them without being embedded."""
    before = rows()
    wanted = {path: "even" if int(path[0]) % 2 == 0 else 'o,d "d"' for path in before}
    without = min(wanted)
    with open("labels.tsv", "w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerows([("Label", "file_name"), ("even", "gone.png")])
        table.writerows((wanted[path], f"./{path}") for path in wanted if path != without)
    wanted[without] = ""
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(OpenVinoEmbedder, "embed", lambda *_: 1 / 0)
        assert load("--labels", "labels.tsv") == 0
    assert "Labels: 179 lines of labels.tsv; 1 more have no image" in capsys.readouterr().out
    after = rows()
    assert {path: row["label"] for path, row in after.items()} == wanted
    assert {path: row["embedding"] for path, row in after.items()} == {
        path: row["embedding"] for path, row in before.items()
    }
    assert load() == 1
    assert "labels.tsv; give it with --labels" in capsys.readouterr().err
    queries = sorted(path.as_posix()[10:] for path in Path("query_set").rglob("*.png"))
    named = {path: f"q{number % 3}" for number, path in enumerate(queries)}
    lines = "".join(f"{path},{label}\r\n" for path, label in named.items())
    Path("queries.csv").write_text(f"image,label\r\n{lines}")
    for folder, labels, options in (
        ("query_set", named, ["--labels", "queries.csv"]),
        ("database_set", wanted, []),
    ):
        capsys.readouterr()
        assert query_code.main(["--queries", folder, "--json", *options]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(found) == len(labels)
        for pair in found:
            assert pair["query_label"] == labels[pair["query"].partition("/")[2]]
            assert pair["match_label"] == wanted[pair["match"].partition("/")[2]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"image,class\na.png,b\n", "does not name its columns"),
        (b"", "does not name its columns"),
        (b"path,label\na.png,\xff\n", "can't be read as CSV"),
        (b"path,label\na.png,b\n./a.png,c\n", "has two labels for a.png"),
        (b'path\tlabel\na.png\t"\nb.png\tc\n', "can't be read as CSV (unexpected end"),
        (b'path\tlabel\na.png\t"5" disk\n', "can't be read as CSV ("),
        (b"path,label\na.png," + b"x" * 5000, "a quotation mark missing"),
        (b"path,label\ndatabase_set/0/1.png,b\n", "no line of labels.csv has an image of"),
    ],
)
def test_files_that_hold_no_labels_are_named(
    text: bytes, reason: str, loaded: Path, fails: Fails
) -> None:
    """Nothing is changed: the next load needs no labels."""
    before = rows()
    Path("labels.csv").write_bytes(text)
    for main in (embed_and_load.main, query_code.main):
        error = fails(main, "--labels", "labels.csv")
        assert reason in error
        assert "labels.csv" in error
    assert load() == 0
    assert rows() == before


@pytest.mark.parametrize(
    "lines",
    [
        ['label, path, "by"', 'cat, "a/p 0.png", x', '"cat, big", a/p 1.png, x'],
        ["path;label", "a\\p 0.png;cat", "a\\p 1.png;cat, big"],
        ["image\tlabel", "./a/p 0.png\tcat", "a/../a/p 1.png\tcat, big"],
    ],
)
def test_labels_are_read_as_programs_write_them(lines: list[str], own_folder: Path) -> None:
    """Spaces after the commas, Excel's semicolons, Windows's paths, macOS's accents."""
    for form, number in (("NFC", 0), ("NFD", 1)):
        path = Path("images", unicodedata.normalize(form, f"ä/p {number}.png"))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (90 * number, 0, 0)).save(path)
    text = "\n".join(lines).replace("a/", "ä/").replace("a\\", "ä\\")
    Path("labels.csv").write_text(text, encoding="utf-8")
    assert load("--images", "images", "--labels", "labels.csv") == 0
    assert {path[-5]: row["label"] for path, row in rows().items()} == {"0": "cat", "1": "cat, big"}
