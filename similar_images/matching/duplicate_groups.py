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
AS_MANY_PIXELS, SHARPER = 1.1, 1.3  # along a side; in detail: images that differ by less are equal
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
        compared of those that are in a group.
        """
        leader: dict[str, str] = {}
        _join(leader, (one.pair for one in near if one.is_same))
        rows = self.search_again(sorted(leader.keys() & self.in_collection.keys()), NEIGHBOURS)
        between = [
            [pair for pair in row if pair.match in leader and _are_apart(leader, pair)]
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
        choice = _Choice(self, {one.pair[:2]: one.verdict for one in [*near, *found]})
        choice.measure([path for paths in grouped for path in paths], console)
        groups = [choice.group(paths, embeddings) for paths in grouped]
        return sorted(groups, key=lambda group: (-group.spare_bytes, group.copies[0].path))


class _Choice:
    """Which image of a group is kept, and which are copies of it."""

    def __init__(self, grouping: Grouping, known: dict[tuple[str, str], Verdict]) -> None:
        self.grouping, self.reductions = grouping, grouping.reductions
        self._known = known
        self._sharpness: dict[str, float] = {}

    def measure(self, paths: Sequence[str], console: Console) -> None:
        """Measure how sharp images are, for better()."""
        self._sharpness = dict(self.reductions.examined(paths, sharpness, console=console))

    def group(self, paths: list[str], embeddings: Mapping[str, np.ndarray]) -> Group:
        """Return a group with its roles.

        Where some of its images are queries from elsewhere, one of the collection's is kept, and
        only those queries may be copies.
        """
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
                if inside and path in roles and self._has_no_less(kept, path, verdict):
                    role = COPY
            similarity = min(1.0, float(embeddings[kept] @ embeddings[path]))
            copies.append(self._copy(path, similarity, change, role))
        return Group(copies)

    def _kept(self, paths: Sequence[str]) -> str:
        """Return the image to keep: of equally good ones the largest file, the oldest, by path."""
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
        if not 1 / AS_MANY_PIXELS <= pixels <= AS_MANY_PIXELS:
            return detail > pixels
        if not 1 / SHARPER <= detail <= SHARPER:
            return detail > SHARPER
        own, other = (self.reductions[one].coarseness for one in (path, kept))
        return 0 < own < other

    def _has_no_less(self, kept: str, path: str, verdict: Verdict) -> bool:
        """Return whether the image that is kept shows all that another one does, as well."""
        if not verdict.changes:
            return True
        pixels = 1 / verdict.pixels
        most = math.pow(pixels, SURELY_ENLARGED) if pixels > AS_MANY_PIXELS else SHARPER
        return verdict.better >= 0 and self._detail(path, kept, verdict) <= most

    def _detail(self, path: str, kept: str, verdict: Verdict) -> float:
        """Return how much detail an image has of what both show, in that of the one that is kept.

        nan if either has changed since it was compared: then nothing is said.
        """
        own, other = (self._sharpness.get(one, math.nan) for one in (path, kept))
        return own / max(other, 1e-3) / verdict.pixels**2

    def _verdict(self, one: str, other: str) -> Verdict | None:
        if (one, other) in self.grouping.ignored:
            return None
        if (one, other) not in self._known and (other, one) in self._known:
            return self._known[other, one].turned_round()
        if (one, other) not in self._known:
            found = verified(one, other, self.reductions)
            if not found:
                return None
            self._known[one, other] = found
        return self._known[one, other]

    def _is_preferred(self, path: str) -> bool:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(folder) for folder in self.grouping.keep_in)

    def _rank(self, path: str) -> tuple[bool, int, int, str]:
        image = self.reductions[path]
        return not self._is_preferred(path), -image.file_size, image.modified_at, path

    def _copy(self, path: str, similarity: float, change: str, role: str) -> Copy:
        image = self.reductions[path]
        size = image.width, image.height, image.file_size
        return Copy(path, *size, similarity, change, role)


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
