"""Measure the README's figures of speed and agreement.

Usage:
  python -m benchmarks.run --weights random                # after "Try it", some minutes
  python -m benchmarks.run --images cifar-10/database_set --queries cifar-10/query_set
  python -m benchmarks.run --parts network pipeline --device cuda
  python -m benchmarks.run --images ~/Pictures --queries DIR --parts steady exactness load query

Reads:  two folders of images, such as split_images.py writes, and weights
Writes: a table of each part that was measured, to the terminal and to --output
"""

# Nothing of torch is imported here: decode workers import this module as they start.
import argparse
import collections
import sys
import tempfile
from pathlib import Path

from benchmarks import exactness, measure, speed
from benchmarks.measure import Figures
from benchmarks.setup import Setup
from similar_images.console import script_parser
from similar_images.network.embedding import DEVICES, add_weights_options


def load(setup: Setup) -> Figures:
    """Time embed_and_load.py from start to end, and again when nothing is new."""
    figures: dict[str, list[float]] = collections.defaultdict(list)
    name = f"embed_and_load.py, {len(setup.database):,} images"
    for _ in range(setup.args.runs):
        setup.loaded = tempfile.mkdtemp(dir=setup.folder) + "/x.db"
        run, again = (setup.run_load() for _ in range(2))
        figures[f"{name}: seconds"].append(run.seconds)
        figures[f"{name}: images/s, start to end"].append(len(setup.database) / run.seconds)
        figures[f"{name}: peak MiB without the decode workers"].append(run.peak)
        figures[f"{name}: peak MiB, all processes"].append(run.peak_of_all)
        figures["embed_and_load.py again, nothing new: seconds"].append(again.seconds)
    return {**figures}


def query(setup: Setup) -> Figures:
    """Time query_code.py with one image, and with all queries."""
    if not setup.loaded:
        load(setup)
    image = (setup.args.queries / setup.queries[0]).resolve()
    one = [setup.run_query(image).seconds for _ in range(setup.args.repetitions + 1)]
    folder = setup.args.queries.resolve()
    whole = [setup.run_query("--queries", folder) for _ in range(setup.args.runs)]
    name = f"query_code.py, {len(setup.queries):,} images"
    return {
        "query_code.py IMAGE: seconds": one[1:],  # the first run warms up
        f"{name}: seconds": [run.seconds for run in whole],
        f"{name}: peak MiB, all processes": [run.peak_of_all for run in whole],
    }


PARTS = {
    "network": speed.network,
    "pipeline": speed.pipeline,
    "steady": speed.steady,
    "agreement": exactness.agreement,
    "exactness": exactness.exactness,
    "load": load,
    "query": query,
}


def run(args: argparse.Namespace) -> None:
    """Measure the parts in order; write the figures after each."""
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(args, Path(folder))
        args.output.open("a").close()  # an OSError before the work
        text = (
            f"# Benchmarks\n\n{measure.conditions()}; {args.model}, weights: "
            f"{Path(args.weights).name}; {len(setup.database):,} images and {len(setup.queries):,} "
            "queries.\n\nA value with more than one run is the median of its runs, which alternate "
            "with those of what it is compared with; every other value comes from a single run.\n"
        )
        for name in args.parts:
            measure.say(name)
            figures = measure.table_of_figures(PARTS[name](setup))
            how = " ".join((PARTS[name].__doc__ or "").split())
            text += f"\n## {name.capitalize()}\n\n{how}\n\n{figures}\n"
            args.output.write_text(text)
    print(text)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    parser = script_parser(__doc__)
    measure.add_folders(parser)
    add_weights_options(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    words = f"some of {', '.join(PARTS)} (default: all)"
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help=words)
    measure.add_number(parser, "--repetitions", 5, "runs of what takes seconds")
    measure.add_number(parser, "--runs", 1, "runs of load, and of query with all queries")
    meaning = "images of a repetition; the pipeline takes 16 times as many"
    measure.add_number(parser, "--count", 512, meaning)
    words, file = "default: benchmarks.md", Path("benchmarks.md")
    parser.add_argument("--output", type=Path, default=file, metavar="FILE", help=words)
    return measure.measured(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
