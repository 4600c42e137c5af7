"""Split CIFAR-10's 50,000 training images at random into two folders of PNGs.

Usage:
  python split_images.py                      # CIFAR-10 from here, else downloaded
  python split_images.py --cifar ~/data       # CIFAR-10 from there
  python split_images.py --sample             # scikit-learn's 1,797 digits instead

Reads:  ./cifar-10-batches-py, else ./cifar-10-python.tar.gz, else the published archive
Writes: database_set/<label>/<position>.png and query_set/<label>/<position>.png, where
        position is the image's place in the published order
"""

import argparse
import sys
import time
from pathlib import Path

from similar_images.console import (
    Console,
    add_quiet_option,
    number_between,
    script_parser,
    status_of,
    whole_number,
)
from similar_images.splitting import cifar10
from similar_images.splitting.digits import ImageSet, ImageSetError, sample_digits
from similar_images.splitting.split import SplitError, check_targets, split_positions, write_split

SEEDS = whole_number(0, 2**32 - 1)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("--cifar", type=Path, metavar="DIR", help="folder that holds CIFAR-10")
    parser.add_argument("--database-set", type=Path, default=Path("database_set"), metavar="DIR")
    parser.add_argument("--query-set", type=Path, default=Path("query_set"), metavar="DIR")
    parser.add_argument(
        "--query-fraction",
        type=number_between(0, 1),
        default=0.1,
        metavar="SHARE",
        help="part of the images (default: 0.1)",
    )
    parser.add_argument(
        "--seed", type=SEEDS, default=42, metavar="N", help="of the split (default: 42)"
    )
    parser.add_argument(
        "--limit", type=whole_number(2, 10**9), metavar="N", help="take only the first N images"
    )
    parser.add_argument(
        "--sample", action="store_true", help="scikit-learn's 1,797 digit images, no download"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier split")
    add_quiet_option(parser)
    args = parser.parse_args(argv)
    if args.sample and args.cifar:
        parser.error("--sample and --cifar exclude each other")
    database, queries = args.database_set.resolve(), args.query_set.resolve()
    if database == queries or database in queries.parents or queries in database.parents:
        parser.error("--database-set and --query-set must not lie in each other")
    return args


def load_images(args: argparse.Namespace, console: Console) -> ImageSet:
    """Return the images to split: the digits, or CIFAR-10 from where it is."""
    if args.sample:
        console.say("Splitting scikit-learn's digits")
        return sample_digits()
    source = cifar10.find_cifar(args.cifar, console)
    console.say(f"Splitting CIFAR-10 from {source}")
    images = cifar10.load_cifar(source)
    if len(images) != cifar10.PUBLISHED_IMAGES:
        published = f"CIFAR-10 as published has {cifar10.PUBLISHED_IMAGES:,}"
        console.trouble(f"note: {len(images):,} images; {published}")
    return images


def run(args: argparse.Namespace, console: Console) -> None:
    """Load the images, split them, write both folders, and say what was made."""
    start = time.perf_counter()
    check_targets([args.database_set, args.query_set], args.overwrite)
    images = load_images(args, console)
    count = min(len(images), args.limit or len(images))
    database, queries = split_positions(count, args.query_fraction, args.seed)
    write_split(images, {args.database_set: database, args.query_set: queries}, console)
    seconds = time.perf_counter() - start
    console.say(f"{args.database_set}: {len(database):,} images")
    console.say(f"{args.query_set}: {len(queries):,} images")
    console.say(f"Done in {seconds:.1f} s. Next: python embed_and_load.py")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    interrupted = "both folders are as they were, or whole; run it again"
    expected = (SplitError, ImageSetError)
    return status_of(lambda: run(args, Console(args.quiet)), expected, interrupted)


if __name__ == "__main__":
    sys.exit(main())
