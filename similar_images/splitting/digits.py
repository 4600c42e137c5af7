"""scikit-learn's handwritten digits: a small data set that needs no download."""

import numpy as np

from similar_images.console import Console
from similar_images.splitting.split import ImageSet


def load_digits(console: Console) -> ImageSet:
    """Return the 1,797 digits as RGB images of 32×32 pixels.

    Each of the 8×8 source pixels (0 to 16) becomes a square of 4×4 equal ones.
    """
    from sklearn import datasets

    console.say("Splitting scikit-learn's digits")
    digits = datasets.load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=3)
    return ImageSet(pixels, digits.target.astype(np.int64), [str(digit) for digit in range(10)])
