"""Measure how photographs are loaded and queried: speed, exactness and memory.

Usage:
  python -m benchmarks.photographs --photographs ~/Pictures
  python -m benchmarks.photographs --photographs DIR --queries DIR  # against themselves
  python -m benchmarks.photographs --photographs DIR --parts rates exactness

Reads:  up to --count images of the folder, drawn at random, and weights
Writes: photographs.json and photographs.md in --output, with the parts that were measured
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
from similar_images.network.embedding import add_weights_options
from similar_images.network.model_description import ModelError

PARTS = {  # methods of Photographs, in the order in which they are measured: title, what it is
    "rates": (
        "Load, start-up excluded",
        "What many images take longer than few of them, by turns for each way. What the "
        "cores can do: their number, over the CPU time that decoding and preprocessing an image "
        "(reduced to twice the network's size) and embedding it take alone.",
    ),
    "exactness": (
        "Exactness",
        "Cosine to torchvision's embeddings: whole decode, float32, eager, one image at a time.",
    ),
    "runs": (
        "Whole runs",
        "The scripts from start to end, into a new Milvus Lite file. Memory is the sum of the "
        "peaks of all processes; what they share is counted in each.",
    ),
    "large": (
        "Images of 100 megapixels",
        "JPEG files made of the folder's first images, matched with each other.",
    ),
}


def markdown(results: dict[str, Any]) -> str:
    """Return the figures of all parts measured so far, a table for each part."""
    parts = [
        f"# Photographs\n\n{results['date']}, {results['machine']}; {results['model']}, "
        f"weights: {results['weights']}. {results['images']}.",
        "A value with more than one run is the median of its runs, which alternate with those that "
        "it is compared with; every other value comes from a single run.",
    ]
    for part in filter(results.get, PARTS):
        title, how = PARTS[part]
        parts.append(f"## {title}\n\n{how}\n\n{table_of_figures(results[part])}")
    return "\n\n".join(parts) + "\n"


def run(args: argparse.Namespace) -> None:
    """Measure the parts in order; write the figures after each."""
    # Imported here, because decode workers import this module as they start, and torch is slow.
    from benchmarks.photograph_parts import Photographs

    with tempfile.TemporaryDirectory() as folder:
        photographs = Photographs(args, Path(folder))
        weights = Path(args.weights).name
        results = conditions(model=args.model, weights=weights, reductions=photographs.words)
        for part in args.parts:
            say(part)
            results[part] = getattr(photographs, part)()
            write_results(args.output, "photographs", results, markdown(results))
    print(markdown(results))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--photographs", type=Path, required=True, metavar="DIR", help="folder of photographs"
    )
    parser.add_argument(
        "--queries",
        type=Path,
        metavar="DIR",
        help="folder that the whole runs match with all of --photographs; may be the same "
        "(default: half of the photographs with the other half)",
    )
    add_weights_options(parser)
    number = whole_number(1, 10**9)
    parser.add_argument(
        "--count",
        type=number,
        default=200,
        metavar="N",
        help="photographs that are measured (default: 200)",
    )
    parser.add_argument(
        "--repetitions",
        type=number,
        default=3,
        metavar="N",
        help="runs of each figure of rates and runs (default: 3)",
    )
    add_output_option(parser)
    add_parts_option(parser, PARTS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    args = parse_args(argv)
    interrupted = f"the figures of the parts that had ended are in {args.output}"
    return status_of(lambda: run(args), (ImageError, ModelError), interrupted)


if __name__ == "__main__":
    sys.exit(main())
