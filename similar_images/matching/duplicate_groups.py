"""Join near-duplicates to groups: all copies of one image."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from similar_images.console import QUIET, Console
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.near_duplicates import NearDuplicate, find_near_duplicates
from similar_images.matching.pairs import Pair

NEIGHBOURS = 16  # matches of each image in a group that may join it with another group
INDIRECT = "a copy of another image of the group"
KEEP, COPY = "keep", "copy"  # roles of a collection's own images
SearchAgain = Callable[[Sequence[str], int], Sequence[Sequence[Pair]]]  # queries, top-k → rows
Embeddings = Callable[[Sequence[str]], Mapping[str, np.ndarray]]  # paths → embeddings


class Copy(NamedTuple):
    """An image of a group; similarity and change: how it differs from the group's best one."""

    path: str
    width: int  # pixels
    height: int
    file_size: int  # bytes
    similarity: float
    change: str
    keep: str  # of a collection's own images KEEP for the best, COPY for those like it, else ''


@dataclass(frozen=True)
class Group:
    """Copies of one image, the best first: most pixels, largest file, oldest, by path."""

    copies: list[Copy]

    @property
    def spare(self) -> list[Copy]:
        """Those that could go; none unless all are images of the collection."""
        return [copy for copy in self.copies if copy.keep == COPY]

    @property
    def spare_bytes(self) -> int:
        """The size of their files."""
        return sum(copy.file_size for copy in self.spare)


def duplicate_groups(
    near: Sequence[NearDuplicate],
    searched: Mapping[str, bool],
    search_again: SearchAgain,
    embeddings_of: Embeddings,
    reductions: ReductionStore,
    console: Console = QUIET,
) -> list[Group]:
    """Return the groups of near-duplicates, those with the most bytes to spare first.

    searched: the queries, and whether each is an image of the collection. search_again: finds
    more matches of queries. Where each copy's nearest match is another copy, only they join the
    groups: of four copies, two may be nearest to each other, and so may the other two.
    """
    leader: dict[str, str] = {}
    _join(leader, (one.pair for one in near))
    rows = search_again(sorted(leader.keys() & searched.keys()), NEIGHBOURS)
    between = [
        [pair for pair in row if pair.match in leader and _are_apart(leader, pair)] for row in rows
    ]
    _join(leader, (one.pair for one in find_near_duplicates(between, reductions, console).near))
    members = defaultdict(list)
    for path in leader:
        members[_leader_of(leader, path)].append(path)
    files = [some for paths in members.values() if len(some := _each_file_once(paths)) > 1]
    ranked = [sorted(paths, key=lambda path: _rank(path, reductions)) for paths in files]
    return _described(ranked, searched, embeddings_of, reductions, console)


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
    files: dict[str, str] = {}
    for path in sorted(paths, key=lambda path: (os.path.islink(path), path)):
        files.setdefault(os.path.realpath(path), path)
    return list(files.values())


def _rank(path: str, reductions: ReductionStore) -> tuple[int, int, int, str]:
    small = reductions[path]
    return -small.width * small.height, -small.file_size, small.modified_at, path


def _described(
    ranked: Sequence[list[str]],
    searched: Mapping[str, bool],
    embeddings_of: Embeddings,
    reductions: ReductionStore,
    console: Console,
) -> list[Group]:
    """Return groups, whose paths come in the order of their rank, with all that is said of them."""
    embeddings = embeddings_of([path for paths in ranked for path in paths])
    there = ([path for path in paths if path in embeddings] for paths in ranked)
    ranked = [paths for paths in there if len(paths) > 1]  # rows may have been deleted meanwhile
    rows = [
        [
            Pair(best, path, float(embeddings[best] @ embeddings[path]), rank)
            for rank, path in enumerate(others, start=1)
        ]
        for best, *others in ranked
    ]
    near = find_near_duplicates(rows, reductions, console).near
    words = {(one.pair.query, one.pair.match): one.words for one in near}
    groups = [_group(row, words, searched, reductions) for row in rows]
    return sorted(groups, key=lambda group: (-group.spare_bytes, group.copies[0].path))


def _group(
    row: Sequence[Pair],
    words: Mapping[tuple[str, str], str],
    searched: Mapping[str, bool],
    reductions: ReductionStore,
) -> Group:
    """Return the group of its best image's pairs; words: the changes of those verified."""
    best = row[0].query
    own = all(searched.get(path, True) for path in (best, *(pair.match for pair in row)))
    copies = [_copy(best, 1.0, "", KEEP if own else "", reductions)]
    for pair in row:
        change = words.get((best, pair.match), INDIRECT)
        role = COPY if own and change != INDIRECT else ""  # a copy is verified: it may be deleted
        copies.append(_copy(pair.match, min(1.0, pair.similarity), change, role, reductions))
    return Group(copies)


def _copy(path: str, similarity: float, change: str, role: str, reductions: ReductionStore) -> Copy:
    small = reductions[path]
    return Copy(path, small.width, small.height, small.file_size, similarity, change, role)
