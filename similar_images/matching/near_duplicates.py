"""Find near-duplicates: matches that are the same picture as their query, unchanged or edited.

The pixels decide, whatever the model says. Both pictures are reduced to 32×32 and aligned; then
their fine structure is compared: two photographs of the same kind of object agree in their coarse
structure only, two copies of one photograph agree in both. docs/near_duplicates.md shows how the
thresholds were chosen.
"""

import hashlib
import math
import typing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from similar_images.console import QUIET, Console
from similar_images.matching.alignment import CENTRE, SIDE, Alignment, align, laid_over, stretch
from similar_images.matching.pairs import Pair, pairing, tab_separated
from similar_images.pictures.decoding import decode
from similar_images.pictures.image_files import ImageError

SAME = 0.75  # correlation of the fine structure from which on two pictures are near-duplicates
OVERLAP = 0.6  # of the query that the aligned match has to cover
DETAIL = 12  # different rows and columns: with fewer, only equal pixels make near-duplicates
STRETCH = 0.3  # the most by which the match may be stretched, rotated or sheared
PAIRS_AT_ONCE = 1000
LINES_AT_ONCE = 256
SHIFTED, ZOOMED = 1.0, 0.06  # pixels; share: the alignment is no more exact than this
RECOLOURED = 8.0  # grey levels of a channel, on average
PLAIN = 8  # grey levels: a line of pixels that differ by no more has one colour


@dataclass(frozen=True)
class NearDuplicate:
    """A pair whose pictures are near-duplicates, and how one differs from the other."""

    pair: Pair
    changes: tuple[str, ...]

    @property
    def words(self) -> str:
        """The changes in words; without any, the full-size pictures are equal."""
        return ", ".join(self.changes) or "the same pixels"


@dataclass(frozen=True)
class Comparison:
    """The near-duplicates among pairs, and how many of the pairs were compared."""

    near: list[NearDuplicate]
    compared: int


def find_near_duplicates(pairs: Sequence[Pair], console: Console = QUIET) -> Comparison:
    """Compare the pictures of pairs; near-duplicates are returned in the order of the pairs.

    Pairs with a picture that can't be read, or may not be opened, are not compared.
    """
    allowed = [pair for pair in pairs if pair.may_open_match]
    starts = range(0, len(allowed), PAIRS_AT_ONCE)
    chunks = [allowed[start : start + PAIRS_AT_ONCE] for start in starts]
    paths = [{path for pair in chunk for path in (pair.query, pair.match)} for chunk in chunks]
    near: list[NearDuplicate] = []
    compared, total = 0, sum(map(len, paths))
    with ThreadPoolExecutor() as pool, console.progress("pictures compared", total) as progress:
        for chunk, some in zip(chunks, paths, strict=True):
            small: dict[str, _Reduced] = {}
            for path, picture in zip(some, pool.map(reduced, some), strict=True):
                progress.update(1)
                if picture:
                    small[path] = picture
            readable = [pair for pair in chunk if {pair.query, pair.match} <= small.keys()]
            near += _among(readable, small)
            compared += len(readable)
    return Comparison(near, compared)


def near_duplicates_text(found: Sequence[NearDuplicate]) -> str:
    """Return near-duplicates in the form of the pairings, with a column for the changes."""
    header = ["query", "rank", "match", "similarity", "change"]
    return tab_separated(header, ([*pairing(one.pair), one.words] for one in found))


