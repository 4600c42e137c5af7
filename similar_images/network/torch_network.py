"""A network in torch that computes embeddings, whatever package has its layers."""

import torch
from torch import nn

from similar_images.images.decoding import Preprocessing
from similar_images.network.model_description import Model, named_or_path
from similar_images.network.weights import sha256

Channels = tuple[float, float, float]  # red, green, blue; of values from 0 to 1
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of each channel


class Network:
    """A network in torch that computes embeddings: its description, preprocessing and layers.

    layers: (N, crop, crop, 3) uint8 → (N, dimension) float32 of unit length.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        architecture: str,
        weights: str,
        dimension: int,
        preprocessing: Preprocessing,
        mean: Channels,
        deviation: Channels,
        remarks: str = "",
    ) -> None:
        """Make it of the layers before the last one, with their weights loaded.

        body: normalised (N, 3, crop, crop) → (N, dimension), both in float32. weights: where they
        come from, see Model. remarks: what else its description says of the preprocessing.
        """
        self.model = Model(
            weights=named_or_path(weights),
            weights_sha256=sha256(body),
            architecture=architecture,
            preprocessing=_in_words(preprocessing, mean, deviation) + remarks,
            dimension=str(dimension),
        )
        self.preprocessing = preprocessing
        self.layers: nn.Module = _Embedding(body, mean, deviation).eval()


class _Embedding(nn.Module):
    """Normalises pixels, computes embeddings, and scales them to unit length."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, body: nn.Module, mean: Channels, deviation: Channels) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", 255 * torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(deviation).reshape(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = (pixels.permute(0, 3, 1, 2) - self.mean) / self.std
        x = self.body(x.to(next(self.body.parameters()).dtype))
        return nn.functional.normalize(x.flatten(1).float())


def _in_words(preprocessing: Preprocessing, mean: Channels, deviation: Channels) -> str:
    words = f"mean {mean} and deviation {deviation}"
    if (mean, deviation) == IMAGENET:
        words = "ImageNet mean and deviation"
    resize = {
        "center": "resize",
        "squash": "resize both sides to",
        "border": f"border {preprocessing.fill}, resize the long side to",
    }[preprocessing.crop_mode]
    return (
        f"{resize} {preprocessing.resize} {preprocessing.interpolation}, "
        f"centre crop {preprocessing.crop}, {words}"
    )
