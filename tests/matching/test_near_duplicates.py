"""near_duplicates.py: the same picture, changed in known ways; and other pictures."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_digits, load_sample_images

from benchmarks.near_duplicates import compressed, shifted
from similar_images.matching.near_duplicates import find_near_duplicates, near_duplicates_text
from similar_images.matching.pairs import Pair

Change = Callable[[Image.Image], Image.Image]


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


CHANGES: dict[str, tuple[Change, str]] = {
    "mirrored": (ImageOps.mirror, "mirrored"),
    "shifted": (shifted, "shifted"),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.3), "recoloured"),
    "grey": (lambda image: ImageEnhance.Color(image).enhance(0), "recoloured"),
    "compressed": (compressed, ""),
    "half": (half, "resized"),
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
def test_a_changed_picture_is_found_and_its_change_named(name: str, size: int) -> None:
    change, word = CHANGES[name]
    pictures = pieces(size)
    found = find_near_duplicates(pairs_of(pictures, [change(picture) for picture in pictures]))
    assert len(found) >= 23, "of 24"
    assert sum(word in one.words for one in found) >= 22
    if name in ("mirrored", "half"):
        assert all(("mirrored" in one.changes) == (name == "mirrored") for one in found)


@pytest.mark.parametrize("size", [32, 100, 800])
def test_other_pictures_are_not_taken_for_the_same(size: int) -> None:
    pictures = pieces(size)
    others = pictures[12:] + pictures[:12]
    assert not find_near_duplicates(pairs_of(pictures, others))


def test_digits_of_one_kind_are_not_one_picture() -> None:
    """Handwriting of 8×8 pixels, enlarged: alike, and too coarse to tell more."""
    digits = load_digits()
    zeros = digits.images[digits.target == 0][:60]
    grey = np.round(zeros * 255 / 16).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    pictures = [Image.fromarray(image).convert("RGB") for image in grey]
    assert not find_near_duplicates(pairs_of(pictures[:30], pictures[30:]))
    same = find_near_duplicates(pairs_of(pictures, pictures))
    assert len(same) == 60
    assert {one.words for one in same} == {"the same pixels"}


def test_what_cannot_be_read_or_may_not_be_opened_is_none(own_folder: Path) -> None:
    (picture,) = pieces(32)[:1]
    picture.save("a.png")
    picture.save("b.png")
    Path("bad.png").write_bytes(b"bad")
    pairs = [
        Pair("a.png", "b.png", 1),
        Pair("a.png", "b.png", 1, may_open_match=False),
        Pair("a.png", "gone.png", 1),
        Pair("bad.png", "b.png", 1),
    ]
    (found,) = find_near_duplicates(pairs)
    assert found.pair is pairs[0]
    assert near_duplicates_text([found]).splitlines() == [
        "query\trank\tmatch\tsimilarity\tchange",
        "a.png\t1\tb.png\t1.000000\tthe same pixels",
    ]


def test_flat_pictures_say_nothing() -> None:
    flat = [Image.new("RGB", (40, 40), colour) for colour in ("red", "teal", "white", "black")]
    assert not find_near_duplicates(pairs_of(flat, flat[1:] + flat[:1]))