class _Reduced(typing.NamedTuple):
    """What is compared of a picture.

    pixels: (32, 32, 3) uint8. size: width and height of the picture in pixels. detail: its rows
    and columns before it was enlarged, at most 32 each. fine: whether enough of them differ from
    the one before: parallel stripes do not. digest: of all pixels before it was enlarged.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    detail: tuple[int, int]
    fine: bool
    digest: bytes


def reduced(path: str) -> _Reduced | None:
    """Return what is compared of a picture, or None if it can't be read."""
    try:
        image = decode(Path(), path)[1]
    except ImageError:
        return None
    pixels = np.asarray(image)
    sides = [_changes_between(lines) for lines in (pixels, pixels.swapaxes(0, 1))]
    down, right = (math.gcd(*places) for places in sides)
    pixels = pixels[::down, ::right]
    rows, columns = pixels.shape[:2]
    digest = hashlib.blake2b(f"{rows}×{columns}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    detail = min(rows, SIDE), min(columns, SIDE)
    fine = min(map(len, sides)) >= DETAIL
    return _Reduced(resized(image, detail), image.size, detail, fine, digest.digest())


def _changes_between(lines: np.ndarray) -> list[int]:
    """Return where a picture's lines differ from the line before, and the number of lines.

    lines: (N, length, 3). The greatest common divisor of the result is by how much an enlarged
    picture was enlarged; where that is 1 and there is detail enough, the result is incomplete.

    >>> _changes_between(np.arange(48).reshape(4, 4, 3).repeat(8, axis=0))
    [8, 16, 24, 32]
    """
    changed = np.append(np.zeros(len(lines) - 1, bool), True)
    for start in range(0, lines.shape[1], LINES_AT_ONCE):  # bounded memory, whatever the size
        some = lines[:, start : start + LINES_AT_ONCE]
        changed[:-1] |= (some[1:] != some[:-1]).any((1, 2))
        places = [int(place) + 1 for place in np.flatnonzero(changed)]
        if len(places) >= DETAIL and math.gcd(*places) == 1:
            break
    return places


def resized(image: Image.Image, detail: tuple[int, int]) -> np.ndarray:
    """Return a picture as (32, 32, 3) uint8, with the detail of so many rows and columns."""
    if image.size != (SIDE, SIDE) or detail != (SIDE, SIDE):
        image = image.resize(detail[::-1], Image.Resampling.BOX, reducing_gap=4)
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _at_equal_detail(one: _Reduced, other: _Reduced) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of two pictures at the lower detail of both."""
    detail = min(one.detail[0], other.detail[0]), min(one.detail[1], other.detail[1])
    first, second = (
        side.pixels if side.detail == detail else resized(Image.fromarray(side.pixels), detail)
        for side in (one, other)
    )
    return first, second


def _without_strips(pixels: np.ndarray) -> np.ndarray:
    """Return a picture whose strips of one colour along its edges are filled from beside them.

    A shift or a frame leaves such strips, and the line where they end would count as structure.
    """
    for _ in range(4):  # the upper edge; rotated, each of the others
        plain = int(np.argmax(np.append(np.ptp(pixels, axis=1).max(1) > PLAIN, True)))
        if 0 < plain <= SIDE // 4:  # and the line in which the strip meets the picture
            pixels = np.concatenate([pixels[[plain + 1]].repeat(plain + 1, 0), pixels[plain + 1 :]])
        pixels = np.rot90(pixels)
    return pixels


def _among(pairs: Sequence[Pair], small: dict[str, _Reduced]) -> list[NearDuplicate]:
    sides = [(small[pair.query], small[pair.match]) for pair in pairs]
    equal = [query.digest == match.digest for query, match in sides]
    changes: dict[int, list[str]] = {i: [] for i in range(len(pairs)) if equal[i]}
    compared = [
        i for i, (query, match) in enumerate(sides) if not equal[i] and query.fine and match.fine
    ]
    if compared:
        both = [_at_equal_detail(*sides[i]) for i in compared]
        queries, matches = (np.stack(side) for side in zip(*both, strict=True))
        aligned, same = same_pictures(queries, matches)
        for number in np.flatnonzero(same):
            one = Alignment(*(part[[number]] for part in aligned))
            changes[compared[number]] = _changes(queries[number], matches[number], one)
    for i in changes:
        query, match = sides[i]
        if query.size != match.size:
            changes[i].append("resized")
        elif not equal[i] and not changes[i]:
            changes[i].append("re-encoded")
    return [NearDuplicate(pairs[i], tuple(changes[i])) for i in sorted(changes)]


def _changes(query: np.ndarray, match: np.ndarray, aligned: Alignment) -> list[str]:
    """Return how one picture of a pair differs from the other, as far as 32×32 pixels show."""
    if np.array_equal(query, match):
        return [f"equal at {SIDE}×{SIDE}"]
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
    """Return how the matches of N pairs are aligned, and which pairs are near-duplicates.

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
