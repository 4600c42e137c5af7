"""decoding.py: large JPEGs decoded at a reduced scale, beside the whole decode."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from similar_images.images.decoding import Preprocessing, TooLargeError, decode
from similar_images.images.image_files import ImageError
from similar_images.images.reductions import reduced

PREPROCESS = Preprocessing(256, 224)
LEAST = 512


def photograph(width: int, height: int) -> Image.Image:
    """An image with coarse and fine structure, as photographs have."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    coarse = coarse.resize((width, height), Image.Resampling.BICUBIC)
    fine = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Image.blend(coarse, fine.filter(ImageFilter.GaussianBlur(2)), 0.3)


def close(shown: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two network inputs differ by no more than leaving out DCT coefficients does."""
    difference = np.abs(shown.astype(float) - expected)
    return bool(difference.mean() < 2 and difference.max() < 24)


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((1023, 1600), (1023, 1600)),  # half of it would be 511 pixels wide
        ((1024, 1600), (512, 800)),
        ((2050, 1600), (1025, 800)),
        ((2048, 2731), (512, 683)),
        ((4096, 4100), (512, 513)),
        ((9000, 4096), (1125, 512)),
    ],
)
def test_the_smallest_scale_keeps_the_short_side(
    size: tuple[int, int], decoded: tuple[int, int], own_folder: Path
) -> None:
    Image.new("RGB", size, "teal").save("x.jpg")
    info, rgb = decode(own_folder, "x.jpg", LEAST)[:2]
    assert rgb.size == decoded
    assert (info.width, info.height) == size
    assert decode(own_folder, "x.jpg").rgb.size == size, "without a least side it is decoded whole"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(2060, 1100), (1025, 1024)])  # the second is square at 1/2
def test_it_is_upright_and_keeps_its_own_size(
    orientation: int, size: tuple[int, int], own_folder: Path
) -> None:
    image = photograph(*size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save("x.jpg", quality=95, exif=exif)
    (info, rgb), (whole_info, whole) = (
        decode(own_folder, "x.jpg", LEAST)[:2],
        decode(own_folder, "x.jpg")[:2],
    )
    assert min(rgb.size) < min(size)
    assert info == whole_info
    assert (info.width, info.height) == whole.size
    assert close(PREPROCESS(rgb), PREPROCESS(whole))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_jpeg_shows_the_same(
    mode: str, options: dict[str, object], own_folder: Path
) -> None:
    photograph(2100, 1500).convert(mode).save("x.jpg", quality=90, **options)
    rgb = decode(own_folder, "x.jpg", LEAST).rgb
    assert (rgb.mode, rgb.size) == ("RGB", (1050, 750))
    assert close(PREPROCESS(rgb), PREPROCESS(decode(own_folder, "x.jpg").rgb))


def test_an_mpo_shows_its_first_image(own_folder: Path) -> None:
    first = photograph(2100, 1500)
    first.save("x.mpo", "MPO", save_all=True, append_images=[ImageOps.invert(first)], quality=90)
    info, rgb = decode(own_folder, "x.mpo", LEAST)[:2]
    assert (info.width, info.height) == (2100, 1500)
    assert rgb.size == (1050, 750)
    assert close(PREPROCESS(rgb), PREPROCESS(first))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_truncated_jpeg_is_decoded_if_nine_in_ten_rows_are_there(
    mode: str, own_folder: Path
) -> None:
    """A PNG without its end is refused, even after that."""
    image, out = photograph(2100, 1500).convert(mode), io.BytesIO()
    image.save(out, "JPEG", quality=90)
    whole = np.asarray(Image.open(out).convert("RGB"))
    for missing, rows in ((2, 1500), (0.01, 1450), (0.08, 1330), (0.12, 0), (0.5, 0)):
        size = missing if missing > 1 else len(out.getvalue()) * missing
        (own_folder / "x.jpg").write_bytes(out.getvalue()[: -int(size)])
        for least in (None, LEAST):
            if not rows:
                with pytest.raises(ImageError, match="truncated"):
                    decode(own_folder, "x.jpg", least)
                continue
            decoded = decode(own_folder, "x.jpg", least)
            assert decoded.note == "the end of the file is missing"
            assert not reduced(decoded).shown_whole
            if least is None:
                np.testing.assert_array_equal(np.asarray(decoded.rgb)[:rows], whole[:rows])
    kept = int(0.7 * len(out.getvalue()))
    (own_folder / "x.jpg").write_bytes(out.getvalue()[:kept].ljust(len(out.getvalue()), b"\0"))
    with pytest.raises(ImageError, match="truncated"):
        decode(own_folder, "x.jpg")
    out = io.BytesIO()
    image.convert("L").save(out, "PNG")
    (own_folder / "x.png").write_bytes(out.getvalue()[:-100])
    with pytest.raises(ImageError, match="truncated"):
        decode(own_folder, "x.png")


def test_the_limit_is_of_what_is_decoded(own_folder: Path) -> None:
    """At half the scale, 3.15 megapixels are 0.8; a progressive JPEG is kept in memory as a whole.

    Pillow itself refuses more than 179.
    """
    photograph(2100, 1500).save("x.jpg")
    photograph(2100, 1500).save("progressive.jpg", progressive=True)
    photograph(2100, 1500).save("x.png")
    assert decode(own_folder, "x.jpg", LEAST, 0.8).rgb.size == (1050, 750)
    assert decode(own_folder, "progressive.jpg", LEAST, 1.6).rgb.size == (1050, 750)
    assert decode(own_folder, "x.png", LEAST, 3.16).rgb.size == (2100, 1500)
    for name, side, most in (
        ("x.jpg", LEAST, 0.7),
        ("x.jpg", None, 3.1),
        ("progressive.jpg", LEAST, 1.5),
        ("x.png", LEAST, 3.1),
    ):
        with pytest.raises(TooLargeError, match="megapixels; see --max-megapixels"):
            decode(own_folder, name, side, most)
    Image.new("L", (20_000, 10_000), 99).save("panorama.jpg")
    info, rgb = decode(own_folder, "panorama.jpg", LEAST)[:2]
    assert (info.width, info.height, *rgb.size) == (20_000, 10_000, 2_500, 1_250)


def test_damaged_exif_data_leave_it_as_it_is(own_folder: Path) -> None:
    photograph(2060, 1100).save("x.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    info, rgb = decode(own_folder, "x.jpg", LEAST)[:2]
    assert (info.width, info.height) == (2060, 1100)
    assert rgb.size == (1030, 550)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif"])
def test_other_formats_are_decoded_whole(suffix: str, own_folder: Path) -> None:
    photograph(2100, 1100).save(f"x.{suffix}")
    assert decode(own_folder, f"x.{suffix}", LEAST).rgb.size == (2100, 1100)
