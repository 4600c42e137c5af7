"""Networks of torchvision: any of its classifiers without its last layer.

Layers, published weights and preprocessing are torchvision's. torch takes seconds to import, so
this module is imported only if the cache (network_cache.py) holds no converted network, or for a
GPU.
"""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import nn

from similar_images.images.decoding import Preprocessing
from similar_images.network.model_description import PUBLISHED, ModelError
from similar_images.network.torch_network import Network
from similar_images.network.weights import load_weights
from similar_images.text import printable


def load_network(architecture: str, weights: str) -> Network:
    """Return the network with 'pretrained' or 'random' weights, or those of a file.

    Raises ModelError if there is no such classifier, or its weights are not available.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if architecture not in names:
        near = difflib.get_close_matches(architecture, names, 3, 0.4)
        raise ModelError(
            f"torchvision has no classifier {printable(architecture)}; "
            f"choose --model {' or '.join(near or ['resnet18'])}, or timm/NAME"
        )
    published = torchvision.models.get_model_weights(architecture).DEFAULT
    body, head, dimension = _without_last_layer(architecture)
    load_weights(body, (head,), weights, lambda: _published_state(published), architecture)
    if weights == PUBLISHED and hasattr(body, "transform_input"):
        # The published weights of GoogLeNet and Inception v3 expect input in another range.
        body.transform_input = True  # type: ignore[assignment]
    transforms = published.transforms()
    return Network(
        body,
        architecture=architecture,
        weights=weights,
        dimension=dimension,
        preprocessing=Preprocessing(
            transforms.resize_size[0], transforms.crop_size[0], transforms.interpolation.value
        ),
        mean=tuple(transforms.mean),
        deviation=tuple(transforms.std),
        remarks=", transform_input" if getattr(body, "transform_input", False) else "",
    )


def _without_last_layer(architecture: str) -> tuple[nn.Module, str, int]:
    """Return the classifier without its last linear layer, that layer's name and its input size."""
    body = torchvision.models.get_model(architecture, weights=None).eval()
    linear = [(name, part) for name, part in body.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise ModelError(f"{architecture} ends in no linear layer; choose another --model")
    name, last = linear[-1]
    parent, _, attribute = name.rpartition(".")
    setattr(body.get_submodule(parent), attribute, nn.Identity())
    return body, name, last.in_features


def _published_state(published: torchvision.models.WeightsEnum) -> Mapping[str, object]:
    try:
        options = {"progress": sys.stderr.isatty(), "check_hash": True, "weights_only": True}
        return dict(published.get_state_dict(**options))
    except (OSError, RuntimeError) as error:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(published.url).name)
        raise ModelError(
            f"{published.url} could not be downloaded ({error}); put it at {file} by hand, "
            "or choose --weights FILE or --weights random"
        ) from error
