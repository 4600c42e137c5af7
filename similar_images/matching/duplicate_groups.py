"""Join images that are the same to groups, and choose the one of each to keep."""

import contextlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from similar_images.console import QUIET, Console
from similar_images.images.image_files import identity
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.ignored_pairs import NONE_IGNORED, IgnoredPairs
from similar_images.matching.near_duplicates import (
    NearDuplicate,
    find_near_duplicates,
    verified,
)
from similar_images.matching.pairs import Pair
from similar_images.verifying.detail import sharpness
from similar_images.verifying.verdict import SAME, Verdict

NEIGHBOURS = 16  # matches of each image in a group that may join it with another group
LESS_SIMILAR = 0.05  # than the least similar copies: matches that are not compared
AS_MANY_PIXELS, SHARPER = 1.1, 1.3  # along a side; in detail: images that differ by less are equal
COMPRESSED = 4.0  # likewise, of a JPEG and another image: compression adds edges
# An image with n times the pixels along a side has n² times the detail, or hardly more if it was
# only enlarged: the line is drawn at n; up to this power of n it surely was enlarged.
SURELY_ENLARGED = 0.6
INDIRECT = "a copy of another image of the group"
KEEP, COPY = "keep", "copy"  # roles
SearchAgain = Callable[[Sequence[str], int], Sequence[Sequence[Pair]]]  # queries, top-k → rows
Embeddings = Callable[[Sequence[str]], Mapping[str, np.ndarray]]  # paths → embeddings


class Copy(NamedTuple):
    """An image of a group; similarity and change: how it differs from the group's first one."""

    path: str
    width: int  # pixels
    height: int
    file_size: int  # bytes
    similarity: float
    change: str
    keep: str  # KEEP, COPY or '' where neither can be said


@dataclass(frozen=True)
class Group:
    """Images that are the same; the one to keep comes first."""

    copies: list[Copy]

    @property
    def spare(self) -> list[Copy]:
        """Those whose whole content is in the one that is kept."""
        return [copy for copy in self.copies if copy.keep == COPY]

    @property
    def spare_bytes(self) -> int:
        """The size of their files."""
        return sum(copy.file_size for copy in self.spare)


@dataclass(frozen=True)
class Grouping:
    """What groups are made of.

    in_collection: of each query, whether it is an image of the collection. keep_in: folders whose
    images are kept first. ignored: pairs that are never called the same.
    """

    in_collection: Mapping[str, bool]
    keep_in: Sequence[Path]
    search_again: SearchAgain
    embeddings_of: Embeddings
    reductions: ReductionStore
    ignored: IgnoredPairs = NONE_IGNORED

    def groups(self, near: Sequence[NearDuplicate], console: Console = QUIET) -> list[Group]:
        """Return the groups of near-duplicates, those with the most bytes to spare first.

        Where each copy's nearest match is another copy, only they join the groups: of four copies,
        two may be nearest to each other, and so may the other two. So matches of more ranks are
        compared of those that are in a group, if they are about as similar as the known copies.
        """
        leader: dict[str, str] = {}
        same = [one.pair for one in near if one.is_same]
        _join(leader, same)
        least = min((pair.similarity for pair in same), default=1.0) - LESS_SIMILAR
        rows = self.search_again(sorted(leader.keys() & self.in_collection.keys()), NEIGHBOURS)
        between = [
            [
                pair
                for pair in row
                if pair.match in leader and pair.similarity > least and _are_apart(leader, pair)
            ]
            for row in rows
        ]
        found = find_near_duplicates(between, self.reductions, console, self.ignored).near
        _join(leader, (one.pair for one in found if one.is_same))
        members = defaultdict(list)
        for path in leader:
            members[_leader_of(leader, path)].append(path)
        files = [some for paths in members.values() if len(some := _each_file_once(paths)) > 1]
        embeddings = self.embeddings_of([path for paths in files for path in paths])
        there = ([path for path in paths if path in embeddings] for paths in files)
        grouped = [paths for paths in there if len(paths) > 1]
        known = {one.pair[:2]: one.verdict for one in [*near, *found] if one.is_same}
        choice = _Choice(self, known)
        choice.measure_doubtful(console)
        groups = [choice.group(paths, embeddings) for paths in grouped]
        return sorted(groups, key=lambda group: (-group.spare_bytes, group.copies[0].path))


