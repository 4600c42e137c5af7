"""Turn an image into 512 numbers with a pretrained ResNet18: its embedding.

Usage:
  python image_to_embedding.py cat.png                        # 512 numbers as JSON
  python image_to_embedding.py cat.png dog.jpg                # one line each
  python image_to_embedding.py --weights random cat.png       # no download, no meaning

Reads:  images of any size and format that Pillow decodes
Writes: JSON to the terminal, or nothing: as a module it serves the other scripts

torch takes seconds to import, so it is imported where it is first needed.
"""

import argparse
import collections
import hashlib
import itertools
import json
import logging
import os
import shutil
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import image_files
from command_line import status_of, warn, whole_number
from image_files import Batch, DecodedImage, ImageError, Skipped, printable

if typing.TYPE_CHECKING:
    import torch

DIMENSION = 512
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
COMPILE_CHOICES = ("auto", "on", "off")
COMPILE_IMAGES = 10_000  # compiling takes about ten seconds and saves a millisecond an image
CPU_BATCH = 16  # images; their activations fit the caches: 16 was faster than 4, 8, 64 and 128
GPU_BATCH = 256
GPU_STREAMS = 2  # one batch is copied while the other is computed
INLINE_IMAGES = 64  # so many are decoded sooner than a worker process has started
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's channels, as the weights publish them
STD = (0.229, 0.224, 0.225)
RANDOM_SEED = 0
IMAGENET_FILE = "resnet18-f37072fd.pth"  # of ResNet18_Weights.IMAGENET1K_V1, in torch's cache
STAGES = {1: (64, 64), 2: (64, 128), 3: (128, 256), 4: (256, 512)}  # channels in, out


class ModelError(Exception):
    """A model that can't be had; the message says what to do."""


@dataclass(frozen=True)
class Model:
    """What makes the vectors: two collections with equal models hold comparable vectors.

    weights names a way to get them ('imagenet', 'random' or a file); the SHA-256 of their
    values says which they are.
    """

    weights: str
    weights_sha256: str
    architecture: str = "resnet18"
    layer: str = "global average pool, unit length"
    preprocessing: str = "resize 256 bilinear, centre crop 224, ImageNet mean and deviation"
    dimension: str = str(DIMENSION)

    def properties(self) -> dict[str, str]:
        """Return the model as text to keep beside the vectors."""
        return asdict(self)

    def same_vectors(self, properties: Mapping[str, str]) -> bool:
        """Return whether vectors made by the model of these properties compare with ours."""
        ours = self.properties()
        return all(properties.get(key) == ours[key] for key in ours if key != "weights")


# --- Weights ----------------------------------------------------------------------------------


def _conv_shapes() -> dict[str, tuple[int, int, int, int]]:
    """Return ResNet18's convolutions in order, name → shape (out, in, height, width)."""
    shapes = {"conv1": (64, 3, 7, 7)}
    for stage, (inputs, outputs) in STAGES.items():
        for block in range(2):
            name, entering = f"layer{stage}.{block}", inputs if block == 0 else outputs
            shapes[f"{name}.conv1"] = (outputs, entering, 3, 3)
            shapes[f"{name}.conv2"] = (outputs, outputs, 3, 3)
            if entering != outputs:
                shapes[f"{name}.downsample.0"] = (outputs, entering, 1, 1)
    return shapes


def _norm_name(conv: str) -> str:
    """Return the batch norm after a convolution: conv1 → bn1, downsample.0 → downsample.1."""
    return conv[:-1] + "1" if conv.endswith("downsample.0") else conv.replace("conv", "bn")


def _state_shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of a ResNet18 state dict that an embedding depends on, name → shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, shape in _conv_shapes().items():
        shapes[f"{conv}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{_norm_name(conv)}.{part}"] = shape[:1]
    return shapes


def load_weights(weights: str) -> dict[str, "torch.Tensor"]:
    """Return the float32 tensors of `weights` by name: 'imagenet', 'random' or a file's path.

    Raises ModelError if they can't be downloaded or aren't a ResNet18's.
    """
    if weights == "random":
        return _random_state()
    state = _imagenet_state() if weights == "imagenet" else _state_of_file(Path(weights))
    return _checked_state(state, weights)


