"""How much the precision that runs rounds a network's embeddings, on this kind of machine."""

import numpy as np

from similar_images.console import warn
from similar_images.network import network_cache
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.openvino_embedder import OpenVinoEmbedder

LEAST_COSINE = 0.99  # to embeddings in float32, on average: below it, a precision is not used
IMAGES, BLOCKS = 4, 8  # drawn at random, of 8×8 blocks of one colour


def fit_embedder(
    network: ConvertedNetwork, precision: str, batch_size: int | None, images: int
) -> OpenVinoEmbedder:
    """Return the network, see OpenVinoEmbedder; in float32 if 'auto' rounds too much.

    Processors and versions of OpenVINO have computed wrong embeddings in bfloat16 alone. So each
    kind of machine measures a network once, with the OpenVINO that converted it. Raises ModelError
    if a precision that was asked for rounds too much.
    """
    embedder = OpenVinoEmbedder(network, precision, batch_size, images)
    if embedder.precision == "float32":
        return embedder
    cosine = network_cache.measured(network).get(embedder.machine)
    if cosine is None:
        cosine = mean_cosine(network, embedder, _drawn_images(network))
        network_cache.note_measured(network, embedder.machine, cosine)
    if cosine >= LEAST_COSINE:
        return embedder
    reason = (
        f"in {embedder.precision} this CPU computes other embeddings: a mean cosine of "
        f"{cosine:.4f} to those in float32"
    )
    if precision != "auto":
        raise ModelError(f"{reason}; choose --precision float32")
    warn(f"{reason}, which is used instead")
    return OpenVinoEmbedder(network, "float32", batch_size, images)


def mean_cosine(network: ConvertedNetwork, embedder: OpenVinoEmbedder, pixels: np.ndarray) -> float:
    """Return the mean cosine of the embeddings of preprocessed images to those in float32."""
    exact = OpenVinoEmbedder(network, "float32", 1, len(pixels))
    rows = [(embedder.embed(one[None]), exact.embed(one[None])) for one in pixels]
    return float(np.mean([(ours * true).sum() for ours, true in rows]))


def _drawn_images(network: ConvertedNetwork) -> np.ndarray:
    side = network.preprocessing.crop
    colours = np.random.default_rng(0).integers(0, 256, (IMAGES, BLOCKS, BLOCKS, 3), np.uint8)
    large = colours.repeat(-(-side // BLOCKS), axis=1).repeat(-(-side // BLOCKS), axis=2)
    return np.ascontiguousarray(large[:, :side, :side])
