"""Find the network that embeds: in the cache, or else read by torch, converted and cached."""

import importlib
import importlib.util
import sys
import types
import typing
import warnings
from collections.abc import Mapping
from dataclasses import replace

from similar_images.network import network_cache
from similar_images.network.model_description import Model, ModelError, compared
from similar_images.network.network_cache import ConvertedNetwork

if typing.TYPE_CHECKING:
    from similar_images.network.torchvision_model import Network


def find_network(architecture: str, weights: str) -> "ConvertedNetwork | Network":
    """Return the network with these weights, from the cache if it is there.

    Raises ModelError if they are not available.
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
    """Return the network that made a collection's vectors; ModelError if it is not available.

    weights: where they are, as the user says or, if that may be read, as the collection says; None
    if neither.
    """
    if has_openvino() and weights in (None, properties.get("weights")):
        kept = network_cache.find_by_properties(properties)
        if kept:
            return replace(kept, model=replace(kept.model, weights=weights or kept.model.weights))
    if weights is None:
        raise ModelError(
            f"the collection is on a shared server and names the weights "
            f"{properties.get('weights')}, which are not read; give the file with --weights if it "
            "is yours"
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
    expected = compared(properties)
    what = f"SHA-256 of their values {(expected['weights_sha256'] or '')[:12]}…"
    if expected["weights_sha256"] == model.weights_sha256:
        what = f"preprocessing: {expected['preprocessing']}"
    raise ModelError(
        f"the weights {model.weights} are not those that the collection was made with ({what}); "
        "put those back, name them with --weights, or load again with --recreate"
    )


def import_openvino() -> types.ModuleType:
    """Import OpenVINO without the package that reports its use (telemetry)."""
    sys.modules.setdefault("openvino_telemetry", typing.cast(types.ModuleType, None))
    module: types.ModuleType = importlib.import_module("openvino")
    return module


def has_openvino() -> bool:
    """Return whether OpenVINO is installed; a few systems have no wheel."""
    return importlib.util.find_spec("openvino") is not None


def torch_network(architecture: str, weights: str) -> "Network":
    """Return the network in torch; ModelError if its weights are not available."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about its own networks
        from similar_images.network.torchvision_model import load_network

        return load_network(architecture, weights)


def _converted(network: "Network") -> ConvertedNetwork:
    import torch

    example = torch.zeros(2, *network.preprocessing.shape, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's, about tracing
        graph = import_openvino().convert_model(network.layers, example_input=example)
    return ConvertedNetwork(network.model, network.preprocessing, graph)
