"""alignment.py: the motion that made one image of another is found again."""

import numpy as np
import pytest
from PIL import Image
from similar_images.matching.alignment import CENTRE, SIDE, align, laid_over, stretch

LARGE = 3 * SIDE  # pixels: what is cut from it never shows its edge


def cut(image: Image.Image, left: float, top: float, width: float) -> np.ndarray:
    box = (left, top, left + width, top + width)
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
    return np.asarray(small.convert("RGB"))


@pytest.fixture(scope="module")
def image() -> Image.Image:
    values = np.random.default_rng(3).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((LARGE, LARGE), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (-2, 1.5), (0, -3)])
def test_a_shift_is_found(right: float, down: float, mirrored: bool, image: Image.Image) -> None:
    query = cut(image, SIDE, SIDE, SIDE)
    match = cut(image, SIDE + right, SIDE + down, SIDE)
    aligned = align(query[None], (match[:, ::-1] if mirrored else match)[None])
    assert aligned.mirrored[0] == mirrored
    np.testing.assert_allclose(aligned.motion[0, :, 0], (CENTRE - down, CENTRE - right), atol=0.1)
    assert stretch(aligned.motion)[0] < 0.02
    assert aligned.agreement[0] > 0.95
    laid, inside = laid_over(np.moveaxis(match, 2, 0), aligned.motion)
    difference = np.abs(laid - query.reshape(-1, 3).T)[:, inside[0] > 0]
    assert difference.mean() < 8


def test_a_zoom_is_found(image: Image.Image) -> None:
    query, match = cut(image, SIDE, SIDE, SIDE), cut(image, SIDE + 1.6, SIDE + 1.6, SIDE - 3.2)
    aligned = align(query[None], match[None])
    assert stretch(aligned.motion)[0] == pytest.approx(1 / 0.9 - 1, abs=0.02)
    assert aligned.agreement[0] > 0.9


def test_other_images_do_not_agree(image: Image.Image) -> None:
    query, other = cut(image, 0, 0, SIDE), cut(image, SIDE + 20, SIDE + 20, SIDE)
    assert align(query[None], other[None]).agreement[0] < 0.5
