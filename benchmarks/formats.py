"""Measure what it costs to decode and preprocess photographs, by file format.

Usage:
  python -m benchmarks.formats --photographs ~/Pictures

Reads:  up to --count images of the folder, drawn at random
Writes: formats.json and formats.md in --output

Each image is written in every format that Pillow can write here. HEIC is measured if pillow-heif
is installed, libvips if pyvips is (pip install "pyvips[binary]").
"""

import argparse
import collections
import importlib
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.measure import add_output_option, conditions, image_paths, say, table, write_results
from similar_images.console import script_parser, status_of, whole_number
from similar_images.images.decoding import Preprocessing, decode
from similar_images.images.image_files import ImageError, readable_formats

PREPROCESSING = Preprocessing(256, 224)  # ResNet18's
LEAST_SIDE = 2 * PREPROCESSING.resize
REPETITIONS = 3
WHOLE = "whole"  # the way that the others are compared with
FORMATS: dict[str, dict[str, Any]] = {  # suffix → Pillow's options
    "jpg": {"quality": 88},
    "png": {},
    "webp": {"quality": 85, "method": 2},
    "tif": {"compression": "tiff_lzw"},
    "heic": {"quality": 80},
}
Way = Callable[[Path], np.ndarray]  # a file → (crop, crop, 3) uint8


class Cost(NamedTuple):
    """What a way to decode costs: CPU seconds, and how far its pixels are from the whole decode's.

    difference: mean absolute difference of the preprocessed pixels, of 255.
    """

    seconds: float
    difference: float


def decode_whole(file: Path) -> np.ndarray:
    """Decode all pixels, then preprocess."""
    return PREPROCESSING(decode(file.parent, file.name)[1])


def decode_scaled(file: Path) -> np.ndarray:
    """Decode a JPEG at a reduced DCT scale, as the scripts do."""
    return PREPROCESSING(decode(file.parent, file.name, LEAST_SIDE)[1])


def reduce_first(file: Path) -> np.ndarray:
    """Decode all pixels, average blocks of them as Pillow's reducing_gap does, then preprocess."""
    rgb = decode(file.parent, file.name)[1]
    factor = min(rgb.size) // LEAST_SIDE
    return PREPROCESSING(rgb.reduce(factor) if factor > 1 else rgb)


def decode_with_vips(file: Path) -> np.ndarray:
    """Let libvips decode to LEAST_SIDE, with fewer pixels where the format has that."""
    pyvips = importlib.import_module("pyvips")
    pyvips.cache_set_max(0)  # or it would return the last image again
    with Image.open(file) as image:
        side = -(-LEAST_SIDE * max(image.size) // min(image.size))
    small = pyvips.Image.thumbnail(str(file), side, height=side, size="down")
    return PREPROCESSING(Image.fromarray(small.numpy()[:, :, :3]))


def ways_of(suffix: str) -> dict[str, Way]:
    """Return the ways to decode a format that can be measured here, by name."""
    ways: dict[str, Way] = {WHOLE: decode_whole, "whole, reducing_gap": reduce_first}
    if suffix == "jpg":
        ways["scaled"] = decode_scaled
    if suffix != "heic" and importlib.util.find_spec("pyvips"):
        ways["libvips"] = decode_with_vips
    return ways


def writable_formats() -> list[str]:
    """Return the suffixes of the formats that can be measured here."""
    readable_formats()  # registers pillow-heif's
    known = Image.registered_extensions()
    return [suffix for suffix in FORMATS if known.get(f".{suffix}") in Image.SAVE]


def measure(root: Path, paths: list[str], folder: Path) -> list[dict[str, Any]]:
    """Return what each way costs in each format: rows of the table."""
    costs: dict[tuple[str, str], list[Cost]] = collections.defaultdict(list)
    sizes: dict[str, list[float]] = collections.defaultdict(list)  # MB
    pixels = []  # millions
    for path in paths:
        say(path)
        rgb = decode(root, path)[1]
        pixels.append(rgb.width * rgb.height / 1e6)
        for suffix in writable_formats():
            file = folder / f"image.{suffix}"
            rgb.save(file, **FORMATS[suffix])
            sizes[suffix].append(file.stat().st_size / 1e6)
            for way, cost in costs_of(file, ways_of(suffix)).items():
                costs[suffix, way].append(cost)
    rows = []
    for (suffix, way), measured in costs.items():
        taken = statistics.mean(cost.seconds for cost in measured)
        whole = statistics.mean(cost.seconds for cost in costs[suffix, WHOLE])
        rows.append(
            {
                "format": suffix,
                "way": way,
                "MB an image": statistics.mean(sizes[suffix]),
                "CPU ms an image": 1000 * taken,
                "CPU ms a megapixel": 1000 * taken / statistics.mean(pixels),
                "of whole": taken / whole,
                "mean difference of pixels": statistics.mean(c.difference for c in measured),
            }
        )
    return rows


def costs_of(file: Path, ways: dict[str, Way]) -> dict[str, Cost]:
    """Return what each way to decode a file costs: the least of REPETITIONS runs, by turns."""
    taken: dict[str, list[float]] = collections.defaultdict(list)
    found: dict[str, np.ndarray] = {}
    for _ in range(REPETITIONS):
        for name, way in ways.items():
            start = time.process_time()
            found[name] = way(file)
            taken[name].append(time.process_time() - start)
    whole = found[WHOLE].astype(float)
    return {
        name: Cost(min(taken[name]), float(np.abs(pixels - whole).mean()))
        for name, pixels in found.items()
    }


def markdown(results: dict[str, Any]) -> str:
    """Return the figures as a table, a way to decode in each row."""
    rows = results["rows"]
    cells = [
        [row["format"], row["way"], *(f"{x:.2f}" for x in [*row.values()][2:])] for row in rows
    ]
    return (
        f"# File formats\n\n{results['date']}, {results['machine']}.\n\n"
        f"{results['images']} photographs, written in each format, decoded and preprocessed "
        f"(resize {PREPROCESSING.resize}, crop {PREPROCESSING.crop}) on one core. Each figure is "
        f"the mean over the photographs of the least of {REPETITIONS} runs, which alternate. The "
        "difference is that of the preprocessed pixels to the whole decode's, of 255.\n\n"
        f"{table(list(rows[0]), cells)}\n"
    )


def run(args: argparse.Namespace) -> None:
    """Measure all formats; write and print the table."""
    paths = image_paths(args.photographs, "--photographs")
    np.random.default_rng(0).shuffle(paths)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args.photographs, paths[: args.count], Path(folder))
    results = conditions(reductions=len(paths[: args.count]), rows=rows)
    write_results(args.output, "formats", results, markdown(results))
    print(markdown(results))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--photographs", type=Path, required=True, metavar="DIR", help="folder of photographs"
    )
    parser.add_argument(
        "--count",
        type=whole_number(1, 10**6),
        default=12,
        metavar="N",
        help="photographs that are measured (default: 12)",
    )
    add_output_option(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    args = parse_args(argv)
    return status_of(lambda: run(args), (ImageError,), "nothing was changed; run it again")


if __name__ == "__main__":
    sys.exit(main())
