"""comparison_picture.py: the right pixels in the right cells, and a golden image."""

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.pairs import Pair
from similar_images.results import comparison_picture
from similar_images.results.comparison_picture import CELL, picture_bytes
from similar_images.verifying.features import examine

GOLDEN = Path(__file__).parent / "golden_comparison.png"  # a quarter of the size
TITLE = "5,000 queries, nearest by resnet18: 74.8% share the label"


def draw(rows: list[list[Pair]], title: str = "t") -> Image.Image:
    return Image.open(io.BytesIO(picture_bytes(rows, title, ReductionStore(examine))))


def draw_pairs(pairs: list[Pair], title: str = "t") -> Image.Image:
    return draw([[pair] for pair in pairs], title)


def images(count: int) -> list[str]:
    names = []
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{number}.png")
        names.append(f"{number}.png")
    return names


def find(page: Image.Image, name: str) -> list[tuple[int, int]]:
    """Where an image stands on the page, enlarged six times, to the pixel."""
    pixels = np.asarray(Image.open(name)).repeat(6, axis=0).repeat(6, axis=1)
    sheet = np.asarray(page)
    corner = (sheet == pixels[0, 0]).all(axis=2)
    places = []
    for y, x in zip(*np.nonzero(corner), strict=True):
        part = sheet[y : y + CELL, x : x + CELL]
        if part.shape == pixels.shape and (part == pixels).all():
            places.append((int(x), int(y)))
    return places


def test_each_image_stands_whole_and_crisp_in_its_cell() -> None:
    names = images(20)
    pairs = [Pair(names[2 * i], names[2 * i + 1], 0.9, 1, "a", "a") for i in range(10)]
    page = draw_pairs(pairs, "a title")
    places = [find(page, name) for name in names]
    assert all(len(place) == 1 for place in places)
    flat = [place[0] for place in places]
    queries, matches = flat[::2], flat[1::2]
    for query, match in zip(queries, matches, strict=True):
        assert match[1] == query[1]
        assert 0 < match[0] - query[0] - CELL < 30
    assert [x for x, _ in queries[:5]] == sorted(x for x, _ in queries[:5])
    assert len({y for _, y in queries[:5]}) == 1
    assert queries[5][0] == queries[0][0]
    assert queries[5][1] > queries[0][1]


def test_top_k_gives_a_row_for_each_query() -> None:
    names = images(8)
    rows = [[Pair(names[4 * q], names[4 * q + k], 0.9, k) for k in range(1, 4)] for q in range(2)]
    page = draw(rows)
    places = [find(page, name)[0] for name in names]
    assert len({y for _, y in places[:4]}) == 1
    assert places[4][1] > places[0][1]
    assert (
        [x for x, _ in places[:4]] == [x for x, _ in places[4:]] == sorted(x for x, _ in places[:4])
    )


def test_a_match_that_may_not_be_opened_is_not() -> None:
    names = images(2)
    page = draw_pairs([Pair(*names, 0.9, 1, "a", "a", may_open_match=False)])
    assert len(find(page, names[0])) == 1
    assert not find(page, names[1])


def test_a_wrong_label_is_marked_by_more_than_colour() -> None:
    names = images(2)
    right = draw_pairs([Pair(*names, 0.9, 1, "a", "a")]).convert("L")
    wrong = draw_pairs([Pair(*names, 0.9, 1, "a", "b")]).convert("L")
    x, y = find(draw_pairs([Pair(*names, 0.9, 1, "a", "b")]), names[1])[0]
    above = (x - 5, y - 40, x + CELL, y - 6)
    difference = np.abs(np.asarray(right.crop(above)).astype(int) - np.asarray(wrong.crop(above)))
    assert (difference > 100).sum() > 200


def test_odd_labels_and_lost_files_fit() -> None:
    (name,) = images(1)
    labels = ["", "猫" * 40, "a very long label indeed that never ends", "evil\nline\u202e"]
    pairs = [Pair(name, "gone.png", -0.5, 1, label, label) for label in labels]
    page = draw_pairs(pairs, "word " * 80)
    assert len(find(page, name)) == 4
    edge = np.asarray(page)[:, -comparison_picture.MARGIN // 2 :]
    assert (edge == 255).all(), "nothing runs over the edge"


def test_a_single_pairs_legend_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    names, written = images(2), []
    write = comparison_picture._Page.text

    def note(self: Any, x: int, y: int, text: str, size: int, *rest: Any) -> None:
        written.append(text)
        assert y + size <= self.image.height
        write(self, x, y, text, size, *rest)

    monkeypatch.setattr(comparison_picture._Page, "text", note)
    draw_pairs([Pair(*names, 0.9, 1, "a", "b")])
    assert "below the match; a cross and a red frame: their labels differ" in " ".join(written)


def gradients() -> list[Pair]:
    """Ten pairs of smooth images in many shapes, with labels of all kinds."""
    shapes = [(32, 32), (300, 200), (200, 300), (900, 100), (100, 900)]
    labels = ["cat", "dog", "", "two words", "a label that is far too long for its cell"]
    pairs = []
    for number in range(10):
        for side in "qm":
            width, height = shapes[(number + (side == "m")) % 5]
            x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
            third = np.full_like(x, 25 * number if side == "q" else 255 - 25 * number)
            pixels = np.stack([x, y, third], axis=2).astype(np.uint8)
            Image.fromarray(pixels).save(f"{side}{number}.png")
        label = labels[number % 5]
        other = label if number % 3 else "other"
        similarity = 0.99 - number / 20
        pairs.append(Pair(f"q{number}.png", f"m{number}.png", similarity, 1, label, other))
    return pairs


def reduced(page: Image.Image) -> np.ndarray:
    """An image at a quarter of its size, where a font's fine points don't count."""
    return np.asarray(page.resize((page.width // 4, page.height // 4), Image.Resampling.BOX))


def differs(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two images differ by more than the edges of letters do."""
    difference = np.abs(one.astype(int) - other.astype(int))
    return bool(difference.mean() > 1 or np.quantile(difference, 0.995) > 60)


def test_the_page_looks_like_the_golden_image() -> None:
    pairs = gradients()
    golden = np.asarray(Image.open(GOLDEN))
    page = reduced(draw_pairs(pairs, TITLE))
    assert page.shape == golden.shape
    assert not differs(page, golden)
    swapped = reduced(draw_pairs([pairs[1], pairs[0], *pairs[2:]], "x"))
    assert differs(swapped, golden), "the comparison sees two pairs in each other's place"


if __name__ == "__main__":  # makes the golden image anew; look at it before it is committed
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Image.fromarray(reduced(draw_pairs(gradients(), TITLE))).save(GOLDEN, optimize=True)
