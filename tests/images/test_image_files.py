"""image_files.py: which images are found under a folder, and what is said of the rest."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PROJECT
from PIL import Image

from similar_images.images import image_files
from similar_images.images.image_files import (
    NO_PHOTOGRAPHS,
    Listing,
    iter_images,
    left_out_in_words,
)


def paint(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


def found_in(root: Path) -> tuple[list[str], Listing]:
    listing = Listing()
    return sorted(image.path for image in iter_images(root, listing)), listing


def unseen(listing: Listing) -> set[str]:
    return {item.path for item in listing.skipped if item.unseen}


def test_images_are_found_by_suffix_in_all_folders(photos: Path) -> None:
    for name in ("a b.png", "a/1.png", "a.png", "a-b/x.png", "Z.PNG"):
        paint(photos / name)
    (photos / "notes.txt").write_text("not an image")
    (photos / ".hidden.png").write_bytes(b"")
    found, listing = found_in(photos)
    assert len(found) == len(set(found))
    names = {p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.is_file()}
    assert set(found) == names - {"notes.txt", ".hidden.png"}
    assert not listing.skipped
    assert listing.left_out == {".txt": 1}


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX's")
def test_links_are_followed_but_never_in_a_circle(photos: Path, own_folder: Path) -> None:
    paint(own_folder / "other/x.png")
    (photos / "linked").symlink_to(own_folder / "other")
    (photos / "deep/loop").symlink_to(photos)
    (photos / "dangling.png").symlink_to(photos / "nothing")
    (photos / "unmounted").symlink_to(own_folder / "share")
    os.mkfifo(photos / "pipe.png")
    found, listing = found_in(photos)
    assert "linked/x.png" in found
    assert len(found) == 10
    skipped = {"deep/loop", "dangling.png", "pipe.png", "unmounted"}
    assert {item.path for item in listing.skipped} == skipped
    assert unseen(listing) == {"unmounted", "dangling.png"}, "both may be on a disk not mounted"


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_a_folder_is_listed_once_whatever_links_lead_to_it(own_folder: Path) -> None:
    paint(own_folder / "images/2020/rome/1.png")
    paint(own_folder / "root/own/2.png")
    links = {"a": "root/own", "by place": "images/2020/rome", "by year": "images/2020"}
    for name, target in links.items():
        (own_folder / "root" / name).symlink_to(own_folder / target)
    (own_folder / "root/the same").symlink_to(own_folder / "images/2020")
    found, listing = found_in(own_folder / "root")
    assert found == ["by place/1.png", "own/2.png"]
    assert {item.path for item in listing.skipped} == {"a", "by year/rome", "the same"}
    assert not unseen(listing)


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
@pytest.mark.parametrize("reverse", [False, True])
def test_links_to_links_do_not_double_at_each_level(
    reverse: bool, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever order the system lists a folder in, the same paths are found."""
    levels = 18  # 2 ** 18 paths
    for level in range(levels):
        folder = own_folder / f"levels/{level}"
        paint(folder / "x.png")
        for name in ("a", "b"):
            (folder / name).symlink_to(f"../{level + 1}")
    paint(own_folder / f"levels/{levels}/x.png")
    scandir = os.scandir

    @contextlib.contextmanager
    def ordered(folder: str) -> Iterator[Iterator["os.DirEntry[str]"]]:
        with scandir(folder) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=reverse))

    monkeypatch.setattr(os, "scandir", ordered)
    found, listing = found_in(own_folder / "levels/0")
    assert found == sorted(f"{'a/' * level}x.png" for level in range(levels + 1))
    assert len(listing.skipped) == levels


