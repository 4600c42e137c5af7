"""Networks of timm, which is optional: any of its models, under the names of its model pages.

Layers, published weights and preprocessing are timm's. Like torchvision_model.py, this module is
imported only if no converted network is kept.
"""

import contextlib
import difflib
import os
import types
import typing
from collections.abc import Mapping

import torch
from torch import nn

from similar_images.images.decoding import Preprocessing
from similar_images.network.model_description import ModelError
from similar_images.network.torch_network import Network
from similar_images.network.weights import load_weights
from similar_images.text import printable

PREFIX = "timm/"
HUB_FILE = "model.safetensors"  # of a model's page
HUB_SECONDS = 10  # to answer whether it is there


def load_network(architecture: str, weights: str) -> Network:
    """Return the network with 'pretrained' or 'random' weights, or those of a file.

    A name without a tag means the first of timm's; the tag is part of the network's description.
    The tag's preprocessing applies whatever the weights are. Raises ModelError if timm is not
    installed, has no such model, or the weights or the preprocessing are not available.
    """
    timm = _import_timm()
    name = _full_name(timm, architecture.removeprefix(PREFIX))
    body = timm.create_model(name, num_classes=0).eval()
    data = timm.data.resolve_model_data_config(body)
    preprocessing = _preprocessing(name, data)
    last = body.pretrained_cfg.get("classifier") or ()
    heads = tuple(head.partition(".")[0] for head in ([last] if isinstance(last, str) else last))
    load_weights(body, heads, weights, lambda: _published_state(timm, name), architecture)
    return Network(
        body,
        architecture=PREFIX + name,
        weights=weights,
        dimension=_dimension(name, body, preprocessing),
        preprocessing=preprocessing,
        mean=tuple(data["mean"]),
        deviation=tuple(data["std"]),
    )


def _import_timm() -> types.ModuleType:
    """Import timm, and with it the hub's package without its telemetry."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import timm
    except ImportError as error:
        raise ModelError(
            f"timm's models need timm, which can't be imported ({error}); run pip install timm"
        ) from error
    return typing.cast(types.ModuleType, timm)


def _full_name(timm: types.ModuleType, name: str) -> str:
    """Return the name with its tag; ModelError if timm has no such model.

    timm itself would take a name for a repository or a folder, too, and open it.
    """
    names, with_tags = timm.list_models(), timm.list_models(include_tags=True)
    if name in with_tags:
        return name
    if name in names:
        return f"{name}.{timm.get_pretrained_cfg(name).tag}"
    near = difflib.get_close_matches(name, names + with_tags, 3, 0.4) or ["resnet18.a1_in1k"]
    choice = " or ".join(PREFIX + model for model in near)
    raise ModelError(f"timm has no model {printable(name)}; choose --model {choice}")


def _preprocessing(name: str, data: Mapping[str, typing.Any]) -> Preprocessing:
    """Return what timm's create_transform() does to an image before it normalises."""
    channels, height, width = data["input_size"]
    fill = "".join(f"{round(255 * value):02x}" for value in data["mean"])
    resize = int(height / data["crop_pct"])
    try:
        if channels != 3 or height != width:
            raise ValueError(f"{channels} channels of {width}×{height} pixels, not 3 of a square")
        return Preprocessing(resize, height, data["interpolation"], data["crop_mode"], f"#{fill}")
    except ValueError as error:
        raise ModelError(
            f"{PREFIX}{name} takes images in a form that is not supported ({error}); "
            "choose another --model"
        ) from error


def _dimension(name: str, body: nn.Module, preprocessing: Preprocessing) -> int:
    with torch.inference_mode():
        vectors = body(torch.zeros(1, 3, preprocessing.crop, preprocessing.crop))
    if not isinstance(vectors, torch.Tensor) or vectors.dim() != 2:
        raise ModelError(f"{PREFIX}{name} gives no single vector; choose another --model")
    return int(vectors.shape[1])


def _published_state(timm: types.ModuleType, name: str) -> Mapping[str, object]:
    """Return the published weights, downloaded once, as timm itself names and converts them."""
    published = timm.get_pretrained_cfg(name)
    if not published.has_weights:
        raise ModelError(f"timm publishes no weights of {name}; choose --weights FILE or random")
    url = published.url
    try:
        if published.hf_hub_id:
            import huggingface_hub

            url = huggingface_hub.hf_hub_url(published.hf_hub_id, HUB_FILE)
            _ask_hub(huggingface_hub, published.hf_hub_id, url)
        # With its last layer, or timm would accept a file that lacks other layers.
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # the network, the hub, a damaged file: they have no common class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the weights of {PREFIX}{name} could not be loaded ({printable(reason)}); download "
            f"{url} by hand and give the file with --weights FILE, or choose --weights random"
        ) from error


def _ask_hub(hub: types.ModuleType, repository: str, url: str) -> None:
    """Raise an exception soon if the hub can't be reached: the download itself retries for long."""
    if not isinstance(hub.try_to_load_from_cache(repository, HUB_FILE), str):
        with contextlib.suppress(hub.errors.RemoteEntryNotFoundError):  # it has another file
            hub.get_hf_file_metadata(url, timeout=HUB_SECONDS)
