"""Find near-duplicates: matches that show the same as their query, as a whole or in part."""

import collections
import filecmp
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from similar_images.console import QUIET, Console
from similar_images.images.decode_workers import core_count
from similar_images.images.reduction_store import ReductionStore
from similar_images.images.reductions import Reduction
from similar_images.matching.ignored_pairs import NONE_IGNORED, IgnoredPairs
from similar_images.matching.pairs import Pair
from similar_images.verifying.verdict import SAME, Verdict, verify

BURST = 10_000  # milliseconds between photographs, at most, to be said of near-duplicates
PAIRS_AT_ONCE = 32  # verified by one thread: their reductions are in memory, 100 kB each


@dataclass(frozen=True)
class NearDuplicate:
    """A pair of near-duplicates, and the verdict on them."""

    pair: Pair
    verdict: Verdict

    @property
    def is_same(self) -> bool:
        """Whether both images show the same as a whole."""
        return self.verdict.kind == SAME


@dataclass(frozen=True)
class Comparison:
    """The near-duplicates among pairs, how many of the pairs were compared, and how many ignored.

    ignored: those of the same two images counted once.
    """

    near: list[NearDuplicate]
    compared: int
    ignored: int = 0


def find_near_duplicates(
    rows: Sequence[Sequence[Pair]],
    reductions: ReductionStore,
    console: Console = QUIET,
    ignored: IgnoredPairs = NONE_IGNORED,
) -> Comparison:
    """Compare the images of pairs; near-duplicates are returned in the order of the pairs.

    Pairs with an image that can't be read, or may not be opened, are not compared. ignored: queries
    and matches that are no near-duplicates, whatever is found.
    """
    allowed = [pair for row in rows for pair in row if pair.may_open_match]
    reductions.read(dict.fromkeys(path for pair in allowed for path in pair[:2]), console)
    near: list[NearDuplicate] = []
    compared = 0
    with console.progress("pairs compared", len(allowed)) as progress:
        for readable, verdicts in _verified(allowed, reductions):
            pairs = zip(readable, verdicts, strict=True)
            near += [NearDuplicate(pair, verdict) for pair, verdict in pairs if verdict]
            compared += len(readable)
            progress.update(len(readable))
    kept = [one for one in near if one.pair[:2] not in ignored]
    dropped = {frozenset(one.pair[:2]) for one in near} - {frozenset(one.pair[:2]) for one in kept}
    return Comparison(kept, compared, len(dropped))


def leaks(near: Iterable[NearDuplicate], in_collection: Mapping[str, bool]) -> list[NearDuplicate]:
    """Return the nearest same image of each query that the collection does not have itself.

    in_collection: of each query, whether it is an image of the collection.
    """
    same = (one for one in near if one.is_same and not in_collection[one.pair.query])
    ordered = sorted(same, key=lambda one: (one.pair.query, one.pair.rank))
    return list({one.pair.query: one for one in reversed(ordered)}.values())[::-1]


def verified(one: str, other: str, reductions: ReductionStore) -> Verdict | None:
    """Return the verdict on two images that were read."""
    return _verdict(one, other, reductions[one], reductions[other])


def _verdict(
    one: str, other: str, first: Reduction | None, second: Reduction | None
) -> Verdict | None:
    if not first or not second:
        return None
    if first.file_size == second.file_size and _equal_files(one, other):
        return Verdict(SAME)
    found = verify(first, second)
    times = first.taken_at, second.taken_at
    unit = 1 if all(time % 1000 for time in times) else 1000  # one may lack the fraction
    apart = abs(times[0] // unit - times[1] // unit) * unit if all(times) else 0
    if found and found.changes and 0 < apart <= BURST:
        return found._replace(changes=(*found.changes, f"taken {apart / 1000:.3g} s apart"))
    return found


def _equal_files(one: str, other: str) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:  # gone since it was read
        return False


def _verified(
    pairs: Iterable[Pair], reductions: ReductionStore
) -> Iterator[tuple[list[Pair], list[Verdict | None]]]:
    """Yield those pairs that can be compared, and their verdicts, some at a time, in order."""
    threads = core_count()
    waiting: collections.deque[tuple[list[Pair], Future[list[Verdict | None]]]]
    waiting = collections.deque()
    pairs = iter(pairs)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(itertools.islice(pairs, PAIRS_AT_ONCE)):
            known = {path: reductions.find(path) for pair in chunk for path in pair[:2]}
            readable = [pair for pair in chunk if known[pair.query] and known[pair.match]]
            tasks = [(p.query, p.match, known[p.query], known[p.match]) for p in readable]
            waiting.append((readable, pool.submit(lambda t: [_verdict(*x) for x in t], tasks)))
            if len(waiting) > 2 * threads:
                some, future = waiting.popleft()
                yield some, future.result()
        yield from ((some, future.result()) for some, future in waiting)