def _imagenet_state() -> Mapping[str, object]:
    import torch

    file = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_FILE
    if file.exists():  # spares a query the import of torchvision
        return _state_of_file(file)
    from torchvision.models import ResNet18_Weights

    published = ResNet18_Weights.IMAGENET1K_V1
    try:
        state = published.get_state_dict(
            progress=sys.stderr.isatty(), check_hash=True, weights_only=True
        )
        return dict(state)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"{published.url} could not be downloaded ({error}); put it at {file} by hand, "
            "or choose --weights FILE or --weights random"
        ) from error


def _state_of_file(file: Path) -> Mapping[str, object]:
    import torch

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


def _checked_state(state: Mapping[str, object], source: str) -> dict[str, "torch.Tensor"]:
    """Return the tensors that an embedding depends on; ModelError if one is missing or wrong."""
    import torch

    tensors = {}
    for name, shape in _state_shapes().items():
        tensor = state.get(name)
        if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != shape:
            raise ModelError(
                f"{source} is not a ResNet18's weights ({name} is missing or of another shape); "
                "check --weights"
            )
        tensors[name] = tensor.float().contiguous()
        if not torch.isfinite(tensors[name]).all():
            raise ModelError(
                f"{source} is damaged ({name} holds values that are not numbers); get it again"
            )
    extra = [name for name in state if name.startswith("layer") and _is_unknown(name, tensors)]
    if extra:
        raise ModelError(
            f"{source} is not a ResNet18's weights (it has {printable(extra[0])}); check --weights"
        )
    return tensors


def _is_unknown(name: str, tensors: Mapping[str, object]) -> bool:
    return name not in tensors and not name.endswith("num_batches_tracked")


def _random_state() -> dict[str, "torch.Tensor"]:
    """Return an untrained ResNet18: He's initialisation (torchvision's) with a fixed seed.

    NumPy draws the numbers, since its generator gives the same ones on every machine.
    """
    import torch

    generator = np.random.default_rng(RANDOM_SEED)
    state = {}
    for name, shape in _state_shapes().items():
        if len(shape) == 4:
            deviation = np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
            values = generator.standard_normal(shape) * deviation
            state[name] = torch.from_numpy(values.astype(np.float32))
        else:
            ones = name.endswith(("running_var", "weight"))
            state[name] = torch.ones(shape) if ones else torch.zeros(shape)
    return state


def describe(weights: str, state: Mapping[str, "torch.Tensor"]) -> Model:
    """Return the model that `state` is, as loaded from `weights`."""
    digest = hashlib.sha256()
    for name in _state_shapes():
        digest.update(state[name].numpy().tobytes())
    known = weights in ("imagenet", "random")
    return Model(weights if known else str(Path(weights).resolve()), digest.hexdigest())


# --- The network ------------------------------------------------------------------------------


def fold_batch_norms(
    state: Mapping[str, "torch.Tensor"],
) -> dict[str, tuple["torch.Tensor", "torch.Tensor"]]:
    """Return convolution → (weight, bias) with the batch norm that follows it multiplied in."""
    folded = {}
    for conv in _conv_shapes():
        norm = _norm_name(conv)
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        weight = state[f"{conv}.weight"] * scale[:, None, None, None]
        folded[conv] = weight, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return folded


