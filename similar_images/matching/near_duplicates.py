"""Find near-duplicates: matches that are the same image as their query, unchanged or edited.

The pixels decide, whatever the model says. Both images are reduced to 32×32 and aligned; then
their fine structure is compared: two photographs of the same kind of object agree in their coarse
structure only, two copies of one photograph agree in both. docs/near_duplicates.md shows how the
thresholds were chosen.
"""

import collections
import filecmp
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from similar_images.console import QUIET, Console
from similar_images.images.decode_workers import core_count
from similar_images.images.reduction_store import ReductionStore
from similar_images.images.reductions import SIDE, Reduction, resized, without_strips
from similar_images.matching.alignment import (
    CENTRE,
    SAME,
    Alignment,
    align,
    laid_over,
    oriented,
    stretch,
)
from similar_images.matching.pairs import Pair

OVERLAP = 0.6  # of the query that the aligned match has to cover
STRETCH = 0.3  # the most by which the match may be stretched, rotated or sheared
PAIRS_AT_ONCE = 250  # more take longer each: their values leave the processor's cache
SHIFTED, ZOOMED = 1.0, 0.06  # pixels; share: the alignment is no more exact than this
RECOLOURED = 8.0  # grey levels of a channel, on average
EQUAL, RE_ENCODED = f"equal at {SIDE}×{SIDE}", "re-encoded"


@dataclass(frozen=True)
class NearDuplicate:
    """A pair whose images are near-duplicates, and how one differs from the other."""

    pair: Pair
    changes: tuple[str, ...]

    @property
    def words(self) -> str:
        """The changes in words; without any, the full-size images are equal."""
        return ", ".join(self.changes) or "the same pixels"


@dataclass(frozen=True)
class Comparison:
    """The near-duplicates among pairs, and how many of the pairs were compared."""

    near: list[NearDuplicate]
    compared: int


class _Candidate(NamedTuple):
    """A pair that may be near-duplicates; changes: None if only equal pixels make it such.

    doubtful: whether the whole images may be equal, which their reduced scale does not show.
    """

    pair: Pair
    changes: list[str] | None
    doubtful: bool = False


def find_near_duplicates(
    rows: Sequence[Sequence[Pair]], reductions: ReductionStore, console: Console = QUIET
) -> Comparison:
    """Compare the images of pairs; near-duplicates are returned in the order of the pairs.

    Pairs with an image that can't be read, or may not be opened, are not compared.
    """
    reductions.read(dict.fromkeys(path for pair in _allowed(rows) for path in pair[:2]), console)
    found: list[_Candidate] = []
    compared = 0
    with console.progress("pairs compared", sum(map(len, rows))) as progress:
        for readable, candidates in _compared(rows, reductions):
            found += candidates
            compared += readable
            progress.update(readable)
    doubtful = [candidate.pair for candidate in found if candidate.doubtful]
    equal = dict(zip(doubtful, equal_images(doubtful, reductions, console), strict=True))
    near = [
        NearDuplicate(pair, () if equal.get(pair) else tuple(changes or ()))
        for pair, changes, _ in found
        if changes is not None or equal.get(pair)
    ]
    return Comparison(near, compared)


def _allowed(rows: Iterable[Sequence[Pair]]) -> Iterator[Pair]:
    return (pair for row in rows for pair in row if pair.may_open_match)


