"""From pixels to vectors: OpenVINO on processors, torch on a GPU or where there is no OpenVINO.

OpenVINO and torch are imported where they are first needed.
"""

import argparse
import collections
import contextlib
import itertools
import os
import queue
import sys
import typing
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from similar_images.console import warn, whole_number
from similar_images.network.model_description import Model, ModelError
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.networks import import_openvino, torch_network
from similar_images.pictures.decode_workers import Batch, Decoder
from similar_images.pictures.decoding import DecodedImage, Preprocessing
from similar_images.pictures.image_files import Skipped

if typing.TYPE_CHECKING:
    from similar_images.network.torchvision_model import Network

DEFAULT_MODEL = "resnet18"
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
CPU_BATCH = 16  # images: with 4 to 64 OpenVINO is within a tenth of its best
GPU_BATCH = 256
GPU_STREAMS = 2  # one batch is copied while the other is computed
GPU_IMAGES = 1000  # fewer are embedded on the processor before torch has found the GPU
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a container's: microseconds, of how many
INLINE_IMAGES = 64  # so many are decoded sooner than a worker process has started
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}  # OpenVINO's names


@dataclass(frozen=True)
class EmbeddingOptions:
    """How to embed, as the command line says it; None leaves the choice to the program."""

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None


class Embedder(typing.Protocol):
    """A network ready to embed; several threads may use it at once.

    streams: how many batches it computes at a time.
    """

    preprocessing: Preprocessing
    batch_size: int
    streams: int
    words: str

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the embeddings of preprocessed images.

        pixels: (N, crop, crop, 3) uint8, N <= batch_size. Returns (N, dimension) float32, unit
        length.
        """


# --- Embedders --------------------------------------------------------------------------------


def make_embedder(
    network: "ConvertedNetwork | Network", options: EmbeddingOptions, images: int
) -> Embedder:
    """Return the network on the device and in the precision for so many images."""
    device = choose_device(options.device, images)
    if device == "cpu" and isinstance(network, ConvertedNetwork):
        return OpenVinoEmbedder(network, options, images)
    if isinstance(network, ConvertedNetwork):
        network = torch_network(network.model.architecture, network.model.weights)
    return TorchEmbedder(network, device, options)


def choose_device(device: str, images: int) -> str:
    """Return the device to compute on; 'auto' takes CUDA, else MPS, else the processor.

    For few images it is the processor, before torch would be imported. Raises ModelError if
    this machine has no such device.
    """
    if device == "cpu" or (device == "auto" and (images < GPU_IMAGES or not _may_have_gpu())):
        return "cpu"
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, there in available.items() if there), "cpu")
    if not available[device]:
        raise ModelError(f"this machine has no {device} device for torch; choose --device auto")
    return device


def _may_have_gpu() -> bool:
    """Return whether it is worth to import torch and ask it."""
    signs = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # CUDA, CUDA in Windows's Linux, ROCm
    return sys.platform != "linux" or any(map(os.path.exists, signs))


def core_count() -> int:
    """Return how many cores this process may use; torchrun's on a machine share them.

    A container can see all of the machine's cores and be given the time of a few.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit: "max"
        quota, period = map(int, CPU_QUOTA.read_text().split())
        cores = min(cores, -(-quota // period))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class OpenVinoEmbedder:
    """A converted network on the processor, a copy of it for each core.

    A core that decodes or upserts meanwhile then holds up one batch, not all of them. OpenVINO
    can make the copies itself, at once (NUM_STREAMS): 2026.4 then gave a vision transformer's
    copy wrong weights in 7 of 40 processes. Made one after the other they are right.
    """

    def __init__(self, network: ConvertedNetwork, options: EmbeddingOptions, images: int) -> None:
        self.preprocessing = network.preprocessing
        self.batch_size = options.batch_size or max(1, min(CPU_BATCH, images))
        cores = core_count()
        self.streams = max(1, min(cores, -(-images // self.batch_size)))
        settings = {
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(cores // self.streams),
            "ENABLE_CPU_PINNING": "NO",  # each copy would pin itself to the same core
        }
        if options.precision != "auto":
            settings["INFERENCE_PRECISION_HINT"] = HINTS[options.precision]
        openvino = import_openvino()
        # Its bindings find NumPy at first use; two threads that do so at once wait for each other.
        np.array(openvino.Tensor(np.zeros(1, np.uint8)).data)
        core = openvino.Core()
        graph = network.graph
        graph = core.read_model(graph) if isinstance(graph, Path) else graph.clone()
        graph.reshape([self.batch_size, *self.preprocessing.shape])
        copies = [core.compile_model(graph, "CPU", settings) for _ in range(self.streams)]
        self._dimension = int(network.model.dimension)
        self._requests: queue.SimpleQueue[typing.Any] = queue.SimpleQueue()
        for copy in copies:
            self._requests.put(copy.create_infer_request())
        used = copies[0].get_property("INFERENCE_PRECISION_HINT").to_string()
        precision = next((name for name, hint in HINTS.items() if hint == used), used)
        threads = f"{cores} thread{'s' if cores > 1 else ''}"
        self.words = f"cpu with {threads}, OpenVINO, {precision}, batches of {self.batch_size}"

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the embeddings of preprocessed images; see Embedder."""
        count = len(pixels)
        if count == 0:
            return np.empty((0, self._dimension), np.float32)
        if count < self.batch_size:  # the network takes whole batches
            padded = np.zeros((self.batch_size, *self.preprocessing.shape), np.uint8)
            padded[:count] = pixels
            pixels = padded
        request = self._requests.get()
        try:
            request.infer([pixels], share_inputs=True)
            return np.array(request.get_output_tensor().data[:count])
        finally:
            self._requests.put(request)


class TorchEmbedder:
    """A network in torch, on a GPU in half precision, or on a processor as it is."""

    def __init__(self, network: "Network", device: str, options: EmbeddingOptions) -> None:
        import torch

        self.preprocessing = network.preprocessing
        on_gpu = device != "cpu"
        self.batch_size = options.batch_size or (GPU_BATCH if on_gpu else CPU_BATCH)
        self.streams = GPU_STREAMS if on_gpu else 1
        precision = options.precision
        if precision == "auto":
            precision = "float16" if on_gpu else "float32"
        self._device = torch.device(device)
        if device == "cuda":  # each of torchrun's processes on a machine takes its own
            local_rank = int(os.environ.get("LOCAL_RANK", "0"))
            self._device = torch.device(device, local_rank % torch.cuda.device_count())
        self._layers = network.layers.to(self._device)
        body = self._layers.get_submodule("body")
        body.to(getattr(torch, precision)).to(memory_format=torch.channels_last)
        self.words = f"{self._device}, torch, {precision}, batches of {self.batch_size}"

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the embeddings of preprocessed images; see Embedder."""
        import torch

        with torch.inference_mode():
            on_device = torch.from_numpy(pixels).to(self._device)
            embeddings: np.ndarray = self._layers(on_device).cpu().numpy()
            return embeddings


# --- Images -----------------------------------------------------------------------------------


class EmbeddedBatch(typing.NamedTuple):
    """Images and their embeddings, (N, dimension) float32, and the images that had none."""

    images: list[DecodedImage]
    embeddings: np.ndarray
    skipped: list[Skipped]


def embed_images(
    embedder: Embedder, root: Path, paths: Iterable[str], workers: int | None = None
) -> Iterator[EmbeddedBatch]:
    """Yield the embeddings of root/path in batches, in the order of paths.

    Paths are taken as they are needed, a few batches ahead. Worker processes decode while the
    network runs. workers=None starts one for each core if there are images enough to be worth
    it; 0 decodes in this process. Unreadable images are skipped and named. Raises ImageError
    if a worker is killed.
    """
    paths = iter(paths)
    first = list(itertools.islice(paths, INLINE_IMAGES + 1))
    if workers is None:
        workers = 0 if len(first) <= INLINE_IMAGES else core_count()
    ahead = embedder.streams + 1
    waiting: collections.deque[tuple[Batch, Future[np.ndarray]]] = collections.deque()
    with (
        Decoder(
            root, embedder.preprocessing, embedder.batch_size, workers, ahead=2 * ahead
        ) as decoder,
        ThreadPoolExecutor(ahead) as network,
    ):

        def finish() -> EmbeddedBatch:
            batch, future = waiting.popleft()
            embeddings = future.result()
            decoder.release(batch)
            return EmbeddedBatch(batch.images, embeddings, batch.skipped)

        for batch in decoder.batches(itertools.chain(first, paths)):
            waiting.append((batch, network.submit(embedder.embed, batch.pixels)))
            if len(waiting) >= 2 * ahead:
                yield finish()
        while waiting:
            yield finish()


# --- Command line -----------------------------------------------------------------------------


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Add --model and --weights."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"any of torchvision's classifiers, such as resnet50 (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--weights",
        default="imagenet",
        metavar="imagenet|random|FILE",
        help="FILE is a state dict of that model (default: imagenet)",
    )


def add_embedding_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every script which embeds folders has."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="auto: float16 on a GPU, what is fastest on a processor; float32 is exact",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number(1, 4096),
        metavar="N",
        help=f"images the network takes at a time (default: {CPU_BATCH}; on a GPU {GPU_BATCH})",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(0, 1024),
        metavar="N",
        help="processes that decode images (default: one for each core)",
    )


def embedding_options(args: argparse.Namespace) -> EmbeddingOptions:
    """Return what add_embedding_options() has read."""
    return EmbeddingOptions(args.device, args.precision, args.batch_size, args.workers)


def warn_if_random(model: Model) -> None:
    """Say on stderr that an untrained network finds little more than equal colours."""
    if model.weights == "random":
        warn(
            "--weights random is an untrained network, good for a trial without a download; its "
            "matches are weaker than a trained one's"
        )
