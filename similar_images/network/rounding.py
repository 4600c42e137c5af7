"""How far the precision and the decoding that run move embeddings, measured on a user's images."""

import typing
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from similar_images.console import warn
from similar_images.images.decode_workers import core_count
from similar_images.network import network_cache
from similar_images.network.embedding import (
    Embedder,
    EmbeddingOptions,
    embed_images,
    make_embedder,
)
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork, Rounding
from similar_images.network.openvino_embedder import OpenVinoEmbedder
from similar_images.text import counted

if typing.TYPE_CHECKING:
    from similar_images.network.torch_network import Network

SAMPLE = 64  # images, at most, that a precision is measured on
LEAST_COSINE = 0.99  # on average: below it, a precision is not used


def measured_embedder(
    network: "ConvertedNetwork | Network",
    options: EmbeddingOptions,
    root: Path,
    paths: Sequence[str],
    say: Callable[[str], None] = lambda text: None,
) -> Embedder:
    """Return the network for the images root/path; in float32 if 'auto' moves them too far.

    Each kind of machine measures a network once, with the OpenVINO that converted it: networks
    differ in what bfloat16 does to them, and processors have computed it wrongly. It is measured
    again only if there were fewer images than SAMPLE and now there are more. A network in 8 bits
    was measured by embedder_in_eight_bits(). The embedder's `rounding` gets the result, in words.
    Raises ModelError as make_embedder() does, and if a precision that was asked for rounds too
    much. say: prints a line.
    """
    embedder = make_embedder(network, options, len(paths))
    if embedder.exact or not isinstance(network, ConvertedNetwork):
        return embedder
    found, sample = network_cache.measured(network).get(embedder.machine), spread(paths, SAMPLE)
    if network.eight_bits:
        embedder.rounding = found.words if found else ""
        return embedder
    if found is None or found.images < min(SAMPLE, len(sample)):
        images = counted(len(sample), "image")
        say(f"Measuring how {embedder.precision} changes embeddings, on {images} (once a network)")
        found = measure(network, embedder, options, root, sample)
        if not found.images:  # none can be read
            return embedder
        network_cache.note_measured(network, embedder.machine, found)
    if found.mean >= LEAST_COSINE:
        embedder.rounding = found.words
        return embedder
    reason = too_much(embedder.precision, found)
    if options.precision != "auto":
        raise ModelError(f"{reason}; choose --precision float32")
    warn(f"{reason}; float32 is used")
    return make_embedder(network, replace(options, precision="float32"), len(paths))


def too_much(precision: str, found: Rounding) -> str:
    """Return why a precision is not used."""
    return (
        f"{precision} changes this network's embeddings too much (mean cosine to float32 "
        f"{found.mean:.4f}, at least {LEAST_COSINE} is needed)"
    )


def spread(paths: Sequence[str], most: int) -> Sequence[str]:
    """Return at most so many of the paths, evenly from the whole list."""
    places = np.linspace(0, len(paths) - 1, min(most, len(paths)))
    return [paths[int(place)] for place in places]


def measure(
    network: ConvertedNetwork,
    embedder: Embedder,
    options: EmbeddingOptions,
    root: Path,
    paths: Sequence[str],
) -> Rounding:
    """Compare the embeddings of images with those in float32 of images that are decoded whole.

    An image whose embedding is finite only in float32 counts with a cosine of 0.
    """
    exact = OpenVinoEmbedder(network, "float32", options.batch_size, len(paths))
    workers = core_count() if options.workers is None else options.workers
    true, ours = (
        {
            image.path: embedding
            for batch in embed_images(
                one, root, paths, workers, max_megapixels=options.max_megapixels
            )
            for image, embedding in zip(batch.images, batch.embeddings, strict=True)
        }
        for one in (exact, embedder)
    )
    cosines = [float(ours[path] @ true[path]) if path in ours else 0.0 for path in true]
    tried = len(paths) if cosines else 0
    return Rounding(float(np.mean(cosines or [0])), min(cosines, default=0.0), tried)
