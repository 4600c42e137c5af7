"""Split the 50,000 training images of CIFAR-10 at random into two folders of PNG files.

Usage:
  python split_images.py                      # CIFAR-10 from the current folder, or downloaded
  python split_images.py --cifar ~/data       # CIFAR-10 from another folder
  python split_images.py --sample             # scikit-learn's 1,797 digits instead

Reads:  ./cifar-10-batches-py or ./cifar-10-python.tar.gz; if neither exists, downloads the latter
Writes: database_set/<label>/<position>.png and query_set/<label>/<position>.png, where
        position is the image's position in the published order
"""

if __name__ == "__main__":  # before the other imports, which take half a second
    from similar_images import interrupts

    interrupts.end_at_once()

import argparse
import time
from pathlib import Path

from similar_images.console import (
    Console,
    add_quiet_option,
    add_seed_option,
    leave,
    path_of,
    script_parser,
    status_of,
    whole_number,
)
from similar_images.splitting.cifar10 import load_cifar10
from similar_images.splitting.digits import load_digits
from similar_images.splitting.split import (
    ImageSetError,
    check_targets,
    split_positions,
    write_split,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("--cifar", type=path_of, metavar="DIR", help="folder that holds CIFAR-10")
    for name, what in (("database_set", "database images"), ("query_set", "queries")):
        option = f"--{name.replace('_', '-')}"
        text = f"folder for the {what} (default: {name})"
        parser.add_argument(option, type=path_of, default=Path(name), metavar="DIR", help=text)
    parser.add_argument(
        "--query-fraction",
        type=float,
        default=0.1,
        metavar="FRACTION",
        help="fraction of the images that become queries (default: 0.1)",
    )
    add_seed_option(parser, "random seed of the split")
    parser.add_argument(
        "--limit", type=whole_number(2, 10**9), metavar="N", help="use only the first N images"
    )
    parser.add_argument(
        "--sample", action="store_true", help="scikit-learn's 1,797 digits, no download"
    )
    add_quiet_option(parser)
    args = parser.parse_args(argv)
    if not 0 < args.query_fraction < 1:
        parser.error("--query-fraction must be between 0 and 1")
    if args.sample and args.cifar:
        parser.error("--sample and --cifar can't be used together")
    database, queries = args.database_set.resolve(), args.query_set.resolve()
    if database == queries or database in queries.parents or queries in database.parents:
        parser.error("--database-set and --query-set must not be the same or contain each other")
    return args


def run(args: argparse.Namespace, console: Console) -> None:
    """Load the images, split them, write both folders, and report their sizes."""
    start = time.perf_counter()
    check_targets([args.database_set, args.query_set])
    images = load_digits(console) if args.sample else load_cifar10(args.cifar, console)
    count = min(len(images), args.limit or len(images))
    database, queries = split_positions(count, args.query_fraction, args.seed)
    sets = {args.database_set: database, args.query_set: queries}
    write_split(images, sets, console)
    seconds = time.perf_counter() - start
    console.say(f"{args.database_set}: {len(database):,} images")
    console.say(f"{args.query_set}: {len(queries):,} images")
    console.say(f"Done in {seconds:.1f} s. Next: python embed_and_load.py")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    interrupted = "nothing was written, or both folders are complete; run it again"
    return status_of(lambda: run(args, Console(args.quiet)), (ImageSetError,), interrupted)


if __name__ == "__main__":
    leave(main())
