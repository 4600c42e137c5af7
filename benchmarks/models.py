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

from benchmarks import measure
from benchmarks.measure import MANY, in_words, say, seconds
from similar_images.console import script_parser
from similar_images.network.embedding import (
    DEFAULT_MODEL,
    Embedder,
    EmbeddingOptions,
    make_embedder,
)
from similar_images.network.find_network import find_network, torch_network
from similar_images.network.model_description import RANDOM

RUN_SECONDS = 3  # of a model in a repetition, at least


class Timed:
    """A model on the processor, and how fast it was in each repetition."""

    def __init__(self, name: str) -> None:
        network = find_network(name, RANDOM)
        self.name, self.dimension = network.model.architecture, network.model.dimension
        self.embedder: Embedder = make_embedder(network, EmbeddingOptions(device="cpu"), MANY)
        layers = torch_network(name, RANDOM).layers
        self.parameters = sum(parameter.numel() for parameter in layers.parameters())
        shape = (self.embedder.batch_size, *network.preprocessing.shape)
        self.pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
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


def run(args: argparse.Namespace) -> None:
    """Measure the models by turns, and print the table."""
    models = []
    for name in dict.fromkeys([DEFAULT_MODEL, *args.models]):
        say(f"converting {name}")
        models.append(Timed(name))
    for number in range(args.repetitions):
        say(f"repetition {number + 1} of {args.repetitions}")
        for model in models:
            model.measure()
    header = ["model", "dimension", "million parameters", "input, pixels", "images/s"]
    header.append(f"of {DEFAULT_MODEL}'s")
    print(measure.table(header, [model.row(models[0]) for model in models]))
    print(
        f"\nMedian (least to most) of {args.repetitions} repetitions; {models[0].embedder.words}."
    )
    print(f"{measure.conditions()}.")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME", help="as --model takes it")
    measure.add_number(parser, "--repetitions", 5, "runs of each model")
    return measure.measured(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
