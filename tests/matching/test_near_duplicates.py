"""near_duplicates.py: the same image, changed in known ways; and other images."""

import functools
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageEnhance, ImageOps
from sklearn.datasets import load_digits, load_sample_images

from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.near_duplicates import (
    Comparison,
    find_near_duplicates,
)
from similar_images.matching.pairs import Pair
from similar_images.results.tables import near_duplicates_text

Turn = Image.Transpose
Change = Callable[[Image.Image], Image.Image]


def comparison_of(pairs: list[Pair]) -> Comparison:
    with ReductionStore() as reductions:
        return find_near_duplicates([pairs], reductions)


def shifted(image: Image.Image) -> Image.Image:
    moved = Image.new("RGB", image.size)
    moved.paste(image, (image.width // 10, image.height // 10))
    return moved


def compressed(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=50)
    return Image.open(out).convert("RGB")


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


CHANGES: dict[str, tuple[Change, str]] = {
    "mirrored": (ImageOps.mirror, "mirrored"),
    "shifted": (shifted, "shifted"),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.3), "recoloured"),
    "grey": (lambda image: ImageEnhance.Color(image).enhance(0), "recoloured"),
    "compressed": (compressed, ""),
    "half": (half, "resized"),
    "a quarter to the left": (lambda image: image.transpose(Turn.ROTATE_90), "rotated 270°"),
    "upside down": (lambda image: image.transpose(Turn.ROTATE_180), "rotated 180°"),
    "a quarter to the right": (lambda image: image.transpose(Turn.ROTATE_270), "rotated 90°"),
    "turned and mirrored": (lambda image: image.transpose(Turn.TRANSPOSE), "mirrored"),
    "turned, smaller": (lambda i: half(i.transpose(Turn.ROTATE_270)), "rotated 90°, resized"),
    "all": (lambda i: half(compressed(ImageOps.mirror(i))), "mirrored"),
}