def build_network(
    state: Mapping[str, "torch.Tensor"], precision: "torch.dtype"
) -> "torch.nn.Module":
    """Return ResNet18 without its last layer: (N, 224, 224, 3) uint8 → (N, 512) of unit length.

    Source: He et al. 2015, arXiv:1512.03385, as in torchvision 0.29. It is built here because
    importing torchvision would double the time that a query of one image takes.
    """
    import torch
    from torch.nn.functional import conv2d, max_pool2d, normalize, relu

    def frozen(tensor: torch.Tensor) -> torch.nn.Parameter:
        return torch.nn.Parameter(tensor, requires_grad=False)

    class ResNet18(torch.nn.Module):
        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            for conv, (weight, bias) in fold_batch_norms(state).items():
                name = conv.replace(".", "_")
                weight = weight.to(precision, memory_format=torch.channels_last)
                self.register_parameter(name + "_weight", frozen(weight))
                self.register_parameter(name + "_bias", frozen(bias.to(precision)))
            self.register_buffer("mean", 255 * torch.tensor(MEAN).reshape(1, 3, 1, 1))
            self.register_buffer("std", 255 * torch.tensor(STD).reshape(1, 3, 1, 1))

        def conv(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
            weight = self.get_parameter(name + "_weight")
            bias = self.get_parameter(name + "_bias")
            return conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = ((pixels.permute(0, 3, 1, 2) - self.mean) / self.std).to(precision)
            x = max_pool2d(relu(self.conv(x, "conv1", 2)), 3, stride=2, padding=1)
            for stage in STAGES:
                for block in range(2):
                    name = f"layer{stage}_{block}"
                    stride = 2 if stage > 1 and block == 0 else 1
                    y = relu(self.conv(x, name + "_conv1", stride))
                    y = self.conv(y, name + "_conv2")
                    x = self.conv(x, name + "_downsample_0", stride) if stride == 2 else x
                    x = relu(x + y)
            return normalize(x.float().mean((2, 3)))

    return ResNet18().eval()


def choose_device(device: str) -> "torch.device":
    """Return the device to compute on; 'auto' takes CUDA, else MPS, else the processor."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next((name for name, there in available.items() if there), "cpu")
    elif not available.get(device, True):
        raise ModelError(f"this machine has no {device} device for torch; choose --device auto")
    if device == "cuda":  # each of torchrun's processes on a machine takes its own
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device(device, local_rank % torch.cuda.device_count())
    return torch.device(device)


def choose_precision(precision: str, device: "torch.device") -> str:
    """Return the precision to compute in; 'auto' takes the fastest that keeps float32's matches.

    On a GPU that is float16; on a processor bfloat16 if it multiplies bfloat16 in hardware,
    and float32 if not: emulated it would be slower.
    """
    import torch

    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "float16"
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def has_compiler() -> bool:
    """Return whether a C++ compiler that torch.compile can use is installed."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl"))


