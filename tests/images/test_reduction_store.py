"""reduction_store.py: each image is decoded once, at a reduced scale, and shown as it is."""

import io
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import NAME, pairings
from PIL import Image
from sklearn.datasets import load_sample_image

import embed_and_load
import query_code
from similar_images.images import decode_workers
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.near_duplicates import find_near_duplicates
from similar_images.matching.pairs import Pair
from similar_images.verifying.features import examine

SCALED = 100  # pixels: least short side, so that the images below are decoded at a scale


def words_of(first: str, second: str) -> str | None:
    with ReductionStore(examine, SCALED) as reductions:
        found = find_near_duplicates([[Pair(first, second, 0.9)]], reductions).near
        assert reductions[first].scaled or reductions[second].scaled
    return found[0].verdict.words if found else None


def photograph(size: tuple[int, int] = (1600, 1066)) -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg")).resize(size)


def test_only_equal_files_have_the_same_pixels_for_certain_at_a_scale(own_folder: Path) -> None:
    photograph().save("a.jpg", quality=90)
    shutil.copy("a.jpg", "copy.jpg")
    Path("comment.jpg").write_bytes(
        Path("a.jpg").read_bytes()[:2] + b"\xff\xfe\x00\x04hi" + Path("a.jpg").read_bytes()[2:]
    )
    Image.open("a.jpg").save("a.png")
    Image.open("a.jpg").save("again.jpg", quality=60)
    Image.open("a.jpg").resize((800, 533)).save("half.jpg", quality=90)
    expected = {
        "copy.jpg": "the same pixels",
        "comment.jpg": "re-encoded",
        "a.png": "re-encoded",
        "again.jpg": "re-encoded",
        "half.jpg": "resized",
    }
    assert {name: words_of("a.jpg", name) for name in expected} == expected


def test_what_only_the_reduced_scale_hides_is_no_equality(own_folder: Path) -> None:
    """Blocks of 8×8 with the same mean are equal at 1/8, whatever is in them."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(64, 192, (64, 64)).repeat(16, 0).repeat(16, 1)
    stripes = np.where(np.arange(1024) % 2, 24, -24)
    for name, pixels in {
        "blocks.jpg": coarse,
        "blocks, striped.jpg": coarse + stripes,
    }.items():
        Image.fromarray(pixels.astype(np.uint8)).save(name, quality=100)
    assert words_of("blocks.jpg", "blocks, striped.jpg") != "the same pixels"


def test_a_query_decodes_each_image_once(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries while they are embedded, matches once however many queries they match.

    Only the detail of images in groups is measured in the whole image.
    """
    for folder, count in (("database", 8), ("queries", 4)):
        Path(folder).mkdir()
        for number in range(count):
            left, upper = 30 * (number % 10), 100 * (number // 10)
            part = photograph((640, 426)).crop((left, upper, left + 300, upper + 200))
            part.resize((1800, 1200)).save(f"{folder}/{number}.jpg")
    options = ["--images", "database", "--model", NAME, "--weights", "random"]
    assert embed_and_load.main(options) == 0  # this measures the precision, too
    decoded: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    decode = decode_workers.decode

    def note(folder: Path, path: str, least_side: int | None, most: float) -> object:
        assert least_side in (512, None), "at one scale, equal images have equal pixels"
        (decoded if least_side else whole)[str(folder / path)] += 1
        return decode(folder, path, least_side, most)

    monkeypatch.setattr(decode_workers, "decode", note)
    assert query_code.main(["--queries", "queries", "--top-k", "30", "--workers", "0"]) == 0
    assert decoded.keys() >= {row[side] for row in pairings() for side in ("query", "match")}
    assert set(decoded.values()) == {1}
    assert set(whole.values()) <= {1}
    assert whole.keys() <= decoded.keys()
    assert Path("results/gallery.html").read_text().count("url(data:image/jpeg") > 10


def difference(one: Image.Image, other: Image.Image) -> float:
    grey = [np.asarray(image.convert("L")).astype(float) for image in (one, other)]
    return float(np.abs(grey[0] - grey[1]).mean())


def test_thumbnails_are_upright_sharp_and_keep_their_shape(own_folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned to the right to be upright
    wide = photograph((1200, 800))
    wide.save("wide.jpg", quality=95)
    wide.transpose(Image.Transpose.ROTATE_90).save("turned.jpg", quality=95, exif=exif)
    wide.resize((150, 100)).save("small.jpg", quality=95)
    wide.resize((60, 40)).save("tiny.png")
    Path("bad.jpg").write_bytes(b"bad")
    names = ["wide.jpg", "turned.jpg", "small.jpg", "tiny.png", "bad.jpg", "gone.jpg"]
    for examined in (False, True):
        with ReductionStore(examine, 512) as reductions:
            if examined:
                reductions.read(names)
            found = reductions.thumbnails(names)
        assert [bool(found[name].problem) for name in names] == [False] * 4 + [True] * 2
        shown = [Image.open(io.BytesIO(found[name].data)) for name in names[:4]]
        assert [image.size for image in shown] == [(512, 341)] * 2 + [(150, 100), (60, 40)]
        sharp = wide.resize((512, 341), Image.Resampling.LANCZOS)
        blurred = wide.resize((256, 170)).resize((512, 341))
        for image in shown[:2]:
            assert difference(image, sharp) < difference(blurred, sharp) / 2
        assert np.array_equal(np.asarray(shown[3]), np.asarray(Image.open("tiny.png")))


def test_names_that_are_not_utf8_are_kept(own_folder: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    photograph((50, 50)).save("plain.png")
    shutil.copy("plain.png", name)
    with ReductionStore(examine) as reductions:
        reductions.read([name, "plain.png"])
        assert reductions[name].digest == reductions["plain.png"].digest
