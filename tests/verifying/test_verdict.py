"""verdict.py: the same as a whole, in part, or not; of images that are drawn here."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
from drawings import PART as CHANGED_IN_PART
from drawings import TEMPLATES, WHOLE, look_alikes, photograph
from PIL import Image, ImageDraw

from similar_images.images.decoding import decode
from similar_images.images.reductions import Reduction
from similar_images.verifying.features import examine
from similar_images.verifying.verdict import PART, SAME, Verdict, verify

PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def read(name: str) -> Reduction:
    return examine(decode(Path(), name))


def reduction(image: Image.Image, quality: int = 90) -> Reduction:
    image.save("x.jpg", quality=quality)
    return read("x.jpg")


@functools.cache
def original(name: str) -> Reduction:
    return reduction(photograph(name), 95)


def verdict(one: Reduction, other: Reduction) -> Verdict | None:
    """The verdict on two images, checked to be the same in both directions."""
    found, turned = verify(one, other), verify(other, one)
    assert bool(found) == bool(turned)
    if found and turned:
        assert (found.kind, found.words) == (turned.kind, turned.words)
        assert found.better == -turned.better
        assert found.pixels == pytest.approx(1 / turned.pixels)
    return found


def kind(one: Reduction, other: Reduction) -> str:
    found = verdict(one, other)
    return found.kind if found else ""


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("alteration", WHOLE)
def test_an_altered_whole_is_the_same(alteration: str, name: str) -> None:
    change, word = WHOLE[alteration]
    found = verdict(original(name), reduction(change(photograph(name))))
    assert found
    assert found.kind == SAME, found.words
    assert word in found.words


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("alteration", CHANGED_IN_PART)
def test_an_altered_part_is_part(alteration: str, name: str) -> None:
    changed = reduction(CHANGED_IN_PART[alteration](photograph(name)))
    assert kind(original(name), changed) == PART


def test_it_is_said_what_share_differs_and_where() -> None:
    image = photograph()
    image.paste((0, 0, 0), (20, 300, 140, 410))
    found = verdict(original("china.jpg"), reduction(image))
    assert found
    share, words = found.words.split("% differs ")
    assert words == "(lower left)"
    assert float(share) == pytest.approx(100 * 120 * 110 / (640 * 427), abs=4)


@pytest.mark.parametrize("template", TEMPLATES)
def test_look_alikes_are_never_the_same(template: str) -> None:
    images = [reduction(image) for image in look_alikes(template, 8)]
    kinds = [kind(*pair) for pair in itertools.combinations(images, 2)]
    assert SAME not in kinds
    again = reduction(next(look_alikes(template, 1)), quality=80)
    assert kind(images[0], again) == SAME, "of one content they are"


def test_photographs_of_different_things_have_no_verdict() -> None:
    parts = [photograph(name).crop((x, 0, x + 320, 427)) for name in PHOTOGRAPHS for x in (0, 320)]
    for one, other in itertools.combinations([*map(reduction, parts)], 2):
        assert verdict(one, other) is None
    assert verdict(*map(original, PHOTOGRAPHS)) is None


def on_transparency(shape: str, size: int) -> Image.Image:
    """A white icon that only its alpha channel shows."""
    alpha = Image.new("L", (size, size))
    draw = ImageDraw.Draw(alpha)
    box = (size // 8, size // 8, 7 * size // 8, 7 * size // 8)
    draw.ellipse(box, fill=255) if shape == "disc" else draw.rectangle(box, fill=255)
    image = Image.new("RGBA", (size, size), "white")
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("size", [64, 256])
def test_white_icons_on_transparency_are_told_apart(size: int, own_folder: Path) -> None:
    for shape in ("disc", "square"):
        on_transparency(shape, size).save(f"{shape}.png")
    assert kind(read("disc.png"), read("square.png")) != SAME


@pytest.mark.parametrize("size", [48, 400])
def test_equal_colours_with_another_alpha_are_not_the_same(size: int, own_folder: Path) -> None:
    for name, left in (("one.png", 0), ("other.png", size // 2)):
        image, alpha = photograph().resize((size, size)), Image.new("L", (size, size), 255)
        alpha.paste(0, (left, 0, left + size // 3, size // 2))
        image.putalpha(alpha)
        image.save(name)
    assert kind(read("one.png"), read("other.png")) != SAME
    assert verdict(read("one.png"), read("one.png")) == Verdict(SAME)


@pytest.mark.parametrize("size", [64, 300])
def test_values_of_16_bits_that_differ_in_low_bytes_are_not_the_same(
    size: int, own_folder: Path
) -> None:
    grey = np.asarray(photograph().convert("L").resize((size, size))).astype(np.uint16) * 256
    rng = np.random.default_rng(0)
    for name in ("one.png", "other.png"):
        Image.fromarray(grey + rng.integers(0, 256, grey.shape).astype(np.uint16)).save(name)
    assert kind(read("one.png"), read("other.png")) != SAME


@pytest.mark.parametrize("size", [64, 300])
def test_animations_that_differ_in_later_frames_are_not_the_same(
    size: int, own_folder: Path
) -> None:
    first = photograph().resize((size, size)).convert("P")
    for name, other in (("one.gif", "red"), ("other.gif", "blue")):
        later = Image.new("P", first.size, other)
        first.save(name, save_all=True, append_images=[later])
    found = verdict(read("one.gif"), read("other.gif"))
    assert found is None or found.kind == PART
