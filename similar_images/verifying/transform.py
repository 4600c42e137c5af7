"""How one image lies on another: the affine map that most of their matched features agree with."""

from typing import NamedTuple

import numpy as np

from similar_images.verifying.features import SIDE, Features, matched
from similar_images.verifying.opencv import cv2

LEAST_PLACES = 10  # of unlike photographs at most 5 agree, of altered ones 24 and more
REACH = 3.0  # pixels at the size of the features, by which a match may miss the map
CELL = 4  # pixels of that size: matches closer together count as one place
LEAST_POINTS, LEAST_MOVE, MOST_MOVE = 12, 0.2, 6  # points; pixels: of refined()
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


def laid_on(view: np.ndarray, matrix: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return a view where it lies on the base, smoothed first as far as it is reduced."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.5:
        height, width = (max(2, round(2 * scale * side)) for side in view.shape[:2])
        ratio = np.array([view.shape[1] / width, view.shape[0] / height])
        view = cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA)
        shift = matrix[:, :2] @ ((ratio - 1) / 2) + matrix[:, 2]
        matrix, scale = np.column_stack([matrix[:, :2] * ratio, shift]), 0.5
    if scale < 1:
        view = cv2.GaussianBlur(view, (0, 0), 0.5 * np.sqrt(1 / scale**2 - 1) + 0.01)
    size = base.shape[1::-1]
    laid: np.ndarray = cv2.warpAffine(view, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return laid


def refined(base: np.ndarray, laid: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the matrix after a correction by how far points of the base have moved (Lucas-Kanade).

    Features are exact to a pixel or two at their own size; letters need a tenth.
    """
    grey = cv2.cvtColor(base, cv2.COLOR_RGB2GRAY)
    moved = laid_on(cv2.cvtColor(laid, cv2.COLOR_RGB2GRAY), matrix, base)
    step = max(6, min(grey.shape) // 16)
    down, right = np.mgrid[step // 2 : grey.shape[0] : step, step // 2 : grey.shape[1] : step]
    inside = inside_of(base.shape, laid.shape, matrix)[down, right].ravel() > 0
    points = np.stack([right.ravel(), down.ravel()], axis=1)[inside].astype(np.float32)
    if len(points) < LEAST_POINTS:
        return matrix
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        grey, moved, points[:, None], None, winSize=(15, 15), maxLevel=2, minEigThreshold=1e-3
    )
    found = found[:, 0]
    good = (status.ravel() > 0) & (np.abs(found - points).max(axis=1) < MOST_MOVE)
    if good.sum() < LEAST_POINTS:
        return matrix
    correction, agree = cv2.estimateAffine2D(
        found[good], points[good], method=cv2.USAC_MAGSAC, ransacReprojThreshold=1.0, maxIters=500
    )
    if correction is None or agree.sum() < LEAST_POINTS:
        return matrix
    corners = np.array([[0, 0, 1], [*base.shape[1::-1], 1]]).T
    if np.abs(correction @ corners - corners[:2]).max() < LEAST_MOVE:
        return matrix  # equal views stay equal
    both: np.ndarray = correction[:, :2] @ matrix
    both[:, 2] += correction[:, 2]
    return both


def inside_of(base: tuple[int, ...], laid: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """Return where a view of the second shape lies on one of the first: uint8 of 0 and 1."""
    ones = np.ones(laid[:2], np.uint8)
    inside: np.ndarray = cv2.warpAffine(ones, matrix, base[1::-1], flags=cv2.INTER_NEAREST)
    return inside
