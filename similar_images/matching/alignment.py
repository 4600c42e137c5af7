"""Align one small image with another that may be shifted, rotated, stretched or mirrored.

The match is first shifted as a whole, then shifted, rotated and stretched until the grey values
agree best (Lucas and Kanade 1981, with the affine motion of Baker and Matthews 2004). How well two
aligned images agree is the correlation of their fine structure: each value minus the mean of the
5×5 values around it, then minus the mean of its row and of its column. Where they do not agree, the
match is also tried turned by quarters.
"""

import typing

import numpy as np

from similar_images.images.reductions import SIDE

SAME = 0.75  # correlation of the fine structure from which on two images are the same
LIKELY = 0.4  # correlation of shifted images below which they are not aligned
REACH = 2  # the greatest first shift, in pixels of 16×16: an eighth of the image
STEPS = 8  # iterations of the alignment, at each of two scales
COARSE, FINE = 5, 3  # pixels: the blur of the first and of the second scale
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # the weights of ITU-R BT.601
CENTRE = (SIDE - 1) / 2
_STILL = np.array([[CENTRE, CENTRE, 0], [CENTRE, 0, CENTRE]], np.float32)  # no motion
STRUCTURE = 5  # pixels: the side of the square whose mean is subtracted
TURNED = [(mirrored, turns) for mirrored in (False, True) for turns in (1, 2, 3)]


class Alignment(typing.NamedTuple):
    """How the matches of N pairs are aligned with their queries.

    motion: (N, 2, 3) float32, for y and x: the position of the query's centre in the match, and
    the change of position there for half an image down and half an image to the right in the
    query, in pixels of 32×32. agreement: (N,) float32, the correlation of the fine structure, -1
    to 1. overlap: (N,) float32, the share of the query that the match covers. mirrored: (N,) bool.
    turns: (N,) int, the quarter turns to the left by which the match, mirrored or not, is laid on
    the query.
    """

    motion: np.ndarray
    agreement: np.ndarray
    overlap: np.ndarray
    mirrored: np.ndarray
    turns: np.ndarray


def stretch(motion: np.ndarray) -> np.ndarray:
    """Return by how much the matches are stretched, rotated or sheared: (N,), 0 for not at all."""
    most: np.ndarray = np.abs((motion - _STILL)[:, :, 1:]).max((1, 2)) / CENTRE
    return most


def oriented(matches: np.ndarray, mirrored: bool, turns: int) -> np.ndarray:
    """Return matches (N, 32, 32, …) mirrored, then turned to the left by quarters."""
    return np.rot90(matches[:, :, ::-1] if mirrored else matches, turns, (1, 2))


def align(queries: np.ndarray, matches: np.ndarray) -> Alignment:
    """Align each match with its query in the orientation in which they agree best.

    queries, matches: (N, 32, 32, 3) uint8. Quarter turns are tried for those that do not agree
    otherwise, without a shift of the whole.
    """
    ours = queries.astype(np.float32) @ GREY
    theirs = matches.astype(np.float32) @ GREY
    aligned = _align_upright(ours, theirs)
    _take_better(aligned, np.arange(len(ours)), ours, theirs, (True, 0))
    others = np.flatnonzero(aligned.agreement < SAME)
    if len(others):
        a, b = _coarse(ours[others]), _coarse(theirs[others])
        likeness = np.stack([_likeness(a, oriented(b, *one)) for one in TURNED], axis=1)
        best = np.argmax(likeness, axis=1)
        for number, orientation in enumerate(TURNED):
            likely = (best == number) & (likeness[:, number] >= LIKELY)
            _take_better(aligned, others[likely], ours, theirs, orientation)
    return aligned


