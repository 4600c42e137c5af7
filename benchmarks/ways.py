"""Ways to embed the same images: ours, and those that it is compared with.

A way takes decoded, preprocessed images and returns embeddings; what it needs before, it does
in its factory, outside the time that is measured. Where a way includes more, its name says so.
"""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image

import image_files
import image_to_embedding
from image_to_embedding import MEAN, STD, Embedder

BATCH = 64  # of the ways that don't choose their own


@dataclass
class Images:
    """The same pictures in the forms that ways take.

    pixels: (N, 224, 224, 3) uint8; normalised: (N, 3, 224, 224) float32.
    """

    files: list[Path]
    pixels: np.ndarray
    normalised: torch.Tensor

    @classmethod
    def read(cls, root: Path, paths: Sequence[str]) -> "Images":
        """Decode root/path for each path."""
        pixels = np.stack([image_files.preprocess(image_files.decode(root, p)[1]) for p in paths])
        mean, std = (255 * np.array(values, np.float32) for values in (MEAN, STD))
        normalised = torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()
        return cls([root / path for path in paths], pixels, normalised)

    def first(self, count: int) -> "Images":
        """Return the first of them."""
        return Images(self.files[:count], self.pixels[:count], self.normalised[:count])


Embed = Callable[[Images], np.ndarray]


@dataclass
class Way:
    """A way to embed: make() returns the function that is timed.

    share is the part of the images that a repetition gives it: slow ways get fewer. needs names
    the modules that are not the project's own.
    """

    name: str
    precision: str
    make: Callable[[], Embed]
    share: float = 1
    needs: Sequence[str] = ()


# --- The homework's way -----------------------------------------------------------------------


def homework_embed(job: tuple[str, str]) -> np.ndarray:
    """Embed one image with a network built for it, as a pool's worker did in the homework."""
    weights, file = job
    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load(weights, weights_only=True))
    body = torch.nn.Sequential(*list(network.children())[:-1]).eval()
    transforms = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad(), Image.open(file) as image:
        return body(transforms(image.convert("RGB")).unsqueeze(0)).flatten().numpy()


def homework(weights: Path) -> Embed:
    """Return the homework's way: a pool whose workers build a network for each image."""
    pool = ProcessPoolExecutor(image_to_embedding.core_count(), get_context("spawn"))

    def embed(images: Images) -> np.ndarray:
        jobs = [(str(weights), str(file)) for file in images.files]
        return np.stack(list(pool.map(homework_embed, jobs)))

    return embed


# --- Other people's libraries -----------------------------------------------------------------


def _plain(weights: Path) -> torch.nn.Module:
    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.fc = torch.nn.Identity()
    return network.eval()


def _batched(run: Callable[[torch.Tensor], Any], batch: int = BATCH) -> Embed:
    """Return a way that gives `run` the normalised images a batch at a time."""

    def embed(images: Images) -> np.ndarray:
        with torch.inference_mode():
            parts = [run(part) for part in images.normalised.split(batch)]
        return np.concatenate([np.asarray(part, np.float32) for part in parts])

    return embed


def _img2vec(weights: Path) -> Embed:
    from img2vec_pytorch import Img2Vec  # it takes its weights from torch's cache alone

    with tempfile.TemporaryDirectory() as cache:
        hub = torch.hub.get_dir()
        checkpoints = Path(cache, "checkpoints")
        checkpoints.mkdir()
        os.symlink(weights.resolve(), checkpoints / image_to_embedding.IMAGENET_FILE)
        torch.hub.set_dir(cache)
        try:
            img2vec = Img2Vec(cuda=torch.cuda.is_available(), model="resnet18")
        finally:
            torch.hub.set_dir(hub)

    def embed(images: Images) -> np.ndarray:
        batches = range(0, len(images.files), BATCH)
        pictures = [Image.open(file).convert("RGB") for file in images.files]
        return np.concatenate([img2vec.get_vec(pictures[i : i + BATCH]) for i in batches])

    return embed


def _onnxruntime(weights: Path) -> Embed:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "resnet18.onnx")
        example = torch.zeros(BATCH, 3, 224, 224)
        torch.onnx.export(
            _plain(weights),
            (example,),
            str(file),
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return _batched(lambda part: session.run(None, {"x": part.numpy()})[0])


def _openvino(weights: Path, hint: str, calibration: torch.Tensor | None = None) -> Embed:
    import openvino

    model = openvino.convert_model(_plain(weights), example_input=torch.zeros(1, 3, 224, 224))
    if calibration is not None:
        import nncf

        data = nncf.Dataset([part.numpy() for part in calibration.split(16)])
        model = nncf.quantize(model, data, preset=nncf.QuantizationPreset.MIXED)
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}  # all cores
    request = openvino.compile_model(model, "CPU", options)
    return _batched(lambda part: request(part.numpy())[0])


