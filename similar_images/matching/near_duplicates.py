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
Judged = list[tuple[tuple[str, str], Verdict | None]]  # pairs of images, and the verdicts on them


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
    """The near-duplicates among pairs, and how many of the pairs were compared."""

    near: list[NearDuplicate]
    compared: int


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
    once = {frozenset(pair[:2]): pair[:2] for pair in allowed}  # a folder with itself has both ways
    verdicts: dict[tuple[str, str], Verdict | None] = {}
    with console.progress("pairs compared", len(once)) as progress:
        for (one, other), found in _verified(once.values(), reductions):
            verdicts[one, other] = found
            verdicts[other, one] = found and found.turned_round()
            progress.update(1)
    compared = [(pair, verdicts[pair[:2]]) for pair in allowed if pair[:2] in verdicts]
    near = [NearDuplicate(pair, found) for pair, found in compared if found]
    return Comparison([one for one in near if not ignored.leave_out(*one.pair[:2])], len(compared))


def leaks(near: Iterable[NearDuplicate], in_collection: Mapping[str, bool]) -> list[NearDuplicate]:
    """Return the nearest same image of each query that the collection does not have itself.

    in_collection: of each query, whether it is an image of the collection.
    """
    same = (one for one in near if one.is_same and not in_collection[one.pair.query])
    ordered = sorted(same, key=lambda one: (one.pair.query, -one.pair.rank))
    return list({one.pair.query: one for one in ordered}.values())


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
    pairs: Iterable[tuple[str, str]], reductions: ReductionStore
) -> Iterator[tuple[tuple[str, str], Verdict | None]]:
    """Yield those pairs of images that can be compared, and the verdicts on them."""
    threads, pairs = core_count(), iter(pairs)
    waiting: collections.deque[Future[Judged]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(itertools.islice(pairs, PAIRS_AT_ONCE)):
            known = {path: reductions.find(path) for pair in chunk for path in pair}
            waiting.append(pool.submit(_verdicts, chunk, known))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        for future in waiting:
            yield from future.result()


def _verdicts(pairs: Iterable[tuple[str, str]], known: Mapping[str, Reduction | None]) -> Judged:
    readable = ((pair, known[pair[0]], known[pair[1]]) for pair in pairs)
    return [(pair, _verdict(*pair, *both)) for pair, *both in readable if all(both)]