def _take_better(
    aligned: Alignment,
    some: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    orientation: tuple[bool, int],
) -> None:
    """Align some of the pairs in another orientation; keep what agrees better than before."""
    if len(some):
        found = _align_upright(ours[some], oriented(theirs[some], *orientation))
        better = found.agreement > aligned.agreement[some]
        for part, other in zip(aligned[:3], found[:3], strict=True):
            part[some[better]] = other[better]
        aligned.mirrored[some[better]], aligned.turns[some[better]] = orientation


def _align_upright(ours: np.ndarray, theirs: np.ndarray) -> Alignment:
    """Align those pairs that a shift alone makes similar enough, in the orientation they have."""
    likeness, motion = _shift(ours, theirs)
    agreement = np.full(len(ours), -1, np.float32)
    overlap = np.zeros(len(ours), np.float32)
    likely = np.flatnonzero(likeness >= LIKELY)
    if len(likely):
        a, b = ours[likely], theirs[likely]
        moved = _follow(_follow(motion[likely], a, b, COARSE), a, b, FINE)
        where, inside = _places(moved, _ALL)
        fine = _sample(b - _blurred(b, STRUCTURE), where)
        motion[likely] = moved
        ours_fine = (a - _blurred(a, STRUCTURE)).reshape(fine.shape)
        ours_fine, fine = (_without_stripes(values, inside) for values in (ours_fine, fine))
        agreement[likely] = _correlation(ours_fine, fine, inside)
        overlap[likely] = inside.mean(1)
    mirrored, turns = np.zeros(len(ours), bool), np.zeros(len(ours), int)
    return Alignment(motion, agreement, overlap, mirrored, turns)