def _ncnn(weights: Path, bfloat16: bool) -> Embed:
    import ncnn
    import pnnx

    net = ncnn.Net()
    net.opt.num_threads = image_to_embedding.core_count()
    net.opt.use_bf16_storage = bfloat16
    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder, "r"))
        pnnx.export(_plain(weights), name + ".pt", (torch.zeros(1, 3, 224, 224),))
        net.load_param(name + ".ncnn.param")
        net.load_model(name + ".ncnn.bin")

    def run(part: torch.Tensor) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(part[0].numpy()))
        return np.array(extractor.extract("out0")[1])[None]

    return _batched(run, 1)


# --- torch, one batch on all cores ------------------------------------------------------------


def _eager(weights: Path, device: torch.device, memory_format: torch.memory_format) -> Embed:
    network = _plain(weights).to(device).to(memory_format=memory_format)
    return _batched(lambda part: network(part.to(device, memory_format=memory_format)).cpu())


def _network(weights: Path, device: torch.device, precision: str) -> torch.nn.Module:
    state = image_to_embedding.load_weights(str(weights))
    return image_to_embedding.build_network(state, getattr(torch, precision)).to(device)


def _from_bytes(network: Callable[..., torch.Tensor], device: torch.device) -> Embed:
    def embed(images: Images) -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(images.pixels).split(BATCH)
            return torch.cat([network(part.to(device)).cpu() for part in pixels]).numpy()

    return embed


def _folded(weights: Path, device: torch.device, precision: str) -> Embed:
    return _from_bytes(_network(weights, device, precision), device)


def _compiled(weights: Path, device: torch.device, precision: str) -> Embed:
    network = _network(weights, device, precision)
    return _from_bytes(torch.compile(network, options={"freezing": True}), device)


def _traced(weights: Path, device: torch.device, precision: str) -> Embed:
    example = torch.zeros(BATCH, 224, 224, 3, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        network = torch.jit.trace(_network(weights, device, precision), example)
        return _from_bytes(torch.jit.freeze(network), device)


# --- Ours -------------------------------------------------------------------------------------


def ours(embedder: Embedder) -> Embed:
    """Return the network's part of embed_images: streams of batches, decoding left out."""

    use_threads = image_to_embedding.use_threads
    pool = ThreadPoolExecutor(embedder.streams, initializer=use_threads, initargs=(1,))
    pool.submit(embedder.compile).result()

    def embed(images: Images) -> np.ndarray:
        size = embedder.batch_size
        parts = [images.pixels[i : i + size] for i in range(0, len(images.pixels), size)]
        return np.concatenate(list(pool.map(embedder.embed, parts)))

    return embed


def _ours(weights: Path, device: torch.device, precision: str, compile_: str) -> Embed:
    embedder = Embedder(str(weights), str(device), precision)
    embedder.prepare(0, None, compile_)
    return ours(embedder)


def all_ways(
    weights: Path, device: torch.device, precision: str, calibration: torch.Tensor
) -> list[Way]:
    """Return the ways to compare; `precision` is the one that the device is best at.

    calibration: (N, 3, 224, 224) float32 normalised images for int8.
    """
    cpu = device.type == "cpu"
    last = torch.channels_last
    ways = [
        Way("homework: a network for each image", "float32", lambda: homework(weights), 1 / 16),
        Way(
            "img2vec-pytorch, its own preprocessing included",
            "float32",
            lambda: _img2vec(weights),
            1 / 2,
            ["img2vec_pytorch"],
        ),
        Way("eager", "float32", lambda: _eager(weights, device, torch.contiguous_format), 1 / 2),
        Way("eager, channels last", "float32", lambda: _eager(weights, device, last), 1 / 2),
    ]
    if cpu:
        onnx, vino, ncnn = ["onnxruntime", "onnx"], ["openvino"], ["ncnn", "pnnx"]
        ways += [
            Way("ONNX Runtime", "float32", lambda: _onnxruntime(weights), 1 / 2, onnx),
            Way("OpenVINO", "float32", lambda: _openvino(weights, "f32"), 1 / 2, vino),
            Way("OpenVINO", "bfloat16", lambda: _openvino(weights, "bf16"), 1 / 2, vino),
            Way(
                "OpenVINO, post-training",
                "int8",
                lambda: _openvino(weights, "f32", calibration),
                needs=[*vino, "nncf"],
            ),
            Way("ncnn", "float32", lambda: _ncnn(weights, False), 1 / 2, ncnn),
            Way("ncnn", "bfloat16", lambda: _ncnn(weights, True), 1 / 2, ncnn),
            Way("torch.compile, frozen", "float32", lambda: _compiled(weights, device, "float32")),
        ]
    if precision != "float32":
        ways += [
            Way(
                "eager, channels last, norms folded",
                precision,
                lambda: _folded(weights, device, precision),
            ),
            Way("traced, frozen", precision, lambda: _traced(weights, device, precision)),
            Way("torch.compile, frozen", precision, lambda: _compiled(weights, device, precision)),
        ]
    for kind in dict.fromkeys(("float32", precision)):
        for compile_, name in (("off", "ours, not compiled"), ("on", "ours, compiled")):
            if cpu or compile_ == "off":
                ways.append(Way(name, kind, partial(_ours, weights, device, kind, compile_)))
    return ways


def missing(way: Way) -> str | None:
    """Return the module that a way lacks here, if any."""
    return next((name for name in way.needs if importlib.util.find_spec(name) is None), None)
