"""What the embedder is compared with: eager torch, its DataLoader, the homework, matrix product."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import seconds

EAGER_BATCH = 64  # images
LOADER_BATCH = 32  # images
MATRICES = (1024, 4096)  # sides of the matrix products; the faster one counts
LEAST_SECONDS = 0.2  # that a matrix product is repeated for: one alone is too short on a GPU


def embed_eagerly(layers: nn.Module, device: str, batch: int, pixels: np.ndarray) -> np.ndarray:
    """Embed preprocessed images with a torch network as it is, without any optimisation.

    layers: (N, crop, crop, 3) uint8 → (N, dimension) float32, on the device. Like the embedder it
    copies the pixels to the device and waits for the embeddings.
    """
    with torch.inference_mode():
        parts = torch.from_numpy(pixels).split(batch)
        return torch.cat([layers(part.to(device)).cpu() for part in parts]).numpy()


def save_state(architecture: str, body: nn.Module, file: Path) -> None:
    """Write the weights of a network without its last layer as a state dict of the whole one."""
    network = torchvision.models.get_model(architecture, weights=None)
    network.load_state_dict(body.state_dict(), strict=False)  # its last layer is not used
    torch.save(network.state_dict(), file)


def embed_as_the_homework(architecture: str, state: Path, image: Path) -> np.ndarray:
    """Embed one image file as the original homework did: with a network built for it alone.

    state: a file with the network's state dict, which is read each time. Returns (dimension,)
    float32 of unit length, computed on the processor.
    """
    transforms = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    network = torchvision.models.get_model(architecture, weights=None).eval()
    network.load_state_dict(torch.load(state, weights_only=True))
    linear = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    network.set_submodule(linear[-1], nn.Identity())
    with torch.inference_mode(), Image.open(image) as opened:
        pixels = transforms(opened.convert("RGB")).unsqueeze(0)
        return nn.functional.normalize(network(pixels).flatten(1)).numpy()[0]


class Images(Dataset):
    """Image files as a user of torch usually reads them: with Pillow and transforms."""

    def __init__(self, files: list[Path], transforms: Callable[[Image.Image], torch.Tensor]):
        self.files = files
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        with Image.open(self.files[number]) as image:
            return self.transforms(image.convert("RGB"))


def embed_with_loader(body: nn.Module, reductions: Images, workers: int) -> np.ndarray:
    """Embed images with torch's DataLoader and a network as it is, (N, dimension) float32.

    To be called in a process of its own: it forks worker processes, and leaves a handler of
    SIGCHLD behind, in which a process that has used OpenVINO crashes.
    """
    loader = DataLoader(reductions, LOADER_BATCH, num_workers=workers)
    with torch.inference_mode():
        parts = [nn.functional.normalize(body(batch).flatten(1)) for batch in loader]
    return torch.cat(parts).numpy()


def flop_per_image(layers: nn.Module, images: torch.Tensor) -> float:
    """Return the floating-point operations of a network per image, as torch counts them.

    Gradients stay enabled: without them torch runs attention as one operation that it can't count.
    """
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        layers(images)
    return counter.get_total_flops() / len(images)


def matrix_product_rate(precision: str, device: str) -> float:
    """Return the floating-point operations per second of torch's matrix product: a yardstick.

    A network that multiplies less (Winograd's algorithm), or whose matrices fit the caches
    better, can exceed it.
    """
    rates = []
    for side in MATRICES:
        matrix = torch.randn(side, side, device=device).to(getattr(torch, precision))

        def multiply(times: int, matrix: torch.Tensor = matrix) -> None:
            for _ in range(times):
                product = torch.mm(matrix, matrix)
            product[0, 0].item()  # waits for a GPU

        multiply(1)  # warms up
        times, taken = 1, 0.0
        while taken < LEAST_SECONDS:
            times *= 2
            taken = seconds(functools.partial(multiply, times))
        rates.append(2 * side**3 * times / taken)
    return max(rates)
