"""The values of a network in torch: read from a file, drawn, loaded, identified."""

import argparse
import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from similar_images.network.model_description import PUBLISHED, RANDOM, ModelError
from similar_images.text import printable

RANDOM_SEED = 0
HOLDERS = ("state_dict", "model")  # under one of these a trainer's checkpoint has it
PREFIXES = ("module.", "_orig_mod.")  # of several GPUs (DataParallel), of torch.compile
COUNTER = "num_batches_tracked"  # of batch norms, used only in training


def load_weights(
    body: nn.Module,
    heads: tuple[str, ...],
    weights: str,
    published: Callable[[], Mapping[str, object]],
    name: str,
) -> None:
    """Load weights: random ones, for 'pretrained' what published() returns, or a file's.

    heads: the layers that body, a network of that name, lacks. Raises ModelError if the weights are
    not available, or not of this network.
    """
    if weights == RANDOM:
        state: Mapping[str, object] = random_state(body)
    else:
        state = published() if weights == PUBLISHED else state_of_file(Path(weights))
    expected = body.state_dict()
    mismatch = f"{weights} is not a state dict of {name}"
    for key, tensor in expected.items():
        given = state.get(key)
        if key.endswith(COUNTER) and given is None:
            continue
        if not isinstance(given, torch.Tensor) or not _fits(given, tensor):
            first = printable(str(next(iter(state), "none")))
            what = f"{key} is missing, or of another shape or kind; the file's first key is {first}"
            raise ModelError(f"{mismatch} ({what}); check --weights")
        if not torch.isfinite(given).all():
            raise ModelError(
                f"{weights} is damaged ({key} holds values that are not numbers); get it again"
            )
    last = tuple(f"{head}." for head in heads)
    extra = [str(key) for key in state if key not in expected and not str(key).startswith(last)]
    if extra:
        raise ModelError(f"{mismatch} (it has {printable(extra[0])}); check --weights")
    body.load_state_dict({**expected, **{key: state[key] for key in expected if key in state}})


def state_of_file(file: Path) -> Mapping[str, object]:
    """Return what a file of weights holds: tensors by name; it executes nothing.

    Raises ModelError if it is not one.
    """
    try:
        state = _read(file)
        if not isinstance(state, Mapping):
            raise TypeError("it holds no state dict")
    except ImportError as error:
        raise ModelError(f"{file} needs safetensors; run pip install safetensors") from error
    except FileNotFoundError as error:
        raise ModelError(f"there is no weights file {file}; check --weights") from error
    except Exception as error:  # what a damaged or hostile file raises has no common class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch advises to execute what is in it
            reason = "it holds no tensors, or other things as well"
        raise ModelError(f"{file} is not a file of weights ({reason}); check --weights") from error
    return _unwrapped(state)


def _unwrapped(state: Mapping[str, object]) -> Mapping[str, object]:
    """Return the state dict in a trainer's checkpoint, its keys without wrappers' prefixes."""
    for name in HOLDERS:
        inner = state.get(name)
        state = inner if isinstance(inner, Mapping) else state
    while state and all(str(key).startswith(PREFIXES) for key in state):
        state = {str(key).partition(".")[2]: value for key, value in state.items()}
    return state


def _read(file: Path) -> object:
    if file.suffix.lower() != ".safetensors":
        with torch.serialization.safe_globals([argparse.Namespace]):  # holds values, does nothing
            return torch.load(file, map_location="cpu", weights_only=True)
    import safetensors.torch

    return safetensors.torch.load_file(file)


def random_state(body: nn.Module) -> dict[str, torch.Tensor]:
    """Return an untrained network's tensors: He's initialisation with a fixed seed.

    Tensors that its package fills with one value are kept. Those that it draws at random are drawn
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


def _fits(given: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Return whether a given tensor has a tensor's shape and kind, and all values in memory."""
    same_kind = given.is_floating_point() or not tensor.is_floating_point()
    in_memory = given.layout == torch.strided and given.device.type == "cpu"  # not sparse
    return given.shape == tensor.shape and same_kind and in_memory


def sha256(body: nn.Module) -> str:
    """Return the SHA-256 of the values that affect an embedding, in the network's order."""
    digest = hashlib.sha256()
    for name, tensor in body.state_dict().items():
        if not name.endswith(COUNTER):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
