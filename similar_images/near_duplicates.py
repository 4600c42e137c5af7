"""Is a match the same picture as its query, changed? Found on the pixels, whatever the model says.

Both pictures are reduced to 32×32. The match is laid over the query, mirrored if that fits better:
first shifted as a whole, then turned, stretched and moved until their grey values agree best
(Lucas and Kanade 1981, with the affine motion of Baker and Matthews 2004). What is left to compare
is the fine structure, each value less the mean of the 5×5 around it: two photographs of the same
kind of thing agree in the coarse and not in the fine; one photograph, recoloured, cut or compressed
again, agrees in both. Where the threshold comes from: docs/near_duplicates.md.
"""

import math
import typing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from similar_images.decoding import decode
from similar_images.image_files import ImageError
from similar_images.pairs import Pair, pairing, tab_separated

SIDE = 32  # pixels: what both pictures are reduced to
SAME = 0.75  # correlation of the fine structure from which two pictures are the same one
LIKELY = 0.4  # correlation of shifted pictures below which it is not worth to align them
OVERLAP = 0.6  # of the query that the aligned match has to cover
DETAIL = 12  # pixels a side: with fewer, only equal pixels tell that pictures are the same
STRETCH = 0.3  # the most by which the match may be stretched, turned or sheared
REACH = 2  # how far the match is shifted at first, in pixels of 16×16: an eighth of the picture
STEPS = 8  # of the alignment, at each of two scales
PAIRS_AT_ONCE = 1000
COARSE, FINE = 5, 3  # pixels: the blur under which pictures are aligned, first and then
SHIFTED, ZOOMED = 1.0, 0.06  # pixels; share: smaller moves are the alignment's own noise
RECOLOURED = 8.0  # grey levels of a channel, on average
PLAIN = 8  # grey levels: within these, a line of pixels is of one colour
GREY = np.array([0.299, 0.587, 0.114], np.float32)
CENTRE = (SIDE - 1) / 2
_STILL = np.array([[CENTRE, CENTRE, 0], [CENTRE, 0, CENTRE]], np.float32)  # no motion


@dataclass(frozen=True)
class NearDuplicate:
    """A pair whose pictures are the same one, and what was done to it."""

    pair: Pair
    changes: tuple[str, ...]

    @property
    def words(self) -> str:
        """The changes, as a reader's words."""
        return ", ".join(self.changes) or "the same pixels"


class Alignment(typing.NamedTuple):
    """How the matches of N pairs lie on their queries.

    motion: (N, 2, 3) float32, for y and x: the place of the query's centre in the match, and
    what a step of half the picture down and to the right moves there, in pixels of 32×32.
    agreement: (N,) float32, the correlation of the fine structure, -1 to 1; overlap: (N,), the
    share of the query that the match covers; mirrored: (N,) bool.
    """

    motion: np.ndarray
    agreement: np.ndarray
    overlap: np.ndarray
    mirrored: np.ndarray


def find_near_duplicates(pairs: Sequence[Pair]) -> list[NearDuplicate]:
    """Return the pairs whose pictures are the same one, in the pairs' order.

    Pictures that can't be read, or may not be opened, are none.
    """
    found = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            some = [p for p in pairs[start : start + PAIRS_AT_ONCE] if p.may_open_match]
            paths = {p.query for p in some} | {p.match for p in some}
            small = dict(zip(paths, pool.map(reduced, paths), strict=True))
            some = [
                p for p in some if small[p.query] is not None and small.get(p.match) is not None
            ]
            if some:
                found += _among(some, typing.cast(dict[str, _Reduced], small))
    return found


def near_duplicates_text(found: Sequence[NearDuplicate]) -> str:
    """Return near-duplicates as the pairings are written, with what was changed."""
    header = ["query", "rank", "match", "similarity", "change"]
    return tab_separated(header, ([*pairing(one.pair), one.words] for one in found))


class _Reduced(typing.NamedTuple):
    """A picture at SIDE×SIDE: (32, 32, 3) uint8; its size, and its detail, in pixels a side."""

    pixels: np.ndarray
    size: tuple[int, int]
    detail: int


def reduced(path: str) -> _Reduced | None:
    """Return a picture at SIDE×SIDE, or None if it can't be read."""
    try:
        image = decode(Path(), path)[1]
    except ImageError:
        return None
    detail = min(_detail(np.asarray(image)), SIDE)
    return _Reduced(resized(image, detail), image.size, detail)


