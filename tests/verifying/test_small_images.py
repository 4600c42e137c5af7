"""verdict.py on images that are small, plain or regular, where features say nothing."""

import functools
import io
import itertools

import numpy as np
import pytest
from drawings import Change, photograph
from PIL import Image, ImageColor, ImageEnhance, ImageOps
from sklearn.datasets import load_digits

from similar_images.images.decoding import Decoded, DecodedImage
from similar_images.images.reductions import Reduction
from similar_images.verifying.features import examine
from similar_images.verifying.verdict import SAME, Verdict, verify


def reduction(image: Image.Image) -> Reduction:
    info = DecodedImage("x.png", 1, 1, image.width, image.height)
    return examine(Decoded(info, image.convert("RGB"), image, False))


def compressed(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=50)
    return Image.open(out).convert("RGB")


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


CHANGES: dict[str, tuple[Change, str]] = {
    "mirrored": (ImageOps.mirror, "mirrored"),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.3), ""),
    "grey": (lambda image: ImageEnhance.Color(image).enhance(0), ""),
    "compressed": (compressed, "re-encoded"),
    "half": (half, "resized"),
    "all": (lambda image: half(compressed(ImageOps.mirror(image))), "mirrored, resized"),
}


@functools.cache
def pieces() -> list[Image.Image]:
    """Parts of two photographs, 12 of each, of 64 by 64 pixels."""
    parts = []
    for name, number in itertools.product(("china.jpg", "flower.jpg"), range(12)):
        left, upper = 70 * (number % 6), 120 * (number // 6)
        part = photograph(name).crop((left, upper, left + 240, upper + 240))
        parts.append(part.resize((64, 64), Image.Resampling.LANCZOS))
    return parts


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_small_image_is_found_and_its_change_named(name: str) -> None:
    change, words = CHANGES[name]
    found = [verify(reduction(image), reduction(change(image))) for image in pieces()]
    same = [one for one in found if one and one.kind == SAME]
    assert len(same) >= 22, "of 24"
    assert all(words in one.words for one in same)


def test_other_small_images_are_not_taken_for_the_same() -> None:
    parts = [*map(reduction, pieces())]
    assert not any(map(verify, parts, parts[12:] + parts[:12]))


def are_told_apart(images: list[Image.Image]) -> bool:
    """Whether no two of the images are the same, and each is the same as itself."""
    parts = [*map(reduction, images)]
    assert {verify(part, part) for part in parts} == {Verdict(SAME)}
    found = [verify(*pair) for pair in itertools.combinations(parts, 2)]
    return SAME not in [one.kind for one in found if one]


def test_digits_of_one_kind_are_not_one_image() -> None:
    """Handwriting of 8×8 pixels, enlarged: alike, and too coarse to tell more."""
    digits = load_digits()
    zeros = digits.images[digits.target == 0][:30]
    grey = np.round(zeros * 255 / 16).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    assert are_told_apart([Image.fromarray(image) for image in grey])


def test_flat_images_are_the_same_only_as_equal_ones() -> None:
    """Nor are patterns whose mean colour they have, nor noise that is gone at 32×32."""
    noise = np.random.default_rng(0).integers(127, 130, (2, 640, 640), dtype=np.uint8)
    patterns = ([[128, 128], [128, 128]], [[129, 129], [129, 129]], [[96, 160], [96, 160]])
    patterns += ([[96, 96], [160, 160]], [[96, 160], [160, 96]])
    alike = [np.tile(np.array(values, np.uint8), (32, 32)) for values in patterns]
    assert are_told_apart([Image.fromarray(grey) for grey in (*alike, *noise)])


def barcode(digits: list[int], guards: bool) -> Image.Image:
    """An EAN-13 that begins with 0, of 12 digits, perhaps with longer guard bars."""
    widths = [f"{code:07b}" for code in (13, 25, 19, 61, 35, 49, 47, 59, 55, 11)]
    left, right = ("".join(widths[digit] for digit in half) for half in (digits[:6], digits[6:]))
    bars = np.array([*map(int, f"101{left}01010{right.translate(str.maketrans('01', '10'))}101")])
    guard = np.isin(np.arange(95), [0, 2, 46, 48, 92, 94])
    lines = np.concatenate([np.tile(bars, (60, 1)), np.tile(bars * guard, (7 * guards, 1))])
    lines = np.pad(lines, 9).repeat(2, axis=0).repeat(2, axis=1)
    return Image.fromarray((255 * (1 - lines)).astype(np.uint8))


@pytest.mark.parametrize("guards", [False, True])
def test_different_barcodes_are_told_apart(guards: bool) -> None:
    numbers = np.random.default_rng(0).integers(0, 10, (24, 12)).tolist()
    assert are_told_apart([barcode(number, guards) for number in numbers])


@pytest.mark.parametrize("size", [(90, 60), (360, 240)])
def test_flags_with_different_stripes_are_told_apart(size: tuple[int, int]) -> None:
    colours = ["red", "white", "blue", "gold"]
    flags = []
    for stripes in (*itertools.permutations(colours, 3), ("white",), ("red", "white")):
        column = np.array([ImageColor.getrgb(colour) for colour in stripes], np.uint8)[:, None]
        flags.append(Image.fromarray(column).resize(size, Image.Resampling.NEAREST))
    assert are_told_apart(flags)


@pytest.mark.parametrize("size", [32, 500])
def test_the_same_pixels_are_equal_in_every_bit(size: int) -> None:
    image = photograph().resize((size, size))
    changed = image.copy()
    red, green, blue = changed.getpixel((9, 9))
    changed.putpixel((9, 9), (red ^ 1, green, blue))
    found = verify(reduction(image), reduction(image.copy()))
    assert found
    assert found.words == "the same pixels"
    for other in (changed, image.convert("RGBA"), image.resize((2 * size, 2 * size))):
        found = verify(reduction(image), reduction(other))
        assert found
        assert found.kind == SAME
        assert found.words != "the same pixels"


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (1, 9000)])
def test_images_one_pixel_wide_or_high(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, size[1], size[0], 3), dtype=np.uint8)
    assert are_told_apart([*map(Image.fromarray, pixels), photograph()])
