"""The network that computes the vectors: any of torchvision's classifiers without its last layer.

Layers, published weights and preprocessing are torchvision's. torch takes seconds to import, so
this module is imported only if the cache (network_cache.py) holds no converted network, or for a
GPU.
"""

import difflib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.transforms._presets import ImageClassification

from similar_images.network.model_description import TRANSFORM_INPUT, Model, ModelError
from similar_images.pictures.decoding import Preprocessing
from similar_images.text import printable

RANDOM_SEED = 0
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of each channel
COUNTER = "num_batches_tracked"  # of batch norms, used only in training


@dataclass(frozen=True)
class Network:
    """A network in torch that computes embeddings: its description, preprocessing and layers."""

    model: Model
    preprocessing: Preprocessing
    layers: nn.Module  # (N, crop, crop, 3) uint8 → (N, dimension) float32 of unit length


def model_names() -> list[str]:
    """Return the names of torchvision's classifiers."""
    return list(torchvision.models.list_models(module=torchvision.models))


def load_network(architecture: str, weights: str) -> Network:
    """Return the network with 'imagenet' or 'random' weights, or those of a file.

    Raises ModelError if there is no such classifier, or its weights are not available.
    """
    if architecture not in model_names():
        near = difflib.get_close_matches(architecture, model_names(), 3, 0.4)
        raise ModelError(
            f"torchvision has no classifier {printable(architecture)}; "
            f"choose --model {' or '.join(near or ['resnet18'])}"
        )
    published = torchvision.models.get_model_weights(architecture).DEFAULT
    body, head, dimension = _without_last_layer(architecture)
    state: Mapping[str, object]
    if weights == "random":
        state = _random_state(body)
    elif weights == "imagenet":
        state = _published_state(published)
    else:
        state = _state_of_file(Path(weights))
    _load_state(body, head, state, weights, architecture)
    if weights == "imagenet" and hasattr(body, "transform_input"):
        # The published weights of GoogLeNet and Inception v3 expect input in another range.
        body.transform_input = True  # type: ignore[assignment]
    transforms = published.transforms()
    preprocessing = _preprocessing(transforms)
    model = Model(
        weights=weights if weights in ("imagenet", "random") else str(Path(weights).resolve()),
        weights_sha256=_sha256(body),
        architecture=architecture,
        preprocessing=_in_words(preprocessing, transforms)
        + (TRANSFORM_INPUT if getattr(body, "transform_input", False) else ""),
        dimension=str(dimension),
    )
    return Network(model, preprocessing, _Embedding(body, transforms).eval())


class _Embedding(nn.Module):
    """Normalises pixels, computes embeddings, and scales them to unit length."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, body: nn.Module, transforms: ImageClassification) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", 255 * torch.tensor(transforms.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(transforms.std).reshape(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = (pixels.permute(0, 3, 1, 2) - self.mean) / self.std
        x = self.body(x.to(next(self.body.parameters()).dtype))
        return nn.functional.normalize(x.flatten(1).float())


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


# --- Weights ----------------------------------------------------------------------------------


def _published_state(published: torchvision.models.WeightsEnum) -> Mapping[str, object]:
    try:
        return dict(
            published.get_state_dict(
                progress=sys.stderr.isatty(), check_hash=True, weights_only=True
            )
        )
    except (OSError, RuntimeError) as error:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(published.url).name)
        raise ModelError(
            f"{published.url} could not be downloaded ({error}); put it at {file} by hand, "
            "or choose --weights FILE or --weights random"
        ) from error


def _state_of_file(file: Path) -> Mapping[str, object]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"there is no weights file {file}; check --weights") from error
    except Exception as error:  # what a damaged or hostile file raises has no common class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{file} is not a file of weights ({reason}); check --weights") from error
    if not isinstance(state, Mapping):
        raise ModelError(
            f"{file} holds no state dict; save one with torch.save(model.state_dict())"
        )
    return state


def _random_state(body: nn.Module) -> dict[str, torch.Tensor]:
    """Return an untrained network's tensors: He's initialisation with a fixed seed.

    Tensors that torchvision fills with one value are kept. Those that it draws at random are drawn
    by NumPy, whose generator gives the same numbers on every machine; biases are 0.
    """
    generator = np.random.default_rng(RANDOM_SEED)
    state = {}
    for name, tensor in body.state_dict().items():
        drawn = tensor.is_floating_point() and bool((tensor != tensor.flatten()[0]).any())
        if drawn and tensor.dim() > 1:
            shape = tuple(tensor.shape)
            deviation = np.sqrt(2 / (shape[0] * np.prod(shape[2:])))
            values = generator.standard_normal(shape) * deviation
            state[name] = torch.from_numpy(values.astype(np.float32))
        else:
            state[name] = torch.zeros_like(tensor) if drawn else tensor
    return state


def _load_state(
    body: nn.Module, head: str, state: Mapping[str, object], source: str, architecture: str
) -> None:
    """Load a state dict into the network; ModelError if it is not one of this architecture."""
    expected = body.state_dict()
    mismatch = f"{source} is not a state dict of {architecture}"
    for name, tensor in expected.items():
        given = state.get(name)
        if name.endswith(COUNTER) and given is None:
            continue
        if not isinstance(given, torch.Tensor) or given.shape != tensor.shape:
            raise ModelError(f"{mismatch} ({name} is missing or of another shape); check --weights")
        if not torch.isfinite(given).all():
            raise ModelError(
                f"{source} is damaged ({name} holds values that are not numbers); get it again"
            )
    extra = [str(name) for name in state if name not in expected]
    extra = [name for name in extra if not name.startswith(f"{head}.")]
    if extra:
        raise ModelError(f"{mismatch} (it has {printable(extra[0])}); check --weights")
    expected.update({name: state[name] for name in expected if name in state})
    body.load_state_dict(expected)


def _sha256(body: nn.Module) -> str:
    """Return the SHA-256 of the values that affect an embedding, in the network's order."""
    digest = hashlib.sha256()
    for name, tensor in body.state_dict().items():
        if not name.endswith(COUNTER):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


# --- Preprocessing ----------------------------------------------------------------------------


def _preprocessing(transforms: ImageClassification) -> Preprocessing:
    return Preprocessing(
        transforms.resize_size[0], transforms.crop_size[0], transforms.interpolation.value
    )


def _in_words(preprocessing: Preprocessing, transforms: ImageClassification) -> str:
    scale = tuple(transforms.mean), tuple(transforms.std)
    words = f"mean {scale[0]} and deviation {scale[1]}"
    if scale == IMAGENET:
        words = "ImageNet mean and deviation"
    return (
        f"resize {preprocessing.resize} {preprocessing.interpolation}, "
        f"centre crop {preprocessing.crop}, {words}"
    )
