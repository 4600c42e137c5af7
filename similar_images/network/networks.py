"""The network that embeds: kept from an earlier run, or read by torch, converted and kept now."""

import importlib
import importlib.util
import sys
import types
import typing
import warnings
from collections.abc import Mapping

from similar_images.network import network_cache
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork

if typing.TYPE_CHECKING:
    from similar_images.network.torchvision_model import Network


def find_network(architecture: str, weights: str) -> "ConvertedNetwork | Network":
    """Return the network of these weights: converted before, or read, converted and kept now.

    Raises ModelError if they can't be had.
    """
    if not has_openvino():
        return torch_network(architecture, weights)
    kept = network_cache.find_by_weights(architecture, weights)
    if kept:
        return kept
    return network_cache.keep(_converted(torch_network(architecture, weights)), weights)


def network_of_collection(
    properties: Mapping[str, str], weights: str | None
) -> "ConvertedNetwork | Network":
    """Return the network that made a collection's vectors; ModelError if it can't be had.

    weights: where they are now, if the user says so, or if the place that the collection names
    may be read.
    """
    if has_openvino() and weights in (None, properties.get("weights")):
        kept = network_cache.find_by_properties(properties)
        if kept:
            return kept
    if weights is None:
        raise ModelError(
            f"the collection names the weights {properties.get('weights')}, which is somebody "
            "else's word; name the file with --weights if it is yours"
        )
    network = find_network(properties.get("architecture", ""), weights)
    if not network.model.same_vectors(properties):
        raise ModelError(
            f"the weights {network.model.weights} are not those that the collection was made with "
            f"(SHA-256 of their values {properties.get('weights_sha256', '')[:12]}…); put those "
            "back, name them with --weights, or load again with --recreate"
        )
    return network


def import_openvino() -> types.ModuleType:
    """Import OpenVINO, without the package by which it would report its use to its makers."""
    sys.modules.setdefault("openvino_telemetry", typing.cast(types.ModuleType, None))
    module: types.ModuleType = importlib.import_module("openvino")
    return module


def has_openvino() -> bool:
    """Return whether OpenVINO is installed; it has wheels for most systems, not for all."""
    return importlib.util.find_spec("openvino") is not None


def torch_network(architecture: str, weights: str) -> "Network":
    """Return the network in torch; ModelError if its weights can't be had."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's of its own networks
        from similar_images.network.torchvision_model import load_network

        return load_network(architecture, weights)


def _converted(network: "Network") -> ConvertedNetwork:
    import torch

    example = torch.zeros(2, *network.preprocessing.shape, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's of its tracing
        graph = import_openvino().convert_model(network.layers, example_input=example)
    return ConvertedNetwork(network.model, network.preprocessing, graph)
