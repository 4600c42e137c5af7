"""Embed a folder's images: command-line options, choice of device, and the pipeline.

Worker processes decode while the network runs. OpenVINO and torch are imported when first needed.
"""

import argparse
import collections
import os
import sys
import typing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from similar_images.console import warn, whole_number
from similar_images.images.decode_workers import (
    FEW_IMAGES,
    Batch,
    Decoder,
    Examine,
    Task,
    core_count,
)
from similar_images.images.decoding import Preprocessing, megapixels_that_fit
from similar_images.network.find_network import torch_network_of
from similar_images.network.model_description import PUBLISHED, RANDOM, Model, ModelError
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.openvino_embedder import CPU_BATCH, HINTS, OpenVinoEmbedder
from similar_images.network.torch_embedder import GPU_BATCH, TorchEmbedder

if typing.TYPE_CHECKING:
    from similar_images.network.torch_network import Network

DEFAULT_MODEL = "resnet18"
DEVICES = ("auto", "cpu", "cuda", "mps")
GPU_IMAGES = 1000  # fewer are embedded on the CPU before torch has found the GPU
GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of CUDA, CUDA in WSL, ROCm; on Linux
NOT_FINITE = "its embedding is not finite; choose --precision float32 or check --weights"
SCALED_SIDE = 2  # times the network's resize: the least short side of a JPEG decoded at a scale


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """How to embed, as given on the command line; None leaves the choice to the program."""

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    max_megapixels: int | None = None


# A network ready to embed; several threads may use it at once.
Embedder = OpenVinoEmbedder | TorchEmbedder


def make_embedder(
    network: "ConvertedNetwork | Network", options: EmbeddingOptions, images: int
) -> Embedder:
    """Return the network on the device and in the precision for this number of images.

    Raises ModelError if there is no such device, or if torch has to read the weights again for a
    GPU and they have changed.
    """
    device = choose_device(options.device, images)
    how = options.precision, options.batch_size
    if isinstance(network, ConvertedNetwork):
        if device == "cpu":
            return OpenVinoEmbedder(network, *how, images)
        network = torch_network_of(network.model)
    return TorchEmbedder(network, device, *how)


def choose_device(device: str, images: int) -> str:
    """Return the device to compute on; 'auto' takes CUDA, else MPS, else the CPU.

    For few images, or without a GPU's file, it is the CPU, without importing torch, which takes
    seconds. Raises ModelError if this machine has no such device.
    """
    may_have_gpu = sys.platform != "linux" or any(map(os.path.exists, GPU_FILES))
    if device == "cpu" or (device == "auto" and (images < GPU_IMAGES or not may_have_gpu)):
        return "cpu"
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, there in available.items() if there), "cpu")
    if not available[device]:
        raise ModelError(f"this machine has no {device} device for torch; choose --device auto")
    return device


# --- Images -----------------------------------------------------------------------------------


def embed_images(
    embedder: Embedder,
    root: Path,
    paths: Sequence[str],
    workers: int | None = None,
    *,
    max_megapixels: int | None = None,
    for_few: int = 0,
    examine: Examine | None = None,
) -> Iterator[Batch]:
    """Yield the embeddings of root/path in batches, in the order of paths.

    Worker processes decode while the network runs: large JPEGs at a reduced scale, unless the
    embedder is exact. workers=None starts one for each core, or for_few of them for FEW_IMAGES; 0
    decodes in this process, see Decoder. max_megapixels: as of Task.megapixels. examine is called
    with each decoded image, where it is decoded. Images without a finite embedding are skipped.
    Raises ImageError if workers can't be started.
    """
    if workers is None:
        workers = for_few if len(paths) <= FEW_IMAGES else core_count()
    task = Task(
        root=root,
        preprocessing=embedder.preprocessing,
        least_side=least_side(embedder.preprocessing, embedder.exact),
        megapixels=max_megapixels,
        examine=examine,
    )
    ahead = embedder.streams + 1
    waiting: collections.deque[tuple[Batch, Future[np.ndarray]]] = collections.deque()

    def embedded() -> Batch:
        batch, embeddings = waiting.popleft()
        batch.set_embeddings(embeddings.result(), NOT_FINITE)
        return batch

    with (
        Decoder(task, embedder.batch_size, workers) as decoder,
        ThreadPoolExecutor(ahead) as network,
    ):
        for batch in decoder.batches(paths):
            waiting.append((batch, network.submit(embedder.embed, batch.pixels)))
            if len(waiting) >= 2 * ahead:
                yield embedded()
        while waiting:
            yield embedded()


def least_side(preprocessing: Preprocessing, exact: bool) -> int | None:
    """Return the least short side of a JPEG that is decoded at a reduced scale; None for whole."""
    return None if exact else SCALED_SIDE * preprocessing.resize


# --- Command line -----------------------------------------------------------------------------


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Add --model and --weights."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="any of torchvision's classifiers, such as resnet50, or timm/NAME: any model of timm "
        f"(default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--weights",
        default=PUBLISHED,
        metavar=f"{PUBLISHED}|{RANDOM}|FILE",
        help=f"{PUBLISHED}: published weights, downloaded once; {RANDOM}: an untrained network; "
        f"FILE: a state dict of the model, .pth or .safetensors (default: {PUBLISHED})",
    )


def add_embedding_options(parser: argparse.ArgumentParser, *other: str) -> None:
    """Add --device, --precision, --batch-size, --workers and --max-megapixels.

    other: precisions beside those that every embedder has.
    """
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help=f"auto: a GPU, if there is one and at least {GPU_IMAGES:,} images are to be embedded",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *HINTS, *other),
        default="auto",
        help="auto: float16 on a GPU, the fastest supported on a CPU; float32 matches torchvision; "
        "int8, of embed_and_load.py: faster on most CPUs, calibrated on the images; needs NNCF",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number(1, 4096),
        metavar="N",
        help=f"images per run of the network (default: {CPU_BATCH}; on a GPU {GPU_BATCH})",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(0, 1024),
        metavar="N",
        help="processes that decode images (default: one for each core)",
    )
    parser.add_argument(
        "--max-megapixels",
        type=whole_number(1, 100_000),
        metavar="N",
        help="the largest image to decode; a JPEG counts with the scale at which it is decoded "
        f"(default: what fits into a third of the memory, here {megapixels_that_fit():,})",
    )


def warn_if_random(model: Model) -> None:
    """Warn on stderr that an untrained network finds little more than similar colours."""
    if model.weights == RANDOM:
        warn(
            "--weights random is an untrained network, for trying the scripts without a download; "
            "its matches are weaker than a trained network's"
        )
