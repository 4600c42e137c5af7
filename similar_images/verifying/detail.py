"""Whether an image has more detail than another one, or was only enlarged."""

from pathlib import Path

import numpy as np
from PIL import Image

from similar_images.images.decoding import decode

MIDDLE = 1024  # pixels: the side of the square that is looked at
LOST, LOST_IF_SOFTER = 0.4, 0.65  # of what its counterpart loses; enlarged images lose less


def is_enlarged(more: str, fewer: str, softer: bool) -> bool:
    """Return whether the image with more pixels only repeats those of the other one.

    Both show the same. Each is reduced by as much as the second is smaller, and enlarged again: an
    image that was enlarged loses next to nothing. softer: whether the first is less sharp at the
    size of a view. Raises ImageError if one can't be read.
    """
    images = [decode(Path(path).parent, Path(path).name).rgb for path in (more, fewer)]
    factor = max(images[1].size) / max(images[0].size)
    losses = [_loss(image, factor) for image in images]
    return losses[0] < (LOST_IF_SOFTER if softer else LOST) * losses[1]


def _loss(image: Image.Image, factor: float) -> float:
    """Return the mean change of the image's middle if it is reduced by a factor and enlarged."""
    left, upper = (max(0, (side - MIDDLE) // 2) for side in image.size)
    right, lower = (
        min(side, start + MIDDLE) for side, start in zip(image.size, (left, upper), strict=True)
    )
    middle = image.crop((left, upper, right, lower)).convert("L")
    width, height = (max(1, round(side * factor)) for side in middle.size)
    small = middle.resize((width, height), Image.Resampling.LANCZOS)
    again = small.resize(middle.size, Image.Resampling.BICUBIC)
    change = np.asarray(middle, np.float32) - np.asarray(again, np.float32)
    return float(np.abs(change).mean())
