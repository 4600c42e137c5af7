"""Measure which changed images are found to be near-duplicates, also by a perceptual hash.

Usage:
  python -m benchmarks.near_duplicates database_set ~/Pictures
  python -m benchmarks.near_duplicates --jpeg ~/Pictures

Reads:  up to 400 images of each folder, drawn at random
Writes: a table for each folder, to the terminal

ImageHash's phash is compared if it is installed (pip install imagehash).
"""

import argparse
import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.measure import image_paths, table
from similar_images.console import script_parser, status_of
from similar_images.images.decoding import decode
from similar_images.images.image_files import ImageError
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.near_duplicates import find_near_duplicates
from similar_images.matching.pairs import Pair
from similar_images.text import printable

COUNT = 400  # images of a folder
HASH_BITS = 8  # of 64 that may differ
LEAST_SIDE = 2 * 256  # pixels: of a large JPEG, query_code.py decodes at least so many for ResNet18


def shifted(image: Image.Image) -> Image.Image:
    """Return an image moved by a tenth, black where nothing was."""
    moved = Image.new("RGB", image.size)
    moved.paste(image, (image.width // 10, image.height // 10))
    return moved


def compressed(image: Image.Image) -> Image.Image:
    """Return an image as JPEG of quality 50 leaves it."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=50)
    return Image.open(out).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "shifted by a tenth": shifted,
    "brighter by 0.4": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "darker by 0.4": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "grey": lambda image: ImageEnhance.Color(image).enhance(0),
    "JPEG 50": compressed,
    "half the size": lambda image: ImageOps.scale(image, 0.5),
    "rotated by 90°": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "rotated by 180°": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "rotated by 270°, mirrored": lambda image: ImageOps.mirror(
        image.transpose(Image.Transpose.ROTATE_90)
    ),
    "mirrored, brighter, JPEG 50": lambda i: compressed(
        ImageEnhance.Brightness(ImageOps.mirror(i)).enhance(1.3)
    ),
}


def found_by_hash(one: Image.Image, other: Image.Image) -> bool:
    """Return whether ImageHash's phash finds two images equal, as they are or mirrored."""
    import imagehash

    first = imagehash.phash(one)
    sides = (other, ImageOps.mirror(other))
    return min(first - imagehash.phash(side) for side in sides) <= HASH_BITS


def shares_found(
    images: list[Image.Image], others: list[Image.Image], folder: Path, jpeg: bool
) -> list[str]:
    """Return the shares of the pairs found to be near-duplicates: by this project, by the hash."""
    pairs = []
    for number, both in enumerate(zip(images, others, strict=True)):
        names = [str(folder / f"{number}-{side}.{'jpg' if jpeg else 'png'}") for side in "ab"]
        for name, image in zip(names, both, strict=True):
            image.save(name, quality=95, compress_level=1)
        pairs.append(Pair(names[0], names[1], 0.0))
    with ReductionStore(LEAST_SIDE if jpeg else None) as store:
        ours = len(find_near_duplicates([pairs], store).near) / len(pairs)
    if importlib.util.find_spec("imagehash") is None:
        return [f"{ours:.1%}", ""]
    return [f"{ours:.1%}", f"{np.mean(list(map(found_by_hash, images, others))):.1%}"]


def read_images(root: Path) -> list[Image.Image]:
    """Return up to COUNT images of a folder, drawn at random; ImageError if there are not two.

    Files that can't be read are left out, with a line on stderr.
    """
    paths = image_paths(root, "another folder")
    images = []
    for i in np.random.default_rng(0).permutation(len(paths))[:COUNT]:
        try:
            images.append(decode(root, paths[i])[1])
        except ImageError as error:
            print(f"skipped {printable(paths[i])}: {printable(str(error))}", file=sys.stderr)
    if len(images) < 2:
        raise ImageError(f"{root} holds fewer than two readable images; choose another folder")
    return images


def measure(root: Path, jpeg: bool) -> str:
    """Return the table of a folder."""
    images, rows = read_images(root), []
    with tempfile.TemporaryDirectory() as folder:
        for name, change in CHANGES.items():
            changed = list(map(change, images))
            rows.append([name, *shares_found(images, changed, Path(folder), jpeg)])
        others = images[1:] + images[:1]
        shares = shares_found(images, others, Path(folder), jpeg)
        rows.append(["a different image, falsely detected", *shares])
    header = ["change", "found", "ImageHash phash"]
    return f"{len(images)} images of {printable(str(root))}\n\n{table(header, rows)}\n"


def run(folders: list[Path], jpeg: bool) -> None:
    """Print a table for each folder."""
    for root in folders:
        print(measure(root, jpeg))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="with images")
    parser.add_argument(
        "--jpeg",
        action="store_true",
        help="save both images as JPEG of quality 95 (default: PNG), and decode large ones at a "
        "reduced scale, as query_code.py does",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    args = parse_args(argv)
    advice = "nothing was changed; run it again"
    return status_of(lambda: run(args.folders, args.jpeg), (ImageError,), advice)


if __name__ == "__main__":
    sys.exit(main())
