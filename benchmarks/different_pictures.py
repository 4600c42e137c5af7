"""Count which different images are falsely reported as near-duplicates.

Usage:
  python -m benchmarks.different_images
  python -m benchmarks.different_images ~/Pictures

Reads:  folders in which no image is a copy of another, if there are any
Writes: a table, to the terminal: parts of scikit-learn's two photographs, graphics that are drawn
        here (graphics.py), and the folders; the pairs of the folders that are reported

"As rotated" counts the reports that quarter turns add.
"""

import argparse
import itertools
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.graphics import GRAPHICS
from benchmarks.measure import image_paths, say, table
from similar_images.console import script_parser, status_of
from similar_images.images.image_files import ImageError
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.near_duplicates import Comparison, find_near_duplicates
from similar_images.matching.pairs import Pair
from similar_images.text import printable

MOST_PAIRS = 20_000  # of more, so many are drawn at random
TILE = 106  # pixels: the side of the parts of photographs


def tiles() -> list[Image.Image]:
    """Return the squares that scikit-learn's two photographs of 640×427 pixels consist of."""
    from sklearn.datasets import load_sample_images

    return [
        Image.fromarray(pixels[upper : upper + TILE, left : left + TILE])
        for pixels in load_sample_images().images
        for upper in range(0, len(pixels) - TILE + 1, TILE)
        for left in range(0, pixels.shape[1] - TILE + 1, TILE)
    ]


def pairs_among(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return all pairs of images, or MOST_PAIRS of them drawn at random, always the same."""
    if math.comb(len(paths), 2) <= MOST_PAIRS:
        return list(itertools.combinations(paths, 2))
    rng, drawn = random.Random(0), set[tuple[str, str]]()
    while len(drawn) < MOST_PAIRS:
        first, second = sorted(rng.sample(range(len(paths)), 2))
        drawn.add((paths[first], paths[second]))
    return sorted(drawn)


def compare(paths: Sequence[str]) -> Comparison:
    """Return the near-duplicates among the pairs of images."""
    with ReductionStore() as reductions:
        rows = [[Pair(*both, 0.0)] for both in pairs_among(paths)]
        return find_near_duplicates(rows, reductions)


def compare_drawn(reductions: Sequence[Image.Image]) -> Comparison:
    """Return the near-duplicates among images that are not files yet."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{number:04}.png" for number in range(len(reductions))]
        for path, image in zip(paths, reductions, strict=True):
            image.save(path, compress_level=1)
        return compare(paths)


def row(name: str, reductions: int, found: Comparison) -> list[str]:
    """Return the cells of a material."""
    numbers = reductions, found.compared, len(found.near)
    share = f"{len(found.near) / max(found.compared, 1):.2%}"
    turned = sum("rotated" in one.words for one in found.near)
    return [name, *(f"{number:,}" for number in numbers), share, f"{turned:,}"]


def run(folders: Sequence[Path]) -> None:
    """Print the table, then the reported pairs of each folder."""
    listed = {root: [str(root / path) for path in image_paths(root, "another")] for root in folders}
    drawings = {"parts of two photographs": tiles, **GRAPHICS}
    rows, lines = [], []
    for name, draw in drawings.items():
        say(name)
        reductions = draw()
        rows.append(row(name, len(reductions), compare_drawn(reductions)))
    for root, paths in listed.items():
        say(root)
        found = compare(paths)
        rows.append(row(printable(str(root)), len(paths), found))
        lines += [f"{one.pair.query}  {one.pair.match}  {one.words}" for one in found.near]
    header = ["different images", "images", "pairs compared", "reported", "share", "as rotated"]
    print(table(header, rows), *map(printable, lines), sep="\n")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="with images")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    args = parse_args(argv)
    return status_of(lambda: run(args.folders), (ImageError,), "nothing was changed; run it again")


if __name__ == "__main__":
    sys.exit(main())
