"""Join images that are the same to groups, and choose the one of each to keep."""

import contextlib
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from similar_images.console import QUIET, Console
from similar_images.images.image_files import ImageError, identity
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.near_duplicates import (
    NearDuplicate,
    find_near_duplicates,
    verified,
)
from similar_images.matching.pairs import Pair
from similar_images.verifying.detail import LEAST_FACTOR, edge_loss
from similar_images.verifying.verdict import SAME, Verdict

MOST_CANDIDATES = 16  # of a group, to be kept: each is compared with each
NEIGHBOURS = 16  # matches of each image in a group that may join it with another group
LOST, LOST_IN_DOUBT = 0.16, 0.28  # of the steepness of edges: enlarged images lose less
AS_MANY_PIXELS, SURELY_ENLARGED = 1.1, 0.1  # along a side; of the steepness of edges
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
    images are kept first.
    """

    in_collection: Mapping[str, bool]
    keep_in: Sequence[Path]
    search_again: SearchAgain
    embeddings_of: Embeddings
    reductions: ReductionStore

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
        found = find_near_duplicates(between, self.reductions, console).near
        _join(leader, (one.pair for one in found if one.is_same))
        members = defaultdict(list)
        for path in leader:
            members[_leader_of(leader, path)].append(path)
        files = [some for paths in members.values() if len(some := _each_file_once(paths)) > 1]
        embeddings = self.embeddings_of([path for paths in files for path in paths])
        there = ([path for path in paths if path in embeddings] for paths in files)
        groups = [self._group(paths, embeddings) for paths in there if len(paths) > 1]
        return sorted(groups, key=lambda group: (-group.spare_bytes, group.copies[0].path))

    def _group(self, paths: list[str], embeddings: Mapping[str, np.ndarray]) -> Group:
        """Return a group with its roles.

        Where some of its images are queries from elsewhere, one of the collection's is kept, and
        only those queries may be copies.
        """
        inside = [path for path in paths if self.in_collection.get(path, True)]
        candidates = inside or paths
        kept = self._kept(candidates)
        roles = set(paths) - set(inside) if len(inside) < len(paths) else set(paths)
        rest = sorted((path for path in paths if path != kept), key=self._rank)
        copies = [self._copy(kept, 1.0, "", KEEP if inside else "")]
        for path in rest:
            verdict = verified(kept, path, self.reductions)
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
        preferred = [path for path in ranked if self._is_preferred(path)]
        candidates = (preferred or ranked)[:MOST_CANDIDATES]
        worse = dict.fromkeys(candidates, 0)  # cropped, framed, greyed or blurred
        fewer: list[tuple[str, str]] = []  # pairs: more pixels, fewer pixels
        enlarged = set()
        for one, other in itertools.combinations(candidates, 2):
            verdict = verified(one, other, self.reductions)
            if not verdict or verdict.kind != SAME or not verdict.better:
                continue
            better, lesser = (one, other) if verdict.better > 0 else (other, one)
            if not verdict.by_pixels:
                worse[lesser] += 1
            elif self._is_enlarged(better, lesser, verdict):
                enlarged.add(better)
            else:
                fewer.append((better, lesser))
        outdone = {lesser for more, lesser in fewer if more not in enlarged}
        order = {path: place for place, path in enumerate(candidates)}
        return min(
            candidates,
            key=lambda path: (worse[path], path in enlarged, path in outdone, order[path]),
        )

    def _is_preferred(self, path: str) -> bool:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(folder) for folder in self.keep_in)

    def _rank(self, path: str) -> tuple[bool, int, int, str]:
        image = self.reductions[path]
        return not self._is_preferred(path), -image.file_size, image.modified_at, path

    def _is_enlarged(self, more: str, fewer: str, verdict: Verdict) -> bool:
        """Return whether the first of a pair, which has more pixels, has no more detail."""
        image, other = self.reductions[more], self.reductions[fewer]
        width, height = other.width, other.height
        if (width > height) != (image.width > image.height):
            width, height = height, width  # turned by a quarter
        factors = min(1.0, width / image.width), min(1.0, height / image.height)
        if min(factors) < LEAST_FACTOR:
            return verdict.doubtful
        return self._edge_loss(more, factors) < (LOST_IN_DOUBT if verdict.doubtful else LOST)

    def _has_no_less(self, kept: str, path: str, verdict: Verdict) -> bool:
        """Return whether the image that is kept shows all that another one does, as well.

        One with more pixels may have more detail, unless it surely was enlarged.
        """
        fewer = verdict.pixels < 1 / AS_MANY_PIXELS
        if fewer:
            return self._edge_loss(path, (verdict.pixels,) * 2) <= SURELY_ENLARGED
        return verdict.better >= 0

    def _edge_loss(self, path: str, factors: tuple[float, float]) -> float:
        try:
            return edge_loss(path, factors)
        except ImageError:  # changed since it was read
            return 1.0

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