def _shift(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best correlation of shifted images at 16×16, and the motion that gives it."""
    a, b = _coarse(ours), _coarse(theirs)
    side = a.shape[1]
    best = np.full(len(a), -1, np.float32)
    shift = np.zeros((len(a), 2), np.float32)
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            rows = slice(max(0, dy), side + min(0, dy)), slice(max(0, -dy), side + min(0, -dy))
            columns = slice(max(0, dx), side + min(0, dx)), slice(max(0, -dx), side + min(0, -dx))
            likeness = _likeness(a[:, rows[0], columns[0]], b[:, rows[1], columns[1]])
            better = likeness > best
            best[better] = likeness[better]
            shift[better] = -2 * dy, -2 * dx
    motion = np.tile(_STILL, (len(a), 1, 1))
    motion[:, :, 0] += shift
    return best, motion


def _coarse(images: np.ndarray) -> np.ndarray:
    """Return the coarse structure of (N, 32, 32) images, (N, 16, 16)."""
    return _halved(_blurred(images, 3) - _blurred(images, 9))


def _likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the correlation of (N, height, width) structures, (N,)."""
    u, v = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return _correlation(u, v, np.ones((1, u.shape[1]), np.float32))


def _follow(motion: np.ndarray, ours: np.ndarray, theirs: np.ndarray, blur: int) -> np.ndarray:
    """Return the motion after STEPS Gauss-Newton iterations towards equal grey values.

    Grey values are compared up to gain and offset, on every second pixel in both directions.
    """
    a = _blurred(ours, blur)[:, ::2, ::2].reshape(len(ours), -1)
    b = _blurred(theirs, blur)
    down, right = np.gradient(b, axis=(1, 2))
    for _ in range(STEPS):
        where, inside = _places(motion, _FEW)
        values = _sample(b, where)
        deviation = np.sqrt(_mean(np.square(values - _mean(values, inside)), inside) + 1)
        error = (_standard(a, inside) - (values - _mean(values, inside)) / deviation) * inside
        scale = inside / deviation
        slopes = np.concatenate(
            [(_sample(slope, where) * scale)[:, :, None] * _FEW for slope in (down, right)],
            axis=2,
        )
        turned = slopes.transpose(0, 2, 1)
        normal = turned @ slopes + 0.5 * np.eye(6, dtype=np.float32)
        step = np.linalg.solve(normal, turned @ error[:, :, None])[:, :, 0]
        motion = motion + step.clip(-1, 1).reshape(-1, 2, 3)
    return motion


def laid_over(matches: np.ndarray, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a match's N channels at the positions of the query's pixels.

    matches: (N, 32, 32). motion: (1, 2, 3) as in Alignment. Returns the values, (N, 1024) float32,
    and which of the positions are inside the match, (1, 1024) float32 of 0 and 1.
    """
    where, inside = _places(motion, _ALL)
    return _sample(matches.astype(np.float32), np.repeat(where, len(matches), axis=0)), inside


# For each pixel: 1, and its position from the centre in halves of the image, -1 to 1.
_AXIS = (np.arange(SIDE, dtype=np.float32) - CENTRE) / CENTRE
_SQUARE = np.stack([np.ones((SIDE, SIDE), np.float32), *np.meshgrid(_AXIS, _AXIS, indexing="ij")])
_ALL = _SQUARE.reshape(3, -1).T  # (1024, 3)
_FEW = _SQUARE[:, ::2, ::2].reshape(3, -1).T  # every second one in both directions


def _places(motion: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where pixels (P, 3) of the query are in the match, (N, 2, P), and which are inside."""
    where = motion.astype(np.float32) @ grid.T
    inside = ((where >= 0.5) & (where <= SIDE - 1.5)).all(axis=1)
    return where, inside.astype(np.float32)


def _sample(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the values of (N, 32, 32) images at positions (N, 2, P), bilinear: (N, P)."""
    where = where.clip(0, SIDE - 1.001)
    corner = where.astype(np.int32)
    down, right = (where - corner).transpose(1, 0, 2)
    flat = images.reshape(len(images), -1)
    first = corner[:, 0] * SIDE + corner[:, 1]
    upper, lower = (
        np.take_along_axis(flat, first + row, 1) * (1 - right)
        + np.take_along_axis(flat, first + row + 1, 1) * right
        for row in (0, SIDE)
    )
    values: np.ndarray = upper * (1 - down) + lower * down
    return values


def _blurred(images: np.ndarray, width: int) -> np.ndarray:
    """Return (N, 32, 32) images, each pixel the mean of the square of this width around it."""
    half = width // 2
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (half + 1, half)
        total = np.cumsum(np.pad(images, pad, mode="edge"), axis=axis, dtype=np.float32)
        length = images.shape[axis]
        ahead, behind = (
            np.take(total, np.arange(length) + offset, axis=axis) for offset in (width, 0)
        )
        images = (ahead - behind) / width
    return images


def _halved(images: np.ndarray) -> np.ndarray:
    count, side, _ = images.shape
    halved: np.ndarray = images.reshape(count, side // 2, 2, side // 2, 2).mean((2, 4))
    return halved


def _without_stripes(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return values (N, 1024) less the mean of their row, then of their column.

    Lines of text, bars and horizons run across many images that have nothing else in common.
    """
    values, weights = (side.reshape(-1, SIDE, SIDE) for side in (values, inside))
    for axis in (2, 1):
        total = (values * weights).sum(axis, keepdims=True)
        values = values - total / (weights.sum(axis, keepdims=True) + 1e-6)
    return values.reshape(len(values), -1)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean: np.ndarray = (values * weights).sum(1, keepdims=True)
    mean /= weights.sum(1, keepdims=True) + 1e-6
    return mean


def _standard(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    standard: np.ndarray = values - _mean(values, weights)
    standard /= np.sqrt(_mean(np.square(standard), weights) + 1)
    return standard


def _correlation(u: np.ndarray, v: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted correlation of (N, P) values; 0 where either is constant."""
    u, v = u - _mean(u, weights), v - _mean(v, weights)
    product, squares = _mean(u * v, weights), _mean(u * u, weights) * _mean(v * v, weights)
    correlation: np.ndarray = (product / np.sqrt(squares + 1e-3))[:, 0]
    return correlation
