"""What the embedder is compared with: eager torch, its DataLoader, the homework, matrix product."""

import copy
import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import seconds
from similar_images.network.find_network import torch_network
from similar_images.network.model_description import ModelError

EAGER_BATCH = 64  # images, at least
LOADER_BATCH = 32  # images
MATRICES = (1024, 4096)  # sides of the matrix products; the faster one counts
LEAST_SECONDS = 0.2  # that a matrix product is repeated for: one alone is too short on a GPU


class Torch:
    """A network in torch, in float32 on a device, without any optimisation.

    layers: (N, crop, crop, 3) uint8 → (N, dimension) float32 of unit length. body: the same
    without preprocessing and of any length.
    """

    def __init__(self, architecture: str, weights: str, device: str) -> None:
        network = torch_network(architecture, weights)
        self.architecture, self.device = architecture, device
        self.layers: nn.Module = network.layers.to(device)
        self.body = self.layers.get_submodule("body")
        self.shape = network.preprocessing.shape

    @functools.cached_property
    def transforms(self) -> Callable[[Image.Image], torch.Tensor]:
        """The preprocessing that torchvision publishes for its model; ModelError for timm's."""
        if self.architecture not in torchvision.models.list_models():
            raise ModelError("steady and exactness need torchvision's model; choose other --parts")
        return torchvision.models.get_model_weights(self.architecture).DEFAULT.transforms()

    def ways(
        self, pixels: np.ndarray, batch: int, files: list[Path], folder: Path
    ) -> dict[str, Callable[[], np.ndarray]]:
        """Return ways to embed preprocessed images, or image files, each by its name."""
        batch, state = max(EAGER_BATCH, batch), folder / "state.pth"
        ways: dict[str, Callable[[], np.ndarray]] = {
            f"torch, eager, float32, {self.device}, batches of {batch}": functools.partial(
                self.embed_eagerly, pixels, batch
            )
        }
        if self.architecture in torchvision.models.list_models():
            self.save_state(state)
            ways["homework: a network built and loaded for each image, cpu"] = lambda: np.stack(
                [self.embed_as_the_homework(file, state) for file in files]
            )
        return ways

    def embed_eagerly(self, pixels: np.ndarray, batch: int) -> np.ndarray:
        """Embed preprocessed images: copy them to the device and wait, as the embedder does."""
        with torch.inference_mode():
            parts = torch.from_numpy(pixels).split(batch)
            return torch.cat([self.layers(part.to(self.device)).cpu() for part in parts]).numpy()

    def save_state(self, file: Path) -> None:
        """Write the weights as a state dict of the whole network; its last layer is not used."""
        network = torchvision.models.get_model(self.architecture, weights=None)
        network.load_state_dict(self.body.state_dict(), strict=False)
        torch.save(network.state_dict(), file)

    def embed_as_the_homework(self, image: Path, state: Path) -> np.ndarray:
        """Embed one image file on the CPU with a network built and loaded for it alone."""
        network = torchvision.models.get_model(self.architecture, weights=None).eval()
        network.load_state_dict(torch.load(state, weights_only=True))
        linear = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
        network.set_submodule(linear[-1], nn.Identity())
        with Image.open(image) as opened:
            return normalised(network, self.transforms(opened.convert("RGB")).unsqueeze(0))[0]

    def reference(self, image: Image.Image) -> np.ndarray:
        """Return an image's embedding by torchvision alone, (dimension,) float32."""
        pixels = self.transforms(image).unsqueeze(0).to(self.device)
        return normalised(self.body, pixels)[0]

    def embed_with_loader(self, files: list[Path], workers: int) -> None:
        """Decode and embed as a user of torch usually would.

        In a process of its own: DataLoader forks worker processes, and leaves a handler of SIGCHLD
        behind, in which a process that has used OpenVINO crashes.
        """
        body, images = copy.deepcopy(self.body).cpu(), Images(files, self.transforms)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(_embed_with_loader, body, images, workers, self.device).result()

    @functools.cached_property
    def flop(self) -> float:
        """The network's floating-point operations per image."""
        return flop_per_image(
            self.layers, torch.zeros(1, *self.shape, dtype=torch.uint8, device=self.device)
        )

    def matrix_product(self, precision: str) -> float:
        """Return the images/s that the device's matrix product has operations for.

        A network that multiplies less (Winograd's algorithm), or whose matrices fit the caches
        better, can exceed it.
        """
        return max(product_rate(side, precision, self.device) for side in MATRICES) / self.flop


def normalised(body: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """Return the embeddings of preprocessed images, (N, dimension) float32 of unit length."""
    with torch.inference_mode():
        return nn.functional.normalize(body(pixels).flatten(1)).cpu().numpy()


class Images(Dataset):
    """Image files as a user of torch usually reads them: with Pillow and transforms."""

    def __init__(self, files: list[Path], transforms: Callable[[Image.Image], torch.Tensor]):
        self.files, self.transforms = files, transforms

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        with Image.open(self.files[number]) as image:
            return self.transforms(image.convert("RGB"))


def _embed_with_loader(body: nn.Module, images: Images, workers: int, device: str) -> None:
    body = body.to(device)
    for batch in DataLoader(images, LOADER_BATCH, num_workers=workers):
        normalised(body, batch.to(device))


def flop_per_image(layers: nn.Module, images: torch.Tensor) -> float:
    """Return the floating-point operations of a network per image, as torch counts them.

    Gradients stay enabled: without them torch runs attention as one operation that it can't count.
    """
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        layers(images)
    return counter.get_total_flops() / len(images)


def product_rate(side: int, precision: str, device: str) -> float:
    """Return the floating-point operations per second of torch's product of square matrices."""
    matrix = torch.randn(side, side, device=device).to(getattr(torch, precision))

    def multiply(times: int) -> None:
        for _ in range(times):
            product = torch.mm(matrix, matrix)
        product[0, 0].item()  # waits for a GPU

    multiply(1)  # warms up
    times, taken = 1, 0.0
    while taken < LEAST_SECONDS:
        times *= 2
        taken = seconds(functools.partial(multiply, times))
    return 2 * side**3 * times / taken