class _Choice:
    """Which image of a group is kept, and which are copies of it."""

    def __init__(self, grouping: Grouping, known: dict[tuple[str, str], Verdict]) -> None:
        self.grouping, self.reductions = grouping, grouping.reductions
        self._known = known
        self._sharpness: dict[str, float] = {}

    def measure_doubtful(self, console: Console) -> None:
        """Measure the detail of the images of all known pairs in which it decides."""
        pairs = (pair for pair, verdict in self._known.items() if self._is_doubtful(pair, verdict))
        self._measure(sorted({path for pair in pairs for path in pair}), console)

    def _measure(self, paths: Sequence[str], console: Console = QUIET) -> None:
        # nan for images that have changed since they were compared: then nothing is said.
        self._sharpness |= dict.fromkeys(paths, math.nan)
        self._sharpness |= self.reductions.examined(paths, sharpness, console=console)

    def _is_doubtful(self, pair: tuple[str, str], verdict: Verdict) -> bool:
        """Return whether the detail of two images has to be measured, in their whole files.

        Not of JPEGs with equally many pixels, of which the larger file is also the finer one.
        """
        if not verdict.changes:
            return False
        one, other = (self.reductions[path] for path in pair)
        if min(one.coarseness, other.coarseness) <= 0 or not _are_as_many(verdict.pixels):
            return True
        finer = one.coarseness < other.coarseness
        return one.coarseness != other.coarseness and finer != (one.file_size > other.file_size)

    def group(self, paths: list[str], embeddings: Mapping[str, np.ndarray]) -> Group:
        """Return a group with its roles.

        Where some of its images are queries from elsewhere, one of the collection's is kept, and
        only those queries may be copies. Where some were taken at other times, as in a burst, a
        copy has the time, or the pixels, of the one that is kept.
        """
        times = {path: self.reductions[path].taken_at for path in paths}
        several = len({*times.values()} - {0}) > 1
        inside = [path for path in paths if self.grouping.in_collection.get(path, True)]
        kept = self._kept(inside or paths)
        roles = set(paths) - set(inside) if len(inside) < len(paths) else set(paths)
        rest = sorted((path for path in paths if path != kept), key=self._rank)
        copies = [self._copy(kept, 1.0, "", KEEP if inside else "")]
        for path in rest:
            verdict = self._verdict(kept, path)
            change, role = INDIRECT, ""
            if verdict and verdict.kind == SAME:
                change = verdict.words
                other = several and verdict.changes and not 0 < times[path] == times[kept]
                if inside and path in roles and not other:
                    role = COPY if self._has_no_less(kept, path, verdict) else ""
            similarity = min(1.0, float(embeddings[kept] @ embeddings[path]))
            copies.append(self._copy(path, similarity, change, role))
        return Group(copies)

    def _kept(self, paths: Sequence[str]) -> str:
        """Return the image to keep: of equally good ones the largest file, the oldest, by path.

        The oldest is the one that was taken, else changed, first.
        """
        ranked = sorted(paths, key=self._rank)
        kept, *others = [path for path in ranked if self._is_preferred(path)] or ranked
        for path in others:
            verdict = self._verdict(kept, path)
            if verdict and verdict.kind == SAME and self._is_better(path, kept, verdict):
                kept = path
        return kept

    def _is_better(self, path: str, kept: str, verdict: Verdict) -> bool:
        """Return whether an image is to be kept instead of another one that is the same.

        verdict: on the other one and this one.
        """
        if verdict.better or not verdict.changes:
            return verdict.better < 0
        detail, pixels = self._detail(path, kept, verdict), 1 / verdict.pixels
        if not _are_as_many(pixels):
            return detail > pixels
        own, other = (self.reductions[one].coarseness for one in (path, kept))
        limit = self._limit(path, kept)
        return 0 <= own < other if 1 / limit <= detail <= limit else detail > limit

    def _limit(self, one: str, other: str) -> float:
        """Return how much more detail an image needs to have more than another one."""
        is_jpeg = [self.reductions[path].coarseness > 0 for path in (one, other)]
        return COMPRESSED if is_jpeg[0] != is_jpeg[1] else SHARPER

    def _has_no_less(self, kept: str, path: str, verdict: Verdict) -> bool:
        """Return whether the image that is kept shows all that another one does, as well."""
        if not verdict.changes:
            return True
        pixels = 1 / verdict.pixels
        limit = self._limit(path, kept)
        most = math.pow(pixels, SURELY_ENLARGED) if pixels > AS_MANY_PIXELS else limit
        return verdict.better >= 0 and self._detail(path, kept, verdict) <= most

    def _detail(self, path: str, kept: str, verdict: Verdict) -> float:
        """Return how much detail an image has of what both show, in that of the one that is kept.

        nan if either can't be read again.
        """
        if not self._is_doubtful((kept, path), verdict):
            return 1.0
        self._measure([one for one in (path, kept) if one not in self._sharpness])
        own, other = self._sharpness[path], self._sharpness[kept]
        return own / max(other, 1e-3) / verdict.pixels**2

    def _verdict(self, one: str, other: str) -> Verdict | None:
        if (other, one) in self._known:
            return self._known[other, one].turned_round()
        found = self._known.get((one, other)) or verified(one, other, self.reductions)
        if not found or self.grouping.ignored.leave_out(one, other):
            return None
        self._known[one, other] = found
        return found

    def _is_preferred(self, path: str) -> bool:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(folder) for folder in self.grouping.keep_in)

    def _rank(self, path: str) -> tuple[bool, int, float, int, str]:
        image = self.reductions[path]
        taken = image.taken_at or math.inf
        return not self._is_preferred(path), -image.file_size, taken, image.modified_at, path

    def _copy(self, path: str, similarity: float, change: str, role: str) -> Copy:
        image = self.reductions[path]
        size = image.width, image.height, image.file_size
        return Copy(path, *size, similarity, change, role)


def _are_as_many(pixels: float) -> bool:
    """Return whether two images differ little in their pixels along a side, by Verdict.pixels."""
    return 1 / AS_MANY_PIXELS <= pixels <= AS_MANY_PIXELS


def _join(leader: dict[str, str], pairs: Iterable[Pair]) -> None:
    for pair in pairs:
        first, second = (_leader_of(leader, path) for path in pair[:2])
        leader[max(first, second)] = leader[min(first, second)] = min(first, second)


def _are_apart(leader: dict[str, str], pair: Pair) -> bool:
    return _leader_of(leader, pair.query) != _leader_of(leader, pair.match)


def _leader_of(leader: dict[str, str], path: str) -> str:
    """Return the image that stands for the group of a path; itself if it is in none."""
    while leader.setdefault(path, path) != path:
        leader[path] = path = leader[leader[path]]
    return path


def _each_file_once(paths: Iterable[str]) -> list[str]:
    """Return paths without those that lead to a file of another one: no file is its own copy."""
    files: dict[object, str] = {}
    for path in sorted(paths, key=lambda path: (os.path.islink(path), path)):
        with contextlib.suppress(OSError):  # gone since it was read
            files.setdefault(identity(os.stat(path)), path)
    return list(files.values())
