"""Measure the speed of models beside the default one's.

Usage:
  python -m benchmarks.models timm/mobilenetv4_conv_small timm/vit_small_patch14_dinov2

Reads:  nothing: weights are untrained, which does not change the speed, and images random
Writes: a Markdown table to the terminal

Each repetition times the network alone, in the precision that the scripts choose, for the default
model and the others by turns.
"""

import argparse
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.measure import in_words, machine, say, seconds, table
from similar_images.console import script_parser, status_of, whole_number
from similar_images.network.embedding import (
    DEFAULT_MODEL,
    Embedder,
    EmbeddingOptions,
    make_embedder,
)
from similar_images.network.find_network import find_network, torch_network
from similar_images.network.model_description import RANDOM, ModelError

MANY = 10**6  # images: an embedder for a long run
RUN_SECONDS = 3  # of a model in a repetition, at least


class Timed:
    """A model on the processor, and how fast it was in each repetition."""

    def __init__(self, name: str) -> None:
        network = find_network(name, RANDOM)
        options = EmbeddingOptions(device="cpu")
        self.name, self.dimension = network.model.architecture, network.model.dimension
        self.embedder: Embedder = make_embedder(network, options, MANY)
        layers = torch_network(name, RANDOM).layers
        self.parameters = sum(parameter.numel() for parameter in layers.parameters())
        rng = np.random.default_rng(0)
        shape = (self.embedder.batch_size, *network.preprocessing.shape)
        self.pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        self.rates: list[float] = []
        self.embed_batches()  # warms up

    def embed_batches(self) -> None:
        """Embed a batch on each of the network's copies at a time."""
        with ThreadPoolExecutor(self.embedder.streams) as pool:
            list(pool.map(self.embedder.embed, [self.pixels] * self.embedder.streams))

    def measure(self) -> None:
        """Embed batches for RUN_SECONDS."""
        taken, count = 0.0, 0
        while taken <= RUN_SECONDS:
            taken += seconds(self.embed_batches)
            count += len(self.pixels) * self.embedder.streams
        self.rates.append(count / taken)

    def row(self, base: "Timed") -> list[str]:
        """Return the model's line of the table."""
        ratios = [mine / its for mine, its in zip(self.rates, base.rates, strict=True)]
        return [
            f"`{self.name}`",
            self.dimension,
            f"{self.parameters / 1e6:.1f}",
            str(self.embedder.preprocessing.crop),
            in_words(statistics.median(self.rates)),
            f"{statistics.median(ratios):.2g} ({min(ratios):.2g} to {max(ratios):.2g})",
        ]


def run(names: list[str], repetitions: int) -> None:
    """Measure the models by turns, and print the table."""
    models = []
    for name in dict.fromkeys([DEFAULT_MODEL, *names]):
        say(f"converting {name}")
        models.append(Timed(name))
    for number in range(repetitions):
        say(f"repetition {number + 1} of {repetitions}")
        for model in models:
            model.measure()
    header = ["model", "dimension", "million parameters", "input, pixels", "images/s"]
    header.append(f"of {DEFAULT_MODEL}'s")
    print(table(header, [model.row(models[0]) for model in models]))
    print(f"\nMedian (least to most) of {repetitions} repetitions; {models[0].embedder.words}.")
    print(f"{machine()}.")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME", help="as --model takes it")
    parser.add_argument(
        "--repetitions", type=whole_number(1, 100), default=5, metavar="N", help="default: 5"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    args = parse_args(argv)
    interrupted = "nothing was changed; run it again"
    return status_of(lambda: run(args.models, args.repetitions), (ModelError,), interrupted)


if __name__ == "__main__":
    sys.exit(main())