@functools.cache
def pieces(size: int) -> list[Image.Image]:
    """Parts of two photographs, 12 of each, in their detail at `size` pixels."""
    parts = []
    for photograph in load_sample_images().images:
        whole = Image.fromarray(photograph)
        for number in range(12):
            left, upper = 70 * (number % 6), 120 * (number // 6)
            part = whole.crop((left, upper, left + 240, upper + 240))
            parts.append(part.resize((size, size), Image.Resampling.LANCZOS))
    return parts


def pairs_of(first: list[Image.Image], second: list[Image.Image]) -> list[Pair]:
    pairs = []
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        names = f"{number}-query.png", f"{number}-match.png"
        one.save(names[0], compress_level=1)
        other.save(names[1], compress_level=1)
        pairs.append(Pair(*names, 0.9))
    return pairs


@pytest.mark.parametrize("size", [32, 100, 800])
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_image_is_found_and_its_change_named(name: str, size: int) -> None:
    change, word = CHANGES[name]
    reductions = pieces(size)
    changed = [change(image) for image in reductions]
    found = comparison_of(pairs_of(reductions, changed)).near
    assert len(found) >= 23, "of 24"
    assert sum(word in one.words for one in found) >= 22
    if name in ("mirrored", "half"):
        assert all(("mirrored" in one.changes) == (name == "mirrored") for one in found)


@pytest.mark.parametrize("size", [32, 100, 800])
def test_other_images_are_not_taken_for_the_same(size: int) -> None:
    reductions = pieces(size)
    others = reductions[12:] + reductions[:12]
    assert not comparison_of(pairs_of(reductions, others)).near


def test_digits_of_one_kind_are_not_one_image() -> None:
    """Handwriting of 8×8 pixels, enlarged: alike, and too coarse to tell more."""
    digits = load_digits()
    zeros = digits.images[digits.target == 0][:60]
    grey = np.round(zeros * 255 / 16).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    reductions = [Image.fromarray(image).convert("RGB") for image in grey]
    assert not comparison_of(pairs_of(reductions[:30], reductions[30:])).near
    same = comparison_of(pairs_of(reductions, reductions)).near
    assert len(same) == 60
    assert {one.words for one in same} == {"the same pixels"}


def test_what_cannot_be_read_or_may_not_be_opened_is_not_compared(own_folder: Path) -> None:
    (image,) = pieces(32)[:1]
    image.save("a.png")
    image.save("b.png")
    Path("bad.png").write_bytes(b"bad")
    pairs = [
        Pair("a.png", "b.png", 1.0),
        Pair("a.png", "b.png", 1.0, may_open_match=False),
        Pair("a.png", "gone.png", 1.0),
        Pair("bad.png", "b.png", 1.0),
    ]
    comparison = comparison_of(pairs)
    assert comparison.compared == 1
    (found,) = comparison.near
    assert found.pair is pairs[0]
    assert "".join(near_duplicates_text([found])).splitlines() == [
        "query\trank\tmatch\tsimilarity\tchange",
        "a.png\t1\tb.png\t1.000000\tthe same pixels",
    ]


def words_of(first: Image.Image, second: Image.Image) -> str | None:
    """How a pair's second image differs from the first; None if they are no near-duplicates."""
    found = comparison_of(pairs_of([first], [second])).near
    return found[0].words if found else None


def pattern(values: np.ndarray) -> Image.Image:
    """A grey image of 64×64 pixels from a pattern of 2×2."""
    return Image.fromarray(np.tile(values, (32, 32)).astype(np.uint8)).convert("RGB")


def test_flat_images_are_near_duplicates_only_of_equal_ones() -> None:
    """Nor are patterns whose mean colour they have, nor noise that is gone at 32×32."""
    noise = np.random.default_rng(0).integers(127, 130, (2, 640, 640), dtype=np.uint8)
    alike = [
        pattern(np.full((2, 2), 128)),
        pattern(np.full((2, 2), 129)),
        pattern(np.array([[96, 160], [96, 160]])),
        pattern(np.array([[96, 96], [160, 160]])),
        pattern(np.array([[96, 160], [160, 96]])),
        *(Image.fromarray(grey).convert("RGB") for grey in noise),
    ]
    for first, second in itertools.permutations(alike, 2):
        assert words_of(first, second) is None
    for image in alike:
        assert words_of(image, image.copy()) == "the same pixels"


def barcode(digits: list[int], guards: bool) -> Image.Image:
    """An EAN-13 that begins with 0, of 12 digits, perhaps with longer guard bars."""
    widths = [f"{code:07b}" for code in (13, 25, 19, 61, 35, 49, 47, 59, 55, 11)]
    left, right = ("".join(widths[digit] for digit in half) for half in (digits[:6], digits[6:]))
    bars = np.array([*map(int, f"101{left}01010{right.translate(str.maketrans('01', '10'))}101")])
    guard = np.isin(np.arange(95), [0, 2, 46, 48, 92, 94])
    lines = np.concatenate([np.tile(bars, (60, 1)), np.tile(bars * guard, (7 * guards, 1))])
    lines = np.pad(lines, 9).repeat(2, axis=0).repeat(2, axis=1)
    return Image.fromarray((255 * (1 - lines)).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("guards", [False, True])
def test_different_barcodes_are_no_near_duplicates(guards: bool) -> None:
    numbers = np.random.default_rng(0).integers(0, 10, (40, 12)).tolist()
    codes = [barcode(number, guards) for number in numbers]
    pairs = list(itertools.combinations(pairs_of(codes, codes), 2))
    pairs = [Pair(first.query, second.match, 0.9) for first, second in pairs]
    assert len(pairs) == 780
    assert not comparison_of(pairs).near


@pytest.mark.parametrize("turned", [False, True])
def test_flags_with_different_stripes_are_no_near_duplicates(turned: bool) -> None:
    colours = ["red", "white", "blue", "gold"]
    flags = []
    for stripes in (*itertools.permutations(colours, 3), ("white",), ("red", "white")):
        column = np.array([ImageColor.getrgb(colour) for colour in stripes], np.uint8)[:, None]
        flag = Image.fromarray(column).resize((90, 60), Image.Resampling.NEAREST)
        flags.append(flag.transpose(Image.Transpose.ROTATE_90) if turned else flag)
    pairs = pairs_of(flags, flags)
    different = [Pair(a.query, b.match, 0.9) for a, b in itertools.permutations(pairs, 2)]
    assert not comparison_of(different).near
    assert {one.words for one in comparison_of(pairs).near} == {"the same pixels"}
    enlarged = [flag.resize((270, 120), Image.Resampling.NEAREST) for flag in flags]
    found = comparison_of(pairs_of(flags, enlarged)).near
    assert [one.words for one in found] == ["resized"] * len(flags)


def test_the_same_pixels_are_those_of_the_full_size() -> None:
    for size, words in ((500, "equal at 32×32"), (32, "re-encoded")):
        image = pieces(size)[0]
        changed = image.copy()
        red, green, blue = changed.getpixel((9, 9))
        changed.putpixel((9, 9), (red ^ 1, green, blue))
        assert words_of(image, image.copy()) == "the same pixels"
        assert words_of(image, changed) == words
    assert words_of(image, image.resize((96, 96), Image.Resampling.NEAREST)) == "resized"


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (1, 9000)])
def test_images_one_pixel_wide_or_high(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    first, second = (
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        for _ in range(2)
    )
    assert words_of(first, first.copy()) == "the same pixels"
    assert words_of(first, second) is None
    assert words_of(first, pieces(100)[0]) is None
