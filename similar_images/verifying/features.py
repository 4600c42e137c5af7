"""Local features of an image: points that are found again after scaling, rotating and cropping."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from similar_images.images.decoding import Decoded
from similar_images.images.reductions import Reduction, fitted, reduced, view_size
from similar_images.verifying.opencv import cv2

SIDE = 320  # pixels: the longest side of the image in which features are found
MOST = 500  # features of an image
LEAST_SIDE = 96  # pixels: images with a shorter side are compared as a whole, see tiny_images.py
DESCRIPTOR = 32  # bytes
UNIT = 32  # fractions of a pixel in which places are kept
NEAREST, RATIO = 80, 0.85  # bits that may differ; share of the distance to the second nearest


class Features(NamedTuple):
    """Points (N, 2) float32, x and y in pixels of the comparison image; descriptors (N, 32) uint8.

    A descriptor is ORB's (Rublee et al. 2011): two that differ in few bits look alike.
    """

    points: np.ndarray
    descriptors: np.ndarray


@cache
def _detector() -> Any:
    # With OpenCV's default threshold (20) dim photographs have too few features.
    return cv2.ORB_create(nfeatures=MOST, fastThreshold=5, edgeThreshold=15)


def examine(decoded: Decoded) -> Reduction:
    """Return all that is kept of a decoded image; a function for decode workers."""
    reduction = reduced(decoded)
    if min(reduction.width, reduction.height) < LEAST_SIDE:
        return reduction
    grey = np.asarray(fitted(decoded.rgb.convert("L"), SIDE))
    scale = view_size(reduction)[1] / grey.shape[1]
    return reduction._replace(
        features=_packed(grey, scale), mirrored_features=_packed(grey[:, ::-1], scale)
    )


def _packed(grey: np.ndarray, scale: float) -> bytes:
    """Return an image's features as bytes, the strongest first; scale: of the view to this one."""
    points, descriptors = _detector().detectAndCompute(np.ascontiguousarray(grey), None)
    if descriptors is None:
        return b""
    order = np.argsort([-point.response for point in points], kind="stable")
    places = (np.array([point.pt for point in points]) + 0.5) * scale - 0.5
    fixed = (places[order] * UNIT).clip(0, 2**16 - 1).round().astype(np.uint16)
    return fixed.tobytes() + bytes(descriptors[order].tobytes())


def unpacked(data: bytes) -> Features:
    """Return the features that were packed."""
    count = len(data) // (4 + DESCRIPTOR)
    points = np.frombuffer(data, np.uint16, 2 * count).reshape(count, 2).astype(np.float32) / UNIT
    descriptors = np.frombuffer(data, np.uint8, offset=4 * count).reshape(count, DESCRIPTOR)
    return Features(points, descriptors)


def matched(one: Features, other: Features) -> np.ndarray:
    """Return which features of two images belong together: (N, 2) indices.

    Each is the other's nearest, and clearly nearer than the second nearest (Lowe's ratio test).
    """
    if min(len(one.points), len(other.points)) < 2:
        return np.zeros((0, 2), np.int64)
    words = [side.descriptors.view(np.uint64) for side in (one, other)]
    differing = np.zeros((len(words[0]), len(words[1])), np.uint16)
    for ours, theirs in zip(words[0].T, words[1].T, strict=True):
        differing += np.bitwise_count(ours[:, None] ^ theirs)
    numbers, nearest, back = np.arange(len(differing)), differing.argmin(1), differing.argmin(0)
    bits = differing[numbers, nearest]
    differing[numbers, nearest] = 8 * DESCRIPTOR
    good = (bits < RATIO * differing.min(1)) & (bits < NEAREST) & (back[nearest] == numbers)
    return np.stack([numbers[good], nearest[good]], axis=1)
