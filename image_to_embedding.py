"""Compute an image's embedding with a pretrained network.

Usage:
  python image_to_embedding.py cat.png                        # 512 numbers as JSON
  python image_to_embedding.py cat.png dog.jpg                # one line each
  python image_to_embedding.py --model resnet50 cat.png       # 2,048 numbers
  python image_to_embedding.py --model timm/vit_small_patch14_dinov2.lvd142m cat.png
  python image_to_embedding.py --weights random cat.png       # untrained, no download

Reads:  images of any size and format that Pillow decodes
Writes: JSON to the terminal

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

from similar_images.console import leave, path_of, script_parser, status_of
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
    if the weights or the device are not available.
    """
    path = Path(image)
    try:
        pixels = decode(path.parent, path.name).rgb
    except ImageError as error:
        raise ImageError(f"cannot read {path}: {error}") from error
    embedder = _embedder(model, weights, device)
    embedding: np.ndarray = embedder.embed(embedder.preprocessing(pixels)[None])[0]
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
    """Print each image's embedding as one line of JSON."""
    embeddings = [
        image_to_embedding(image, args.model, args.weights, args.device) for image in args.images
    ]
    for embedding in embeddings:
        print(json.dumps([float(f"{x:.9g}") for x in embedding]))


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    expected = (ImageError, ModelError)
    return status_of(lambda: run(args), expected, interrupted="nothing was written")


if __name__ == "__main__":
    leave(main())