def test_what_cannot_be_listed_is_named_and_not_seen(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("good/1.png", "locked/2.png", "locked/in/3.png"):
        paint(own_folder / "top" / name)
    scandir = os.scandir

    def refused(folder: Any) -> Any:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    found, listing = found_in(own_folder / "top")
    assert found == ["good/1.png"]
    assert unseen(listing) == {"locked"}
    assert listing.skipped[0].reason == "Permission denied"


TAKEN = [".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff"]
TAKEN += [".jp2", ".mpo", ".ico", ".icns", ".psd", ".tga", ".ppm", ".dds", ".qoi", ".ftc", ".ftu"]
LEFT_OUT = [".eps", ".ps", ".iim", ".pdf", ".wmf", ".emf", ".mpg", ".mpeg", ".h5", ".hdf"]
LEFT_OUT += [".grib", ".bufr", ".svg", ".txt", ".mp4", ".zip", ""]


def test_images_are_told_from_other_files_by_suffix(own_folder: Path) -> None:
    for suffix in TAKEN + LEFT_OUT:
        Path(f"x{suffix}").touch()
        Path(f"y{suffix.upper()}").touch()
    found, listing = found_in(own_folder)
    assert found == sorted(f"x{x}" for x in TAKEN) + sorted(f"y{x.upper()}" for x in TAKEN)
    assert listing.left_out == dict.fromkeys(LEFT_OUT, 2)


def test_what_is_left_out_is_counted_by_suffix(own_folder: Path) -> None:
    for number in range(3):
        Path(f"{number}.HEVC").write_bytes(b"")
    for name in ("a.svg", "README"):
        Path(name).write_bytes(b"")
    listing = found_in(own_folder)[1]
    words = left_out_in_words(listing)
    assert words.startswith("3 .hevc, ")
    assert "1 .svg" in words
    assert "1 without a suffix" in words
    listing.left_out.update({f".s{n}": 2 for n in range(20)})
    listing.excluded.update({f"#{n}": 1 for n in range(20)})
    words = left_out_in_words(listing)
    assert words.startswith("1 #0, 1 #1, ")
    assert "1 #19, 3 .hevc, 2 .s0, " in words, "names before suffixes, all of them"
    assert words.endswith("2 .s6, …")


def test_what_is_excluded_is_counted_by_the_name_that_excludes_it(own_folder: Path) -> None:
    kept = ["2020/a.png", "eaDir/b.png", "2020/notes.tiff"]
    left_out = ["@eaDir/a.png/L.png", "2020/@EADIR/x.png", ".Trash-1000/t.png", "2020/S.TIF"]
    for path in kept + left_out:
        paint(own_folder / path)
    listing = Listing()
    excluded = ("s.ti[ef]", *NO_PHOTOGRAPHS)
    assert {i.path for i in iter_images(own_folder, listing, excluded=excluded)} == set(kept)
    assert listing.excluded == {"@eaDir": 2, ".Trash*": 1, "s.ti[ef]": 1}
    assert set(found_in(own_folder)[0]) == {*kept, "2020/S.TIF"}


def test_heic_is_named_with_its_package_and_taken_with_it(own_folder: Path) -> None:
    """In processes of their own, since what Pillow opens is asked once."""
    code = (
        "import sys, json\n{}\n"
        "from pathlib import Path\n"
        "from similar_images.images.image_files import *\n"
        "listing = Listing()\n"
        "print([image.path for image in iter_images(Path('.'), listing)])\n"
        "print(has_image_suffix('x.heic'))\n"
        "print(left_out_in_words(listing))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}

    def printed(code: str) -> list[str]:
        command = [sys.executable, "-c", code]
        return subprocess.check_output(command, env=environment, text=True).splitlines()

    Path("x.heic").write_bytes(b"")
    without = printed(code.format("sys.modules['pillow_heif'] = None"))
    assert without == ["[]", "False", "1 .heic (pip install pillow-heif)"]
    pytest.importorskip("pillow_heif", reason="optional")
    assert printed(code.format("")) == ["['x.heic']", "True", ""]


def test_a_heic_image_is_decoded(own_folder: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="optional")
    from similar_images.images.decoding import decode

    pixels = np.zeros((64, 48, 3), np.uint8)
    pixels[:, :, 0] = 200
    pillow_heif.from_pillow(Image.fromarray(pixels)).save("x.heic")
    info, rgb = decode(own_folder, "x.heic")[:2]
    assert (info.width, info.height) == (48, 64)
    assert np.abs(np.asarray(rgb).astype(int) - pixels).max() < 12


def test_a_jpeg_xl_image_is_found_and_decoded(own_folder: Path) -> None:
    pytest.importorskip("pillow_jxl", reason="optional")
    from similar_images.images.decoding import decode

    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    Image.fromarray(pixels).save("x.jxl", lossless=True)
    assert found_in(own_folder)[0] == ["x.jxl"]
    np.testing.assert_array_equal(decode(own_folder, "x.jxl").rgb, pixels)


def test_an_image_is_not_seen_where_memory_runs_out() -> None:
    assert image_files.image_error(MemoryError()).unseen
    assert not image_files.image_error(ValueError("broken")).unseen
