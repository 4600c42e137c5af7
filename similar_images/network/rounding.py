"""How far the precision and the decoding that run move embeddings, measured on a user's images."""

import typing
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from similar_images.console import warn
from similar_images.images.decode_workers import core_count
from similar_images.network import network_cache
from similar_images.network.eight_bits import calibrated
from similar_images.network.embedding import (
    Embedder,
    EmbeddingOptions,
    embed_images,
    make_embedder,
)
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork, Rounding
from similar_images.network.openvino_embedder import INT8, OpenVinoEmbedder

if typing.TYPE_CHECKING:
    from similar_images.network.torch_network import Network

SAMPLE = 64  # images, at most, that a precision is measured on
CALIBRATION = 128  # images, at most, for 8 bits: 320, corrected slowly, were no better
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
    again only if there were fewer images than SAMPLE and now there are more. The embedder's
    `rounding` gets the result, in words. Raises ModelError as make_embedder() does, and if a
    precision that was asked for rounds too much. say: prints a line.
    """
    in_eight_bits = options.precision == INT8
    if in_eight_bits:
        embedder, found = _in_eight_bits(network, options, root, paths, say)
    else:
        embedder = make_embedder(network, options, len(paths))
        if embedder.exact or not isinstance(network, ConvertedNetwork) or network.eight_bits:
            return embedder
        key, sample = embedder.machine, _spread(paths, SAMPLE)
        found = _noted(network, embedder, key, options, root, sample)
    if not found.images:  # none can be read
        return embedder
    if found.mean >= LEAST_COSINE:
        embedder.rounding = found.words
        return embedder
    reason = (
        f"in {embedder.precision} this network's embeddings are others: a mean cosine of "
        f"{found.mean:.4f} to those in float32"
    )
    if options.precision != "auto":
        raise ModelError(f"{reason}; choose --precision {'auto' if in_eight_bits else 'float32'}")
    warn(f"{reason}, which is used instead")
    return make_embedder(network, replace(options, precision="float32"), len(paths))


def _in_eight_bits(
    network: "ConvertedNetwork | Network",
    options: EmbeddingOptions,
    root: Path,
    paths: Sequence[str],
    say: Callable[[str], None],
) -> tuple[Embedder, Rounding]:
    """Return the network in 8 bits: the one that is kept, if it is right for this folder's images.

    Otherwise it is calibrated on some of them, and checked on others.
    """
    if options.device not in ("auto", "cpu") or not isinstance(network, ConvertedNetwork):
        raise ModelError(f"--precision {INT8} is for CPUs with OpenVINO; choose another one")
    on_cpu, sample = replace(options, device="cpu", precision="auto"), _spread(paths, SAMPLE)

    def checked(small: ConvertedNetwork) -> tuple[Embedder, Rounding]:
        embedder = make_embedder(small, on_cpu, len(paths))
        key = f"{embedder.machine}, {root.resolve()}"
        return embedder, _noted(network, embedder, key, options, root, sample)

    kept = network_cache.in_eight_bits(network)
    if kept:
        embedder, found = checked(kept)
        if found.mean >= LEAST_COSINE or not found.images:
            return embedder, found
    say("Calibrating the network in 8 bits on some of the images; this may take minutes")
    others = sorted(set(paths) - set(sample))
    small, files = calibrated(network, options, root, _spread(others, CALIBRATION))
    embedder, found = checked(small)
    if found.mean >= LEAST_COSINE:  # else what is kept may be right for another folder
        network_cache.keep_in_eight_bits(network, files)
    return embedder, found


def _spread(paths: Sequence[str], most: int) -> Sequence[str]:
    """Return at most so many of the paths, from the whole list."""
    return paths[:: max(1, len(paths) // most)][:most]


def _noted(
    network: ConvertedNetwork,
    embedder: Embedder,
    key: str,
    options: EmbeddingOptions,
    root: Path,
    sample: Sequence[str],
) -> Rounding:
    """Return what is noted under this key, or else measure it on a sample and note it."""
    found = network_cache.measured(network).get(key)
    if found is None or found.images < min(SAMPLE, len(sample)):
        found = measure(network, embedder, options, root, sample)
        if found.images:
            network_cache.note_measured(network, key, found)
    return found


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
    return Rounding(float(np.mean(cosines or [0])), min(cosines, default=0.0), len(cosines))
