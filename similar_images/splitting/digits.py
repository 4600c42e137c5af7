"""Labelled pictures to split: what a data set's reader gives."""

from dataclasses import dataclass

import numpy as np


class ImageSetError(Exception):
    """A data set that can't be had; the message says what to do."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled RGB images in published order.

    pixels: (N, height, width, 3) uint8; labels: (N,) int64, indices into label_names.
    """

    pixels: np.ndarray
    labels: np.ndarray
    label_names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def sample_digits() -> ImageSet:
    """Return scikit-learn's 1,797 handwritten digits as RGB images of 32×32.

    Each of the 8×8 source pixels (0 to 16) becomes a square of 4×4 equal ones.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=3)
    return ImageSet(pixels, digits.target.astype(np.int64), [str(digit) for digit in range(10)])
