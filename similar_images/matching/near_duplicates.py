"""Is a match the same picture as its query, changed? Found on the pixels, whatever the model says.

Both pictures are reduced to 32×32, and the match is laid over the query. What is left to compare is
the fine structure: two photographs of the same kind of thing agree in the coarse and not in the
fine; one photograph, recoloured, cut or compressed again, agrees in both. Where the threshold comes
from: docs/near_duplicates.md.
"""

import math
import typing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from similar_images.matching.alignment import CENTRE, SIDE, Alignment, align, laid_over, stretch
from similar_images.matching.pairs import Pair, pairing, tab_separated
from similar_images.pictures.decoding import decode
from similar_images.pictures.image_files import ImageError

SAME = 0.75  # correlation of the fine structure from which two pictures are the same one
OVERLAP = 0.6  # of the query that the aligned match has to cover
DETAIL = 12  # pixels a side: with fewer, only equal pixels tell that pictures are the same
STRETCH = 0.3  # the most by which the match may be stretched, turned or sheared
PAIRS_AT_ONCE = 1000
SHIFTED, ZOOMED = 1.0, 0.06  # pixels; share: smaller moves are the alignment's own noise
RECOLOURED = 8.0  # grey levels of a channel, on average
PLAIN = 8  # grey levels: within these, a line of pixels is of one colour


@dataclass(frozen=True)
class NearDuplicate:
    """A pair whose pictures are the same one, and what was done to it."""

    pair: Pair
    changes: tuple[str, ...]

    @property
    def words(self) -> str:
        """The changes, as a reader's words."""
        return ", ".join(self.changes) or "the same pixels"


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
    equal = (queries == matches).all((1, 2, 3))
    fine = [min(small[p.query].detail, small[p.match].detail) >= DETAIL for p in pairs]
    changes: dict[int, list[str]] = {int(i): [] for i in np.flatnonzero(equal)}
    compared = np.flatnonzero(~equal & fine)
    if len(compared):
        aligned, same = same_pictures(queries[compared], matches[compared])
        for number in np.flatnonzero(same):
            i = int(compared[number])
            one = Alignment(*(part[[number]] for part in aligned))
            changes[i] = _changes(queries[i], matches[i], one)
    for i in changes:
        if small[pairs[i].query].size != small[pairs[i].match].size:
            changes[i].append("resized")
        if not changes[i] and not equal[i]:
            changes[i].append("re-encoded")
    return [NearDuplicate(pairs[i], tuple(changes[i])) for i in sorted(changes)]


def _changes(query: np.ndarray, match: np.ndarray, aligned: Alignment) -> list[str]:
    """Return what was done to one picture of a pair to make the other."""
    motion = aligned.motion[0]
    changes = ["mirrored"] if aligned.mirrored[0] else []
    if np.abs(motion[:, 0] - CENTRE).max() >= SHIFTED:
        changes.append("shifted")
    if stretch(aligned.motion)[0] >= ZOOMED:
        changes.append("zoomed")
    match = match[:, ::-1] if aligned.mirrored[0] else match
    laid, inside = laid_over(np.moveaxis(match, 2, 0), aligned.motion)
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
    moved_little = (aligned.overlap >= OVERLAP) & (stretch(aligned.motion) <= STRETCH)
    answer: np.ndarray = (aligned.agreement >= SAME) & moved_little
    return answer
