"""Whether an image has more detail than fewer pixels could hold, or was only enlarged."""

from pathlib import Path

import numpy as np
from PIL import Image

from similar_images.images.decoding import decode

MIDDLE = 1024  # pixels: the side of the square that is looked at
EDGES = 0.9  # the quantile of the steepness from which on a pixel belongs to an edge
LEAST_FACTOR = 0.4  # reduced by more, any image loses much


def edge_loss(path: str, factors: tuple[float, float]) -> float:
    """Return how much an image's edges change if it is reduced by factors and enlarged again.

    The change is a share of their steepness, about 0.1 for an image that was enlarged by as much
    before, and 0.2 or more for others; 1 where a factor is too small to tell. Raises ImageError if
    the image can't be read. factors: of the width and of the height.
    """
    if min(factors) < LEAST_FACTOR:
        return 1.0
    image = decode(Path(path).parent, Path(path).name).rgb
    left, upper = (max(0, (side - MIDDLE) // 2) for side in image.size)
    box = left, upper, min(image.width, left + MIDDLE), min(image.height, upper + MIDDLE)
    middle = image.crop(box).convert("L")
    width, height = (
        max(1, round(side * factor)) for side, factor in zip(middle.size, factors, strict=True)
    )
    small = middle.resize((width, height), Image.Resampling.LANCZOS)
    again = np.asarray(small.resize(middle.size, Image.Resampling.BICUBIC), np.float32)
    change = np.abs(np.asarray(middle, np.float32) - again)
    steepness = np.hypot(*np.gradient(again))
    edges = steepness >= np.quantile(steepness, EDGES)
    return float(change[edges].mean() / max(float(steepness[edges].mean()), 1e-3))