def _detail(pixels: np.ndarray) -> int:
    """Return how many pixels a side a picture really has: enlarged ones are squares of equal ones.

    >>> _detail(np.arange(16).reshape(4, 4).repeat(8, axis=0).repeat(8, axis=1))
    4
    """
    sides: list[int] = []
    for axis, length in enumerate(pixels.shape[:2]):
        lines = np.moveaxis(pixels, axis, 0)[:, :: max(1, pixels.shape[1 - axis] // 64)]
        changes = np.flatnonzero((lines[1:] != lines[:-1]).reshape(length - 1, -1).any(1)) + 1
        sides.append(length // math.gcd(length, *map(int, changes)))
    return min(sides)


def resized(image: Image.Image, detail: int) -> np.ndarray:
    """Return a picture as (32, 32, 3) uint8, with the detail of so many pixels a side."""
    if image.size != (SIDE, SIDE) or detail < SIDE:
        image = image.resize((detail, detail), Image.Resampling.BOX, reducing_gap=4)
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _at_equal_detail(one: _Reduced, other: _Reduced) -> tuple[np.ndarray, np.ndarray]:
    """Return two pictures, that with more detail as coarse as the other."""
    first, second = (
        resized(Image.fromarray(side.pixels), other_side.detail)
        if side.detail > other_side.detail
        else side.pixels
        for side, other_side in ((one, other), (other, one))
    )
    return first, second


def _without_strips(pixels: np.ndarray) -> np.ndarray:
    """Return a picture whose strips of one colour along its edges are filled from beside them.

    A shift or a frame leaves such strips, and the line where they end would pass for structure.
    """
    for _ in range(4):  # the upper edge, then by turns the others
        plain = int(np.argmax(np.append(np.ptp(pixels, axis=1).max(1) > PLAIN, True)))
        if 0 < plain <= SIDE // 4:  # and the line in which the strip meets the picture
            pixels = np.concatenate([pixels[[plain + 1]].repeat(plain + 1, 0), pixels[plain + 1 :]])
        pixels = np.rot90(pixels)
    return pixels


def _among(pairs: Sequence[Pair], small: dict[str, _Reduced]) -> list[NearDuplicate]:
    both = [_at_equal_detail(small[pair.query], small[pair.match]) for pair in pairs]
    queries, matches = (np.stack(side) for side in zip(*both, strict=True))
    aligned, same = same_pictures(queries, matches)
    same &= [min(small[p.query].detail, small[p.match].detail) >= DETAIL for p in pairs]
    same |= (queries == matches).all((1, 2, 3))
    found = []
    for i in map(int, np.flatnonzero(same)):
        pair = pairs[i]
        changes = _changes(queries[i], matches[i], Alignment(*(part[[i]] for part in aligned)))
        if small[pair.query].size != small[pair.match].size:
            changes.append("resized")
        if not changes and not np.array_equal(queries[i], matches[i]):
            changes.append("re-encoded")
        found.append(NearDuplicate(pair, tuple(changes)))
    return found


def _changes(query: np.ndarray, match: np.ndarray, aligned: Alignment) -> list[str]:
    """Return what was done to one picture of a pair to make the other."""
    if np.array_equal(query, match):
        return []
    motion = aligned.motion[0]
    changes = ["mirrored"] if aligned.mirrored[0] else []
    if np.abs(motion[:, 0] - CENTRE).max() >= SHIFTED:
        changes.append("shifted")
    if _stretch(aligned.motion)[0] >= ZOOMED:
        changes.append("zoomed")
    match = match[:, ::-1] if aligned.mirrored[0] else match
    where, inside = _places(aligned.motion, _ALL)
    channels = np.moveaxis(match, 2, 0).astype(np.float32)
    laid = _sample(channels, np.repeat(where, 3, axis=0))
    difference = np.abs(laid - query.reshape(-1, 3).T)
    if (difference * inside).sum(1).max() / inside.sum() >= RECOLOURED:
        changes.append("recoloured")
    return changes


def same_pictures(queries: np.ndarray, matches: np.ndarray) -> tuple[Alignment, np.ndarray]:
    """Return how the matches of N pairs lie on their queries, and which are the same picture.

    queries, matches: (N, 32, 32, 3) uint8. Returns an Alignment and (N,) bool.
    """
    aligned = align(queries, matches)
    same = _is_same(aligned)
    for i in np.flatnonzero(~same):
        filled = [_without_strips(side[i]) for side in (queries, matches)]
        if not all(map(np.array_equal, filled, (queries[i], matches[i]))):
            again = align(*(side[None] for side in filled))
            if _is_same(again)[0]:
                same[i] = True
                for part, other in zip(aligned, again, strict=True):
                    part[i] = other[0]
    return aligned, same


def _is_same(aligned: Alignment) -> np.ndarray:
    moved_little = (aligned.overlap >= OVERLAP) & (_stretch(aligned.motion) <= STRETCH)
    answer: np.ndarray = (aligned.agreement >= SAME) & moved_little
    return answer


def _stretch(motion: np.ndarray) -> np.ndarray:
    """Return by how much the matches are stretched, turned or sheared: (N,), 0 for not at all."""
    most: np.ndarray = np.abs((motion - _STILL)[:, :, 1:]).max((1, 2)) / CENTRE
    return most


# --- Laying one picture over the other --------------------------------------------------------


def align(queries: np.ndarray, matches: np.ndarray) -> Alignment:
    """Lay each match over its query, mirrored or not, as it agrees best.

    queries, matches: (N, 32, 32, 3) uint8.
    """
    ours = queries.astype(np.float32) @ GREY
    theirs = matches.astype(np.float32) @ GREY
    sides = [_align_unmirrored(ours, side) for side in (theirs, theirs[:, :, ::-1])]
    mirrored = sides[1].agreement > sides[0].agreement
    parts = [
        np.where(mirrored.reshape(-1, *[1] * (plain.ndim - 1)), other, plain)
        for plain, other in zip(*(side[:3] for side in sides), strict=True)
    ]
    return Alignment(parts[0], parts[1], parts[2], mirrored)


def _align_unmirrored(ours: np.ndarray, theirs: np.ndarray) -> Alignment:
    """Align those pairs that a shift makes likely to be the same picture."""
    likeness, motion = _shift(ours, theirs)
    agreement = np.full(len(ours), -1, np.float32)
    overlap = np.zeros(len(ours), np.float32)
    likely = np.flatnonzero(likeness >= LIKELY)
    if len(likely):
        a, b = ours[likely], theirs[likely]
        moved = _follow(_follow(motion[likely], a, b, COARSE), a, b, FINE)
        where, inside = _places(moved, _ALL)
        fine = _sample(b - _blurred(b, 5), where)
        motion[likely] = moved
        agreement[likely] = _correlation((a - _blurred(a, 5)).reshape(fine.shape), fine, inside)
        overlap[likely] = inside.mean(1)
    return Alignment(motion, agreement, overlap, np.zeros(len(ours), bool))


def _shift(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best correlation of shifted pictures at 16×16, and the motion that gives it."""
    a, b = (_halved(_blurred(x, 3) - _blurred(x, 9)) for x in (ours, theirs))
    side = a.shape[1]
    best = np.full(len(a), -1, np.float32)
    shift = np.zeros((len(a), 2), np.float32)
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            rows = slice(max(0, dy), side + min(0, dy)), slice(max(0, -dy), side + min(0, -dy))
            columns = slice(max(0, dx), side + min(0, dx)), slice(max(0, -dx), side + min(0, -dx))
            u = a[:, rows[0], columns[0]].reshape(len(a), -1)
            v = b[:, rows[1], columns[1]].reshape(len(a), -1)
            likeness = _correlation(u, v, np.ones((1, u.shape[1]), np.float32))
            better = likeness > best
            best[better] = likeness[better]
            shift[better] = -2 * dy, -2 * dx
    motion = np.tile(_STILL, (len(a), 1, 1))
    motion[:, :, 0] += shift
    return best, motion


def _follow(motion: np.ndarray, ours: np.ndarray, theirs: np.ndarray, blur: int) -> np.ndarray:
    """Return the motion after STEPS of Gauss and Newton towards equal grey values.

    Grey values are compared after gain and offset, on every second pixel of both directions.
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


# For each pixel: 1, and its place from the centre in halves of the picture, -1 to 1.
_AXIS = (np.arange(SIDE, dtype=np.float32) - CENTRE) / CENTRE
_SQUARE = np.stack([np.ones((SIDE, SIDE), np.float32), *np.meshgrid(_AXIS, _AXIS, indexing="ij")])
_ALL = _SQUARE.reshape(3, -1).T  # (1024, 3)
_FEW = _SQUARE[:, ::2, ::2].reshape(3, -1).T  # every second one of both directions


def _places(motion: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where pixels of the query, (P, 3), lie in the match, (N, 2, P), and which inside."""
    where = motion.astype(np.float32) @ grid.T
    inside = ((where >= 0.5) & (where <= SIDE - 1.5)).all(axis=1)
    return where, inside.astype(np.float32)


def _sample(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the values of (N, 32, 32) images at (N, 2, P) places, bilinear: (N, P)."""
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
    """Return (N, 32, 32) images, each pixel the mean of the square around it."""
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


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean: np.ndarray = (values * weights).sum(1, keepdims=True)
    mean /= weights.sum(1, keepdims=True) + 1e-6
    return mean


def _standard(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    standard: np.ndarray = values - _mean(values, weights)
    standard /= np.sqrt(_mean(np.square(standard), weights) + 1)
    return standard


def _correlation(u: np.ndarray, v: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the correlation of (N, P) values under weights; 0 where there is nothing to see."""
    u, v = u - _mean(u, weights), v - _mean(v, weights)
    product, squares = _mean(u * v, weights), _mean(u * u, weights) * _mean(v * v, weights)
    correlation: np.ndarray = (product / np.sqrt(squares + 1e-3))[:, 0]
    return correlation
