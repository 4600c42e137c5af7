"""Find the network that embeds: in the cache, or else read by torch, converted and cached."""

import importlib
import importlib.util
import sys
import types
import typing
import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from similar_images.console import warn
from similar_images.network import network_cache
from similar_images.network.model_description import Model, ModelError, package_of
from similar_images.network.network_cache import ConvertedNetwork

if typing.TYPE_CHECKING:
    from similar_images.network.torch_network import Network

LEAST_COSINE = 0.9999  # of a converted network's embedding to torch's, both in float32


def find_network(architecture: str, weights: str) -> "ConvertedNetwork | Network":
    """Return the network with these weights, from the cache if it is there.

    What OpenVINO can't convert is returned as torch has it, with a warning. Raises ModelError if
    the weights are not available.
    """
    if not has_openvino():
        return torch_network(architecture, weights)
    kept = network_cache.find_by_weights(architecture, weights)
    if kept:
        return kept
    network = torch_network(architecture, weights)
    try:
        converted = _converted(network)
    except Exception as error:  # the converter's have no common class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warn(f"OpenVINO can't convert {architecture} ({reason}); torch runs it instead")
        return network
    return network_cache.keep(converted, architecture, weights)


def network_of_collection(
    properties: Mapping[str, str], weights: str | None
) -> "ConvertedNetwork | Network":
    """Return the network that made a collection's vectors; ModelError if it is not available.

    weights: as the user says, or as the collection says if they may be opened; None if neither.
    """
    if has_openvino() and weights in (None, properties.get("weights")):
        kept = network_cache.find_by_properties(properties)
        if kept:
            return replace(kept, model=replace(kept.model, weights=weights or kept.model.weights))
    if weights is None:
        raise ModelError(
            f"the collection names the weights {properties.get('weights')}, which are not opened "
            "because it is on a server; if the file is yours, give it with --weights"
        )
    network = find_network(properties.get("architecture", ""), weights)
    _check_same_vectors(network.model, properties)
    return network


def torch_network_of(model: Model) -> "Network":
    """Return the network of a model that was converted earlier, read again by torch.

    Raises ModelError if its weights are not available or have changed since then.
    """
    network = torch_network(model.architecture, model.weights)
    _check_same_vectors(network.model, model.properties())
    return network


def _check_same_vectors(model: Model, properties: Mapping[str, str]) -> None:
    if model.same_vectors(properties):
        return
    digest, preprocessing = (properties.get(key) for key in ("weights_sha256", "preprocessing"))
    raise ModelError(
        f"the collection was made with other weights than {model.weights} (SHA-256 of their values "
        f"{str(digest)[:12]}…; preprocessing: {preprocessing}); name its weights with --weights, "
        "or load again with --recreate"
    )


def import_openvino() -> types.ModuleType:
    """Import OpenVINO without the package that reports its use (telemetry)."""
    sys.modules.setdefault("openvino_telemetry", typing.cast(types.ModuleType, None))
    import openvino

    return typing.cast(types.ModuleType, openvino)


def has_openvino() -> bool:
    """Return whether OpenVINO is installed; a few systems have no wheel."""
    return importlib.util.find_spec("openvino") is not None


def torch_network(architecture: str, weights: str) -> "Network":
    """Return the network in torch; ModelError if its weights are not available."""
    module = f"similar_images.network.{package_of(architecture)}_model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about its own networks
        load = importlib.import_module(module).load_network
        network: Network = load(architecture, weights)
        return network


def _converted(network: "Network") -> ConvertedNetwork:
    """Convert a network; raise any kind of exception if OpenVINO can't, or gets it wrong."""
    import torch

    rng = np.random.default_rng(0)
    example = rng.integers(0, 256, (2, *network.preprocessing.shape), dtype=np.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch's, about tracing
        pixels = torch.from_numpy(example)
        graph = import_openvino().convert_model(network.layers, example_input=pixels)
        expected = network.layers(pixels[1:]).numpy()
    single = graph.clone()  # tracing may have kept something of the example, such as its length
    single.reshape([1, *network.preprocessing.shape])
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = import_openvino().Core().compile_model(single, "CPU", settings)
    cosine = float((compiled(example[1:])[0] * expected).sum())
    if not cosine >= LEAST_COSINE:
        raise ValueError(f"its embedding has a cosine of {cosine:.4f} to torch's")
    return ConvertedNetwork(network.model, network.preprocessing, graph)
