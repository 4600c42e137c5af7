"""decoding.py: crop modes and interpolations of timm's models, against timm's own transforms."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from similar_images.images.decoding import (
    CROP_MODES,
    INTERPOLATIONS,
    MAX_ASPECT,
    MAX_SIDE,
    Preprocessing,
)

MEAN = (0.48145466, 0.4578275, 0.40821073)
WAYS = list(itertools.product(CROP_MODES, INTERPOLATIONS))


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def both(
    image: Image.Image, crop_mode: str, interpolation: str, crop: int, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """What we and timm make of an image, before it is normalised."""
    fill = "#" + "".join(f"{round(255 * value):02x}" for value in MEAN)
    ours = Preprocessing(int(crop / fraction), crop, interpolation, crop_mode, fill)
    theirs = create_transform(
        (3, crop, crop),
        is_training=False,
        interpolation=interpolation,
        mean=MEAN,
        crop_pct=fraction,
        crop_mode=crop_mode,
        normalize=False,
    )
    pixels = ours(image)
    assert pixels.shape == ours.shape
    return pixels, theirs(image).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("crop_mode", "interpolation"), WAYS)
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 600), st.integers(1, 600), st.sampled_from([1.0, 0.95, 0.9, 0.875]))
def test_every_crop_mode_equals_timms(
    crop_mode: str, interpolation: str, width: int, height: int, fraction: float
) -> None:
    long, short = max(width, height), min(width, height)
    assume(long <= MAX_ASPECT * short)  # beyond it only the crop is resized
    ours, theirs = both(noise(width, height), crop_mode, interpolation, 224, fraction)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("crop_mode", "interpolation"), WAYS)
@pytest.mark.parametrize("side", [32, 224, 256, 1000])
@pytest.mark.parametrize(("crop", "fraction"), [(224, 0.875), (518, 1.0), (106, 0.9)])
def test_squares_equal_timms(
    crop_mode: str, interpolation: str, side: int, crop: int, fraction: float
) -> None:
    ours, theirs = both(noise(side, side), crop_mode, interpolation, crop, fraction)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_a_very_long_image_has_a_shape_in_every_crop_mode(
    crop_mode: str, size: tuple[int, int]
) -> None:
    """Where timm would give an image of no height, or take gigabytes."""
    assert Preprocessing(256, 224, "bicubic", crop_mode)(noise(*size)).shape == (224, 224, 3)


WRONG = [
    {"interpolation": "random"},
    {"interpolation": ["bicubic"]},
    {"crop_mode": "corner"},
    {"resize": 223},
    {"resize": 256.0},
    {"crop": 0},
    {"crop": -5, "resize": -4},
    {"resize": MAX_SIDE + 1},
    {"crop": MAX_SIDE + 1, "resize": 2 * MAX_SIDE},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_values_that_can_not_be_applied_are_refused(wrong: dict[str, object]) -> None:
    make = functools.partial(Preprocessing, resize=256, crop=224)
    make()
    with pytest.raises(ValueError, match=r"^.*(none of|cropped)[^\n]*$"):
        make(**wrong)  # type: ignore[arg-type]