def core_count() -> int:
    """Return how many cores this process may use; torchrun's on a machine share them."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class Embedder:
    """A ResNet18 that is ready to embed: its weights, its device, its description.

    A stream is a thread that computes a batch by itself. On a processor there is one for each
    core: a core that decodes or upserts meanwhile then holds up one batch, not all of them.
    """

    def __init__(
        self, weights: str = "imagenet", device: str = "auto", precision: str = "auto"
    ) -> None:
        """Load the weights ('imagenet', 'random' or a file); ModelError if they can't be had."""
        import torch

        state = load_weights(weights)
        self.model = describe(weights, state)
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        network = build_network(state, getattr(torch, self.precision)).to(self.device)
        self.network: typing.Callable[..., torch.Tensor] = network
        self.on_cpu = self.device.type == "cpu"
        self.streams = core_count() if self.on_cpu else GPU_STREAMS
        self.batch_size = CPU_BATCH if self.on_cpu else GPU_BATCH
        self.to_compile = False
        self.must_compile = False
        self._compiled: typing.Callable[..., torch.Tensor] | None = None

    def prepare(self, images: int, batch_size: int | None = None, compile_: str = "auto") -> str:
        """Decide how to embed so many images; return the decision in words.

        Compiling ('auto', 'on', 'off') is worth it from COMPILE_IMAGES on.
        """
        self.batch_size = batch_size or self.batch_size
        worth = self.on_cpu and images >= COMPILE_IMAGES and has_compiler()
        self.must_compile = compile_ == "on"
        self.to_compile = self.must_compile or (compile_ == "auto" and worth)
        how = "compiled" if self.to_compile else "not compiled"
        cores = f" with {self.streams} threads" if self.on_cpu else ""
        return f"{self.device}{cores}, {self.precision}, {how}, batches of {self.batch_size}"

    def compile(self) -> None:
        """Compile the network for whole batches, if that was decided; others stay as they are.

        If the compiler fails, the network goes on as it is, with a warning; raises ModelError
        instead if compiling was asked for.
        """
        import torch

        if not self.to_compile or self._compiled is not None:
            return
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # on CUDA's absence
        compiled = torch.compile(self.network, options={"freezing": True})
        pixels = np.zeros((self.batch_size, image_files.CROP, image_files.CROP, 3), np.uint8)
        try:
            with torch.inference_mode():
                compiled(torch.from_numpy(pixels).to(self.device))
        except Exception as error:  # a compiler can fail in any way
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if self.must_compile:
                raise ModelError(f"torch.compile failed ({reason}); add --compile off") from error
            self.to_compile = False
            warn(f"going on without torch.compile, which failed: {reason}")
        else:
            self._compiled = compiled

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the embeddings of preprocessed images.

        pixels: (N, 224, 224, 3) uint8. Returns (N, 512) float32, unit length.
        """
        import torch

        if len(pixels) == 0:
            return np.empty((0, DIMENSION), np.float32)
        network = self.network
        if self._compiled is not None and len(pixels) == self.batch_size:
            network = self._compiled
        with torch.inference_mode():
            return network(torch.from_numpy(pixels).to(self.device)).cpu().numpy()


class EmbeddedBatch(typing.NamedTuple):
    """Images and their embeddings, (N, 512) float32, and the images that had none."""

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
    few = len(first) <= INLINE_IMAGES
    if workers is None:
        workers = 0 if few else core_count()
    streams = 1 if few else embedder.streams
    threads = core_count() if few else 1
    waiting: collections.deque[tuple[Batch, Future[np.ndarray]]] = collections.deque()
    with (
        image_files.Decoder(root, embedder.batch_size, workers, ahead=2 * streams + 2) as decoder,
        ThreadPoolExecutor(streams, initializer=use_threads, initargs=(threads,)) as network,
    ):

        def finish() -> EmbeddedBatch:
            batch, future = waiting.popleft()
            embeddings = future.result()
            decoder.release(batch)
            return EmbeddedBatch(batch.images, embeddings, batch.skipped)

        network.submit(embedder.compile).result()
        for batch in decoder.batches(itertools.chain(first, paths)):
            waiting.append((batch, network.submit(embedder.embed, batch.pixels)))
            if len(waiting) > 2 * streams:
                yield finish()
        while waiting:
            yield finish()


def use_threads(count: int) -> None:
    """Set how many threads torch computes with when this thread calls it."""
    import torch

    torch.set_num_threads(count)


# --- Command line -----------------------------------------------------------------------------


def add_weights_option(parser: argparse.ArgumentParser) -> None:
    """Add --weights."""
    parser.add_argument(
        "--weights",
        default="imagenet",
        metavar="imagenet|random|FILE",
        help="FILE is a ResNet18 state dict (default: imagenet)",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every script which embeds images has."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="auto: float16 on a GPU, bfloat16 on a processor that has it, else float32",
    )
    parser.add_argument(
        "--compile",
        choices=COMPILE_CHOICES,
        default="auto",
        help=f"auto: on a processor, from {COMPILE_IMAGES:,} images on, if there is a compiler",
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


def warn_if_random(model: Model) -> None:
    """Say on stderr that an untrained network finds little more than equal colours."""
    if model.weights == "random":
        warn(
            "--weights random is an untrained network, good for a trial without a download; its "
            "matches are weaker than a trained one's"
        )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    add_weights_option(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Print each image's embedding on a line of its own."""
    pixels = []
    for path in args.images:
        try:
            image = image_files.decode(path.parent, path.name)[1]
            pixels.append(np.array(image_files.preprocess(image)))
        except ImageError as error:
            raise ImageError(f"{path} can't be read ({error}); give a picture") from error
    embedder = Embedder(args.weights, args.device, "float32")
    warn_if_random(embedder.model)
    for one in pixels:
        print(json.dumps([float(f"{x:.9g}") for x in embedder.embed(one[None])[0]]))


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    expected = (ImageError, ModelError)
    return status_of(lambda: run(args), expected, interrupted="nothing was written")


if __name__ == "__main__":
    sys.exit(main())
