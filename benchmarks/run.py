"""Measure the README's speed and agreement figures.

Usage:
  python -m benchmarks.run --weights random                # after "Try it", some minutes
  python -m benchmarks.run --images cifar-10/database_set --queries cifar-10/query_set
  python -m benchmarks.run --parts network pipeline --device cuda

Reads:  database_set and query_set as split_images.py wrote them, and weights
Writes: results.json and results.md in --output, with the parts that were measured
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    add_output_option,
    add_parts_option,
    conditions,
    say,
    table_of_figures,
    write_results,
)
from similar_images.console import script_parser, status_of, whole_number
from similar_images.images.image_files import ImageError
from similar_images.network.embedding import DEVICES, add_weights_options
from similar_images.network.model_description import ModelError

PARTS = {  # methods of Benchmark, in the order in which they are measured
    "network": "network_alone",
    "pipeline": "pipeline",
    "agreement": "agreement",
    "load": "load",
    "query": "query",
}


def markdown(results: dict[str, Any]) -> str:
    """Return the figures of all parts measured so far, a table for each part."""
    parts = [
        f"# Benchmarks\n\n{results['date']}, {results['machine']}; {results['model']}, "
        f"weights: {results['weights']}.",
        "A value with more than one run is the median of its runs; every other value comes from a "
        "single run. Under Network and Pipeline the runs of what is compared alternate.",
    ]
    for part in filter(results.get, PARTS):
        parts.append(f"## {part.capitalize()}\n\n{table_of_figures(results[part])}")
    return "\n\n".join(parts) + "\n"


def run(args: argparse.Namespace) -> None:
    """Measure the parts in order; write the figures after each."""
    # Imported here, because decode workers import this module as they start, and torch is slow.
    from benchmarks.parts import Benchmark

    results = conditions(model=args.model, weights=Path(args.weights).name)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(args, Path(folder))
        for part in args.parts:
            say(part)
            results[part] = getattr(benchmark, PARTS[part])()
            write_results(args.output, "results", results, markdown(results))
    print(markdown(results))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    for name, default in (("images", "database_set"), ("queries", "query_set")):
        parser.add_argument(
            f"--{name}", type=Path, default=Path(default), metavar="DIR", help=f"default: {default}"
        )
    add_output_option(parser)
    add_weights_options(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    number = whole_number(1, 10**9)
    parser.add_argument(
        "--repetitions",
        type=number,
        default=5,
        metavar="N",
        help="runs of each figure of network and pipeline, and of one image's query (default: 5)",
    )
    parser.add_argument(
        "--count",
        type=number,
        default=512,
        metavar="N",
        help="images of a repetition; the pipeline takes 16 times as many (default: 512)",
    )
    parser.add_argument(
        "--agreement",
        type=number,
        metavar="N",
        help="database images of the comparison with float32 (default: all)",
    )
    add_parts_option(parser, PARTS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    args = parse_args(argv)
    interrupted = f"the figures of the parts that had ended are in {args.output}"
    return status_of(lambda: run(args), (ImageError, ModelError), interrupted)


if __name__ == "__main__":
    sys.exit(main())
