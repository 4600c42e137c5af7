"""camera_raw.py: cameras' RAW files are decoded by their preview, where rawpy is installed."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from drawings import photograph
from helpers import LOAD, load, rows
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

import embed_and_load
import query_code
from similar_images.images.content_hash import BLOCK
from similar_images.images.decoding import decode, hashed
from similar_images.images.image_files import ImageError, image_suffixes


def dng(preview: bytes, orientation: int = 1, taken: str = "") -> bytes:
    """Return a camera's RAW file of 64×48 grey pixels, in Adobe's form, with a JPEG as preview.

    Each of its two directories is followed by its pixels.
    """
    raw = np.full((48, 64), 1000, np.uint16).tobytes()
    preview += b"\0" * (len(preview) % 2)

    def directory(start: int, *entries: tuple[int, int, object]) -> bytes:
        found = ImageFileDirectory_v2()
        for tag, kind, value in entries:
            found.tagtype[tag] = kind
            found[tag] = value
        return found.tobytes(start)

    def first(second: int) -> bytes:
        width, height = Image.open(io.BytesIO(preview)).size
        return directory(
            8,
            *((254, 4, 1), (256, 4, width), (257, 4, height), (258, 3, (8, 8, 8)), (259, 3, 7)),
            *((262, 3, 6), (271, 2, "Maker"), (272, 2, "Model"), (273, 4, 0), (277, 3, 3)),
            *((274, 3, orientation), (278, 4, height), (279, 4, len(preview)), (330, 4, second)),
            *((50706, 1, b"\1\4\0\0"), (50708, 2, "Maker Model"), (50728, 5, (1, 1, 1))),
            *[(50721, 10, (1, 0, 0, 0, 1, 0, 0, 0, 1)), (34665, 4, {36867: taken})],
        )

    start = 8 + len(first(0)) + len(preview)
    second = directory(
        start,
        *((254, 4, 0), (256, 4, 64), (257, 4, 48), (258, 3, 16), (259, 3, 1), (262, 3, 32803)),
        *((273, 4, 0), (277, 3, 1), (278, 4, 48), (279, 4, len(raw))),
        *((33421, 3, (2, 2)), (33422, 1, b"\0\1\1\2")),
    )
    return b"II*\0\x08\0\0\0" + first(start) + preview + second + raw


def saved(image: Image.Image, orientation: int = 1) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    image.save(file, "JPEG", quality=90, exif=exif if orientation != 1 else b"")
    return file.getvalue()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_raw_file_is_decoded_by_its_preview(orientation: int, own_folder: Path) -> None:
    """Upright by the orientation that the RAW file has, and at a scale as any JPEG."""
    pytest.importorskip("rawpy", reason="optional")
    image = photograph()
    Path("x.DNG").write_bytes(dng(saved(image), orientation))
    Path("x.jpg").write_bytes(saved(image, orientation))
    for least_side in (None, 100):
        raw, jpeg = (decode(own_folder, name, least_side) for name in ("x.DNG", "x.jpg"))
        np.testing.assert_array_equal(raw.rgb, jpeg.rgb)
        assert raw.info[3:5] == jpeg.info[3:5]  # width and height
        assert raw.info.file_size == os.path.getsize("x.DNG")


@pytest.mark.parametrize(
    ("taken", "expected"), [("2026:07:04 12:30:05", 1_783_168_205_000), ("", 0)]
)
def test_a_raw_file_tells_when_it_was_taken_though_its_preview_does_not(
    taken: str, expected: int, own_folder: Path
) -> None:
    pytest.importorskip("rawpy", reason="optional")
    Path("x.dng").write_bytes(dng(saved(photograph()), taken=taken))
    assert decode(own_folder, "x.dng").info.taken_at == expected


@pytest.mark.parametrize("suffix", [".NEF", ".tif"])
def test_three_blocks_of_a_raw_file_are_hashed(suffix: str, own_folder: Path) -> None:
    def hash_with(*places: int) -> str:
        data = bytearray(10 * BLOCK)
        for place in places:
            data[place] = 1
        Path(f"x{suffix}").write_bytes(data)
        return hashed(own_folder, f"x{suffix}")[1]

    equal = [hash_with(place) == hash_with() for place in (0, BLOCK, 5 * BLOCK, 10 * BLOCK - 1)]
    assert equal == [False, suffix == ".NEF", False, False]


def test_a_raw_file_is_found_beside_its_jpeg_and_neither_is_a_copy(own_folder: Path) -> None:
    """It holds more than its preview shows."""
    pytest.importorskip("rawpy", reason="optional")
    Path("camera").mkdir()
    for number, name in enumerate(("china.jpg", "flower.jpg")):
        preview = saved(photograph(name))
        Path(f"camera/{number}.jpg").write_bytes(preview)
        Path(f"camera/{number}.dng").write_bytes(dng(preview))
    assert load("--images", "camera") == 0
    assert set(rows()) == {"0.jpg", "0.dng", "1.jpg", "1.dng"}
    assert query_code.main(["--queries", "camera"]) == 0
    found = Path("results/near_duplicates.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert len(found) == 4
    assert all("\tpart\t" in line and "other frames or bits not" in line for line in found), found
    assert not Path("results/copies.txt").exists()
    Path("camera/2.dng").write_bytes(dng(saved(photograph()))[:400])
    with pytest.raises(ImageError, match="a RAW file without a preview that LibRaw can read"):
        decode(own_folder, "camera/2.dng")


def test_a_rawpy_that_cannot_be_imported_is_named(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its files hold is not known, so that their rows are kept."""
    Path("rawpy.py").write_text("raise ImportError('no libraw')")
    monkeypatch.syspath_prepend(str(own_folder))
    monkeypatch.delitem(sys.modules, "rawpy", raising=False)
    image_suffixes.cache_clear()
    Path("x.dng").write_bytes(dng(saved(photograph())))
    with pytest.raises(ImageError, match="rawpy can't be imported: no libraw") as caught:
        decode(own_folder, "x.dng")
    assert caught.value.unseen
    monkeypatch.undo()
    image_suffixes.cache_clear()


def test_without_rawpy_the_package_is_named(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    """Although Pillow would open many RAW files as a TIFF, of which it finds a stamp."""
    Image.new("RGB", (16, 12)).save("1.NEF", "TIFF")
    monkeypatch.setitem(sys.modules, "rawpy", None)
    image_suffixes.cache_clear()
    with pytest.raises(ImageError, match="a camera's RAW file; run pip install rawpy"):
        decode(own_folder, "1.NEF")
    assert "(left out: 1 .nef (pip install rawpy))" in fails(
        embed_and_load.main, *LOAD, "--images", "."
    )
    monkeypatch.undo()
    image_suffixes.cache_clear()
