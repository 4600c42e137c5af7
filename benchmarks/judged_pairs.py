"""Measure precision and recall of the verdicts on pairs of CIFAR-10 that were judged by eye.

Usage:
  python -m benchmarks.judged_pairs --cifar DIR

Reads:  CIFAR-10 as split_images.py does, and judged_pairs.tsv: positions in the published order
Writes: a table, to the terminal

The limits were chosen on the pairs whose query has an even position; the others show what they are
worth. Random pairs were drawn from those whose fine structure correlates by less than 0.4.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import measure
from similar_images.console import Console, script_parser
from similar_images.images.decoding import Decoded, DecodedImage
from similar_images.images.reductions import reduced
from similar_images.splitting.cifar10 import find_source, read_source
from similar_images.splitting.split import ImageSet, ImageSetError
from similar_images.text import wilson_interval
from similar_images.verifying.verdict import SAME, verify

JUDGED = Path(__file__).with_suffix(".tsv")


class Judged(NamedTuple):
    """N pairs of CIFAR-10's images and what was seen in them.

    positions: (N, 2) int64, of the query and of its match in the published order. same: (N,) bool,
    whether both are one photograph. likely: (N,) bool, false for the random pairs.
    """

    positions: np.ndarray
    same: np.ndarray
    likely: np.ndarray


def read_judged(path: Path = JUDGED) -> Judged:
    """Return the judged pairs of a tab-separated file."""
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    positions = [[int(row[f"{side}_position"]) for side in ("query", "match")] for row in rows]
    same = [row["verdict"] == "same" for row in rows]
    likely = [row["chosen"] == "likely" for row in rows]
    return Judged(np.array(positions), np.array(same), np.array(likely))


def share(part: int, whole: int) -> str:
    """Return a share with its 95% interval, in words."""
    if not whole:
        return "none"
    low, high = wilson_interval(part, whole)
    return f"{part / whole:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def verdicts(images: ImageSet, positions: np.ndarray) -> list[str]:
    """Return the verdict on each of N pairs of images: "same", "part", or "" for neither."""
    found = []
    for pair in positions:
        sides = (Image.fromarray(images.pixels[position]) for position in pair)
        info = DecodedImage("", 0, 0, *images.pixels.shape[2:0:-1])
        verdict = verify(*(reduced(Decoded(info, side, side, False)) for side in sides))
        found.append(verdict.kind if verdict else "")
    return found


def scores(images: ImageSet, judged: Judged) -> str:
    """Return a table of what is reported; a line for the even, the odd and the random pairs."""
    if len(images) <= judged.positions.max():
        raise ImageSetError(f"{len(images)} images are not CIFAR-10's; choose another --cifar")
    kinds = np.array(verdicts(images, judged.positions))
    even = judged.positions[:, 0] % 2 == 0
    parts = {"even": judged.likely & even, "odd": judged.likely & ~even, "random": ~judged.likely}
    lines = []
    for name, part in parts.items():
        for words, reported in (("reported", kinds != ""), ("`same`", kinds == SAME)):
            masks = (part, judged.same & part, reported & part, judged.same & reported & part)
            total, same, found, right = (int(mask.sum()) for mask in masks)
            cells = [*map(str, (total, same, found, right)), share(right, found)]
            lines.append([f"{name}, {words}", *cells, share(right, same)])
    header = ["pairs, verdict", "judged", "one photograph", "found", "of these one photograph"]
    return measure.table([*header, "precision", "recall"], lines)


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    source = find_source(args.cifar, Console(results_only=True))
    print(scores(read_source(source), read_judged()))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    parser = script_parser(__doc__)
    words = "with the batches or the archive of CIFAR-10"
    parser.add_argument("--cifar", type=Path, metavar="DIR", help=words)
    return measure.measured(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