def _compared(
    rows: Iterable[Sequence[Pair]], reductions: ReductionStore
) -> Iterator[tuple[int, list[_Candidate]]]:
    """Compare the pairs in all cores; yield how many were, and the candidates, in order."""
    allowed, threads = _allowed(rows), core_count()
    waiting: collections.deque[tuple[int, Future[list[_Candidate]]]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(itertools.islice(allowed, PAIRS_AT_ONCE)):
            paths = {path for pair in chunk for path in pair[:2]}
            small = {path: found for path in paths if (found := reductions.find(path))}
            readable = [pair for pair in chunk if {pair.query, pair.match} <= small.keys()]
            waiting.append((len(readable), pool.submit(_candidates, readable, small)))
            if len(waiting) > 2 * threads:
                count, future = waiting.popleft()
                yield count, future.result()
        yield from ((count, future.result()) for count, future in waiting)


def equal_images(
    pairs: Sequence[Pair], reductions: ReductionStore, console: Console = QUIET
) -> list[bool]:
    """Return of which pairs both files, or else both whole images, are equal."""
    same_file = [_same_content(pair.query, pair.match) for pair in pairs]
    others = [pair for pair, same in zip(pairs, same_file, strict=True) if not same]
    digests = reductions.whole_digests({path for pair in others for path in pair[:2]}, console)
    return [
        same or (digests.get(pair.query, b"") == digests.get(pair.match))
        for pair, same in zip(pairs, same_file, strict=True)
    ]


def _same_content(one: str, other: str) -> bool:
    try:
        return os.path.getsize(one) == os.path.getsize(other) and filecmp.cmp(one, other, False)
    except OSError:  # gone since it was read
        return False


def _at_equal_detail(one: Reduction, other: Reduction) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of two images at the lower detail of both."""
    detail = min(one.rows, other.rows), min(one.columns, other.columns)
    first, second = (
        side.array
        if (side.rows, side.columns) == detail
        else resized(Image.fromarray(side.array), detail)
        for side in (one, other)
    )
    return first, second


def _candidates(pairs: Sequence[Pair], small: Mapping[str, Reduction]) -> list[_Candidate]:
    """Return those pairs that are near-duplicates, or are if their whole images are equal."""
    found: dict[int, _Candidate] = {}
    compared = []
    for i, pair in enumerate(pairs):
        query, match = small[pair.query], small[pair.match]
        fine = query.fine and match.fine
        if query.digest == match.digest and not query.scaled:
            same_size = (query.width, query.height) == (match.width, match.height)
            found[i] = _Candidate(pair, [] if same_size else ["resized"])
            continue
        if _may_be_equal(query, match):
            found[i] = _Candidate(pair, None, doubtful=True)
        if fine:
            compared.append(i)
    if compared:
        sides = [(small[pairs[i].query], small[pairs[i].match]) for i in compared]
        for number, changes in _aligned_changes(sides).items():
            i = compared[number]
            doubtful = i in found and changes in ([EQUAL], [RE_ENCODED])
            found[i] = _Candidate(pairs[i], changes, doubtful)
    return [found[i] for i in sorted(found)]


def _may_be_equal(query: Reduction, match: Reduction) -> bool:
    """Return whether the whole images may be equal, of which one was decoded at a scale.

    Two of one size were decoded at the same scale, unless one is in a format without scales.
    """
    if (query.width, query.height) != (match.width, match.height):
        return False
    if query.scaled == match.scaled:
        return query.digest == match.digest
    difference = np.abs(query.array.astype(int) - match.array)
    return bool(difference.mean((0, 1)).max() < RECOLOURED)


def _aligned_changes(
    sides: Sequence[tuple[Reduction, Reduction]],
) -> dict[int, list[str]]:
    """Return which of these pairs are near-duplicates, and how their images differ."""
    both = itertools.starmap(_at_equal_detail, sides)
    queries, matches = (np.stack(side) for side in zip(*both, strict=True))
    plain_edge = np.array([query.plain_edge or match.plain_edge for query, match in sides])
    aligned, same = same_images(queries, matches, plain_edge)
    found = {}
    for i in map(int, np.flatnonzero(same)):
        one = Alignment(*(part[[i]] for part in aligned))
        changes = _changes(queries[i], matches[i], one)
        query, match = sides[i]
        size = match.width, match.height
        if (query.width, query.height) != (size[::-1] if one.turns[0] % 2 else size):
            changes.append("resized")
        found[i] = changes or [RE_ENCODED]
    return found


def _changes(query: np.ndarray, match: np.ndarray, aligned: Alignment) -> list[str]:
    """Return how one image of a pair differs from the other, as far as 32×32 pixels show."""
    if np.array_equal(query, match):
        return [EQUAL]
    motion, turns = aligned.motion[0], int(aligned.turns[0])
    changes = [f"rotated {90 * turns}°"] if turns else []
    if aligned.mirrored[0]:
        changes.append("mirrored")
    if np.abs(motion[:, 0] - CENTRE).max() >= SHIFTED:
        changes.append("shifted")
    if stretch(aligned.motion)[0] >= ZOOMED:
        changes.append("zoomed")
    match = oriented(match[None], bool(aligned.mirrored[0]), turns)[0]
    laid, inside = laid_over(np.moveaxis(match, 2, 0), aligned.motion)
    difference = np.abs(laid - query.reshape(-1, 3).T)
    if (difference * inside).sum(1).max() / inside.sum() >= RECOLOURED:
        changes.append("recoloured")
    return changes


def same_images(
    queries: np.ndarray,
    matches: np.ndarray,
    plain_edge: np.ndarray | None = None,
    least: float = SAME,
) -> tuple[Alignment, np.ndarray]:
    """Return how the matches of N pairs are aligned, and which pairs are near-duplicates.

    queries, matches: (N, 32, 32, 3) uint8. plain_edge: (N,) bool, of which pairs an image has an
    edge of one colour; None if that is not known. least: the correlation of near-duplicates.
    Returns an Alignment and (N,) bool.
    """
    aligned = align(queries, matches)
    same = _is_same(aligned, least)
    again = np.flatnonzero(~same if plain_edge is None else ~same & plain_edge)
    if len(again):
        filled = [np.stack([without_strips(side[i]) for i in again]) for side in (queries, matches)]
        other = align(filled[0], filled[1])
        now_same = _is_same(other, least)
        same[again] = now_same
        for part, new in zip(aligned, other, strict=True):
            part[again[now_same]] = new[now_same]
    return aligned, same


def _is_same(aligned: Alignment, least: float) -> np.ndarray:
    moved_little = (aligned.overlap >= OVERLAP) & (stretch(aligned.motion) <= STRETCH)
    answer: np.ndarray = (aligned.agreement >= least) & moved_little
    return answer
