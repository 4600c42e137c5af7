"""Compute an image's embedding with a pretrained network.

Usage:
  python image_to_embedding.py cat.png                        # 512 numbers as JSON
  python image_to_embedding.py cat.png dog.jpg                # one line each
  python image_to_embedding.py --model resnet50 cat.png       # 2,048 numbers
  python image_to_embedding.py --model timm/vit_small_patch14_dinov2.lvd142m cat.png
  python image_to_embedding.py --weights random cat.png       # untrained, no download

Reads:  images of any size and format that Pillow decodes
Writes: JSON to the terminal; of several images, null for one that can't be read, and the exit
        status is 1

In Python: image_to_embedding("cat.png") returns the vector.
"""

if __name__ == "__main__":  # before the other imports, which take half a second
    from similar_images import interrupts

    interrupts.end_at_once()

import argparse
import functools
import json
import os
from pathlib import Path

import numpy as np

from similar_images.console import leave, path_of, script_parser, status_of, warn
from similar_images.images.decode_workers import are_unit
from similar_images.images.decoding import decode
from similar_images.images.image_files import ImageError
from similar_images.network.embedding import (
    DEFAULT_MODEL,
    DEVICES,
    Embedder,
    EmbeddingOptions,
    add_weights_options,
    make_embedder,
    warn_if_random,
)
from similar_images.network.find_network import find_network
from similar_images.network.model_description import PUBLISHED, ModelError


def image_to_embedding(
    image: str | os.PathLike[str],
    model: str = DEFAULT_MODEL,
    weights: str = PUBLISHED,
    device: str = "cpu",
) -> np.ndarray:
    """Return an image file's embedding, float32 of unit length: (512,) for resnet18.

    The network stays loaded between calls. Raises ImageError if the image can't be read, ModelError
    if the weights or the device are not available, or if the embedding is not finite.
    """
    path = Path(image)
    try:
        decoded = decode(path.parent, path.name)
    except ImageError as error:
        raise ImageError(f"cannot read {path}: {error}") from error
    if decoded.note:
        warn(f"{path}: {decoded.note}")
    embedder = _embedder(model, weights, device)
    embeddings = embedder.embed(embedder.preprocessing(decoded.rgb)[None])
    if not are_unit(embeddings).all():
        raise ModelError(f"the embedding of {path} is not finite; check --weights")
    embedding: np.ndarray = embeddings[0]
    return embedding


@functools.lru_cache(maxsize=2)
def _embedder(model: str, weights: str, device: str) -> Embedder:
    network = find_network(model, weights)
    warn_if_random(network.model)
    return make_embedder(network, EmbeddingOptions(device=device, precision="float32"), images=1)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("images", nargs="+", type=path_of, metavar="IMAGE")
    add_weights_options(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Print each image's embedding as one line of JSON, as soon as it is known."""
    unread, count = 0, len(args.images)
    for image in args.images:
        try:
            embedding = image_to_embedding(image, args.model, args.weights, args.device)
            print(json.dumps([float(f"{x:.9g}") for x in embedding]), flush=True)
        except ImageError as error:
            if count == 1:
                raise
            warn(str(error))
            print("null", flush=True)
            unread += 1
    if unread:
        raise ImageError(f"cannot read {unread} of {count} images; null stands in their lines")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    expected = (ImageError, ModelError)
    return status_of(lambda: run(args), expected, interrupted="nothing was written")


if __name__ == "__main__":
    leave(main())
