"""Measure precision and recall of near-duplicates on pairs of CIFAR-10 that were judged by eye.

Usage:
  python -m benchmarks.judged_pairs
  python -m benchmarks.judged_pairs --cifar DIR

Reads:  CIFAR-10 as split_images.py does, and judged_pairs.tsv: positions in the published order
Writes: tables, to the terminal

The threshold is chosen on the pairs whose query has an even position: the lowest one with a
precision of at least 95%. The others show what it is worth.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import table
from similar_images.console import Console, script_parser, status_of
from similar_images.matching.alignment import SAME
from similar_images.matching.near_duplicates import same_images
from similar_images.results.observations import wilson_interval
from similar_images.splitting.cifar10 import find_source, read_source
from similar_images.splitting.split import ImageSet, ImageSetError

JUDGED = Path(__file__).with_suffix(".tsv")
THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
LEAST_PRECISION = 0.95


class Judged(NamedTuple):
    """N pairs of CIFAR-10's images and what was seen in them.

    positions: (N, 2) int64, of the query and of its match in the published order. same: (N,) bool,
    whether both are one photograph. likely: (N,) bool, whether their fine structure correlated by
    0.4 or more; the others were drawn at random from all other pairs.
    """

    positions: np.ndarray
    same: np.ndarray
    likely: np.ndarray

    def those(self, mask: np.ndarray) -> "Judged":
        """Return the pairs where a mask (N,) is true."""
        return Judged(*(part[mask] for part in self))


class Score(NamedTuple):
    """How many pairs were reported, how many of these are the same photograph, and of how many."""

    reported: int
    right: int
    same: int

    @property
    def precision(self) -> float:
        """The share of the reported pairs that is right; 1 if none is reported."""
        return self.right / self.reported if self.reported else 1.0


def read_judged(path: Path = JUDGED) -> Judged:
    """Return the judged pairs of a tab-separated file."""
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    positions = [[int(row[f"{side}_position"]) for side in ("query", "match")] for row in rows]
    same, likely = (
        np.array([row[column] == value for row in rows])
        for column, value in (("verdict", "same"), ("chosen", "likely"))
    )
    return Judged(np.array(positions), same, likely)


def reported(images: ImageSet, positions: np.ndarray, threshold: float) -> np.ndarray:
    """Return which pairs of positions (N, 2) are near-duplicates by this threshold: (N,) bool."""
    queries, matches = (images.pixels[side] for side in positions.T)
    return same_images(queries, matches, least=threshold)[1]


def scores(images: ImageSet, judged: Judged) -> dict[float, Score]:
    """Return the score of each threshold."""
    found = {x: reported(images, judged.positions, x) for x in THRESHOLDS}
    same = int(judged.same.sum())
    return {x: Score(int(f.sum()), int((f & judged.same).sum()), same) for x, f in found.items()}


def choose(by_threshold: dict[float, Score]) -> float:
    """Return the lowest threshold that is precise enough, or the highest if none is."""
    precise = [x for x, score in by_threshold.items() if score.precision >= LEAST_PRECISION]
    return min(precise, default=max(by_threshold))


def share(part: int, whole: int) -> str:
    """Return a share with its 95% interval, in words."""
    if not whole:
        return "none"
    low, high = wilson_interval(part, whole)
    return f"{part / whole:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def score_table(by_threshold: dict[float, Score], chosen: float) -> str:
    """Return the scores as a Markdown table, the chosen threshold bold."""
    rows = [
        [
            f"**{threshold:.2f}**" if threshold == chosen else f"{threshold:.2f}",
            *(f"{number}" for number in score[:2]),
            share(score.right, score.reported),
            share(score.right, score.same),
        ]
        for threshold, score in by_threshold.items()
    ]
    header = ["correlation of at least", "reported", "the same photograph", "precision", "recall"]
    return table(header, rows)


def measure(images: ImageSet, judged: Judged) -> str:
    """Return the tables of both halves, and what is found among the pairs drawn at random."""
    if len(images) <= judged.positions.max():
        raise ImageSetError(f"{len(images)} images are not CIFAR-10's; choose another --cifar")
    even = judged.positions[:, 0] % 2 == 0
    halves = [judged.those(judged.likely & half) for half in (even, ~even)]
    by_half = [scores(images, half) for half in halves]
    chosen = choose(by_half[0])
    names = ("even, which chose the threshold", "odd")
    lines = [
        f"Queries at positions that are {name}: {len(half.same)} pairs, {half.same.sum()} of them "
        f"the same photograph\n\n{score_table(found, chosen)}\n"
        for name, half, found in zip(names, halves, by_half, strict=True)
    ]
    rest = judged.those(~judged.likely)
    also = reported(images, rest.positions, chosen)
    return "\n".join(lines) + (
        f"\nOf {len(rest.same)} other pairs, drawn at random, {rest.same.sum()} are the same "
        f"photograph; {also.sum()} are reported.\n"
        f"near_duplicates.py reports from {SAME:.2f} on.\n"
    )


def run(cifar: Path | None) -> None:
    """Print the tables."""
    source = find_source(cifar, Console(results_only=True))
    print(measure(read_source(source), read_judged()))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--cifar", type=Path, metavar="DIR", help="with the batches or the archive of CIFAR-10"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    args = parse_args(argv)
    return status_of(lambda: run(args.cifar), (ImageSetError,), "nothing was changed; run it again")


if __name__ == "__main__":
    sys.exit(main())
