"""How one image lies on another: the affine map that most of their matched features agree with."""

from typing import NamedTuple

import numpy as np

from similar_images.verifying.features import SIDE, Features, matched
from similar_images.verifying.opencv import cv2

LEAST_PLACES = 10  # of unlike photographs at most 5 agree, of altered ones 24 and more
REACH = 3.0  # pixels at the size of the features, by which a match may miss the map
CELL = 4  # pixels of that size: matches closer together count as one place
MOST_SCALE, MOST_STRETCH = 10.0, 2.5  # of one image to the other; of one direction to the other


class Transform(NamedTuple):
    """How the second of two images lies on the first.

    matrix: (2, 3) float64, from pixels of the second's view, mirrored or not, to the first's.
    """

    matrix: np.ndarray
    mirrored: bool

    @property
    def scale(self) -> float:
        """The length of one pixel of the second view on the first."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    @property
    def stretch(self) -> float:
        """The ratio of the longest to the shortest length of a pixel, at least 1."""
        large, small = np.linalg.svd(self.matrix[:, :2])[1]
        return float(large / max(small, 1e-9))

    @property
    def degrees(self) -> float:
        """The angle by which the second is turned, 0 to 180."""
        (a, b), (c, d) = self.matrix[:, :2]
        return abs(float(np.degrees(np.arctan2(c - b, a + d))))

    def inverse(self) -> np.ndarray:
        """Return the matrix from the first view to the second."""
        inverse: np.ndarray = cv2.invertAffineTransform(self.matrix)
        return inverse


def whole(first: tuple[int, int], second: tuple[int, int], mirrored: bool) -> Transform:
    """Return the map of a whole view on another; first, second: (height, width) in pixels."""
    down, right = first[0] / second[0], first[1] / second[1]
    matrix = np.array([[right, 0, (right - 1) / 2], [0, down, (down - 1) / 2]])
    return Transform(matrix, mirrored)


def by_features(first: Features, others: tuple[Features, Features], side: int) -> Transform | None:
    """Return the map that most of the matched features agree with; None if too few do.

    others: the second image's features, and those of its mirror image. side: the longest side of
    the first view, in pixels.
    """
    unit = max(1.0, side / SIDE)
    best, places = None, LEAST_PLACES - 1
    for mirrored, second in zip((False, True), others, strict=True):
        found = _fitted(first, second, unit)
        if found and found[1] > places:
            best, places = Transform(found[0], mirrored), found[1]
    return best


def _fitted(first: Features, second: Features, unit: float) -> tuple[np.ndarray, int] | None:
    """Return a map and the number of distinct places that agree with it."""
    pairs = matched(first, second)
    if len(pairs) < LEAST_PLACES:
        return None
    ours, theirs = first.points[pairs[:, 0]], second.points[pairs[:, 1]]
    matrix, agree = cv2.estimateAffine2D(
        theirs,
        ours,
        method=cv2.USAC_MAGSAC,
        ransacReprojThreshold=REACH * unit,
        maxIters=1000,
        confidence=0.999,
    )
    if matrix is None:
        return None
    large, small = np.linalg.svd(matrix[:, :2])[1]
    if large > MOST_SCALE or small < 1 / MOST_SCALE or large > MOST_STRETCH * small:
        return None
    places = np.unique(np.floor(ours[agree.ravel() > 0] / (CELL * unit)), axis=0)
    return matrix, len(places)
