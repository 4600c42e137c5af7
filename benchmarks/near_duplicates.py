"""Measure which changes of a picture are found to be the same picture, beside a perceptual hash.

Usage:
  python -m benchmarks.near_duplicates FOLDER [FOLDER ...]     # pictures; 400 of each at most

ImageHash is compared where it is installed (pip install imagehash).
"""

import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.measure import table
from similar_images.matching.near_duplicates import find_near_duplicates
from similar_images.matching.pairs import Pair
from similar_images.pictures.decoding import decode
from similar_images.pictures.image_files import Listing, iter_images

COUNT = 400
HASH_BITS = 8  # of 64 that may differ


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
    "mirrored, brighter, JPEG 50": lambda i: compressed(
        ImageEnhance.Brightness(ImageOps.mirror(i)).enhance(1.3)
    ),
}


def found_by_hash(one: Image.Image, other: Image.Image) -> bool:
    """Return whether ImageHash's phash takes them, as they are or mirrored, for the same."""
    import imagehash

    first = imagehash.phash(one)
    sides = (other, ImageOps.mirror(other))
    return min(first - imagehash.phash(side) for side in sides) <= HASH_BITS


def shares_found(
    pictures: list[Image.Image], others: list[Image.Image], folder: Path
) -> tuple[float, float | None]:
    """Return which shares of the pairs are found to be the same: by us, and by the hash."""
    pairs = []
    for number, both in enumerate(zip(pictures, others, strict=True)):
        names = [str(folder / f"{number}-{side}.png") for side in "ab"]
        for name, image in zip(names, both, strict=True):
            image.save(name)
        pairs.append(Pair(names[0], names[1], 0.0))
    ours = len(find_near_duplicates(pairs)) / len(pairs)
    if importlib.util.find_spec("imagehash") is None:
        return ours, None
    return ours, float(np.mean(list(map(found_by_hash, pictures, others))))


def main(argv: list[str] | None = None) -> int:
    """Print a table for each folder."""
    for root in map(Path, (argv or sys.argv)[1:]):
        paths = sorted(image.path for image in iter_images(root, Listing()))
        chosen = np.random.default_rng(0).permutation(len(paths))[:COUNT]
        pictures = [decode(root, paths[i])[1] for i in chosen]
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            others = {name: list(map(change, pictures)) for name, change in CHANGES.items()}
            others["another picture (wrongly found)"] = pictures[1:] + pictures[:1]
            for name, changed in others.items():
                shares = shares_found(pictures, changed, Path(folder))
                rows.append([name, *("" if x is None else f"{x:.1%}" for x in shares)])
        print(f"{len(pictures)} pictures of {root}\n")
        print(table(["change", "found", "ImageHash phash"], rows), "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
