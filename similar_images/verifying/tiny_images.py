"""Compare two images as a whole at 32×32 pixels: small ones, and those that may only be resized.

The second is shifted as a whole, then shifted, rotated and stretched until the grey values agree
best (Evangelidis and Psarakis 2008). How well two aligned images agree is the correlation of their
fine structure: each value minus the mean of the 5×5 values around it, then minus the mean of its
row and of its column, which leaves out lines of text, bars and horizons.
"""

from typing import NamedTuple

import numpy as np

from similar_images.images.reductions import TINY
from similar_images.verifying.colours import LUMA, fitted_tone
from similar_images.verifying.opencv import cv2

SAME = 0.75  # correlation of the fine structure from which on two images are the same
LIKELY = 0.3  # correlation of the coarse structure below which they are not aligned
MOST_REST = 0.3  # share of the contrast that may differ
OVERLAP, STRETCH = 0.6, 0.3  # the least share in common; the most stretch, rotation or shear
LEAST_LINES = 12  # different rows and columns: with fewer, only equal images are the same
REACH = 10  # pixels: the greatest first shift
STAGES = ((5, 12), (3, 12))  # pixels of blur, and iterations, of the alignment
WINDOW = np.outer(np.hanning(TINY + 2)[1:-1], np.hanning(TINY + 2)[1:-1]).astype(np.float32)


class TinyMatch(NamedTuple):
    """How a tiny image is aligned with another.

    agreement: the correlation of their fine structure, -1 to 1. overlap: the share of the first
    that the second covers. warp: (2, 3) float32, from pixels of the first to those of the second.
    """

    agreement: float
    overlap: float
    warp: np.ndarray
    mirrored: bool

    @property
    def stretch(self) -> float:
        """By how much the second is stretched, rotated or sheared; 0 for not at all."""
        return float(np.abs(self.warp[:, :2] - np.eye(2)).max())

    @property
    def moved(self) -> float:
        """By how many pixels the middle of the second is shifted."""
        middle = (TINY - 1) / 2
        centre = self.warp @ np.array([middle, middle, 1])
        return float(np.abs(centre - middle).max())

    @property
    def is_same(self) -> bool:
        """Whether the two are the same image."""
        moved_little = self.overlap >= OVERLAP and self.stretch <= STRETCH
        return self.agreement >= SAME and moved_little


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return the grey values of (32, 32, 3) uint8, float32."""
    values: np.ndarray = pixels.astype(np.float32) @ LUMA
    return values


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of the coarse structure of two grey tiny images, -1 to 1."""
    return _correlation(_coarse(one), _coarse(other), _EVERYWHERE)


def aligned(one: np.ndarray, other: np.ndarray) -> TinyMatch | None:
    """Align the second of two grey tiny images with the first; None if they are not alike."""
    found = [_aligned(one, other, mirrored) for mirrored in (False, True)]
    return max((x for x in found if x), key=lambda x: x.agreement, default=None)


def rest(one: np.ndarray, other: np.ndarray, found: TinyMatch) -> float:
    """Return the mean difference of two aligned tiny images as a share of their contrast.

    one, other: (32, 32, 3) uint8. Tone and contrast are fitted first.
    """
    theirs = grey(other[:, ::-1] if found.mirrored else other)
    inside, laid = _laid(np.ascontiguousarray(theirs), found.warp)
    ours, laid = (cv2.GaussianBlur(side, (0, 0), 0.8)[inside > 0] for side in (grey(one), laid))
    gain, offset = fitted_tone(laid, ours)
    errors = np.abs(gain * laid + offset - ours) / max(gain, 1.0)
    return float(errors.mean() / max(min(ours.std(), laid.std() * max(gain, 1.0)), 10.0))


def _aligned(one: np.ndarray, other: np.ndarray, mirrored: bool) -> TinyMatch | None:
    if mirrored:
        other = np.ascontiguousarray(other[:, ::-1])
    warp = _first_shift(_coarse(one), _coarse(other))
    if warp is None:
        return None
    try:
        for blur, steps in STAGES:
            until = cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, 1e-4
            warp = cv2.findTransformECC(one, other, warp, cv2.MOTION_AFFINE, until, None, blur)[1]
    except cv2.error:  # it does not converge
        return None
    inside, laid = _laid(other - cv2.blur(other, (5, 5)), warp)
    fine = one - cv2.blur(one, (5, 5))
    fine, laid = (_without_stripes(side, inside) for side in (fine, laid))
    return TinyMatch(_correlation(fine, laid, inside), float(inside.mean()), warp, mirrored)


def _first_shift(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """Return the shift that phase correlation finds, or none at all, if either is likely."""
    (right, down), _ = cv2.phaseCorrelate(one, other, WINDOW)
    shifts = [(0.0, 0.0)]
    if max(abs(right), abs(down)) < REACH:
        shifts.append((right, down))
    warps = [np.array([[1, 0, x], [0, 1, y]], np.float32) for x, y in shifts]
    scores = []
    for warp in warps:
        inside, laid = _laid(other, warp)
        scores.append(_correlation(one, laid, inside))
    best = int(np.argmax(scores))
    return warps[best] if scores[best] >= LIKELY else None


def _laid(values: np.ndarray, warp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where an image lies on the other, 0 or 1, and its values there; (32, 32) float32."""
    back = cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(_EVERYWHERE, warp, (TINY, TINY), flags=back | cv2.INTER_NEAREST)
    return inside, cv2.warpAffine(values, warp, (TINY, TINY), flags=back | cv2.INTER_LINEAR)


def _coarse(values: np.ndarray) -> np.ndarray:
    coarse: np.ndarray = cv2.blur(values, (3, 3)) - cv2.blur(values, (9, 9))
    return coarse


def _without_stripes(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return values less the mean of their row, then of their column."""
    for axis in (1, 0):
        total = (values * inside).sum(axis, keepdims=True)
        values = values - total / (inside.sum(axis, keepdims=True) + 1e-6)
    return values


def _correlation(one: np.ndarray, other: np.ndarray, inside: np.ndarray) -> float:
    """Return the weighted correlation of two images; about 0 where either is constant."""
    count = inside.sum()
    if count < TINY:
        return -1.0
    u, v = (side - (side * inside).sum() / count for side in (one, other))
    product = (u * v * inside).sum() / count
    squares = ((u * u * inside).sum() / count) * ((v * v * inside).sum() / count)
    return float(product / np.sqrt(squares + 1e-3))


_EVERYWHERE = np.ones((TINY, TINY), np.float32)
