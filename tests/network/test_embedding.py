"""embedding.py, its embedders and image_to_embedding.py: devices, precisions, batch sizes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import NAME, PROJECT, exact_embedder, rows, run_script

import embed_and_load
import image_to_embedding as script
import query_code
from image_to_embedding import image_to_embedding
from similar_images.images import decode_workers
from similar_images.images.decoding import decode
from similar_images.images.image_files import ImageError, Listing, iter_images
from similar_images.network import embedding, openvino_embedder
from similar_images.network.embedding import (
    GPU_IMAGES,
    EmbeddingOptions,
    choose_device,
    embed_images,
    make_embedder,
)
from similar_images.network.find_network import find_network, torch_network
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.torch_embedder import TorchEmbedder, torch_device
from similar_images.network.torch_network import IMAGENET

Fails = Callable[..., str]


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_faster_precisions_keep_the_embedding(precision: str, digits: Path) -> None:
    root = digits / "database_set"
    paths = [image.path for image in iter_images(root, Listing())][:100]
    exact = embed_images(exact_embedder(name="resnet18"), root, paths, workers=0)
    expected = np.concatenate([batch.embeddings for batch in exact])
    options = EmbeddingOptions(device="cpu", precision=precision, batch_size=8)
    fast = make_embedder(find_network("resnet18", "random"), options, len(paths))
    batches = list(embed_images(fast, root, paths, workers=2))
    assert [image.path for batch in batches for image in batch.images] == paths
    got = np.concatenate([batch.embeddings for batch in batches])
    assert (got * expected).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("count", [1, 2, 5, 16, 17])
def test_any_number_of_images_is_embedded_alike(count: int, digits: Path) -> None:
    """Batches are padded, and the embeddings of the padding are left out."""
    root = digits / "database_set"
    paths = sorted(image.path for image in iter_images(root, Listing()))[:count]
    options = EmbeddingOptions(device="cpu", precision="float32")
    embedder = make_embedder(find_network("resnet18", "random"), options, count)
    got = np.concatenate([b.embeddings for b in embed_images(embedder, root, paths, 0)])
    single = make_embedder(find_network("resnet18", "random"), options, 1)
    expected = [next(embed_images(single, root, [path], 0)).embeddings[0] for path in paths]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert embedder.embed(np.empty((0, 224, 224, 3), np.uint8)).shape == (0, 512)


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1)],
)
def test_a_containers_limit_on_cores_is_respected(
    limit: str, cores: int, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(decode_workers, "CPU_QUOTA", own_folder / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert decode_workers.core_count() == cores


@pytest.mark.parametrize(("fit", "copies"), [(9, 5), (5, 5), (4, 3), (2, 2), (0, 1)])
def test_copies_of_a_network_that_memory_has_no_room_for_are_not_made(
    fit: int, copies: int, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several of the five cores share one then."""
    network = find_network("mobilenet_v3_small", "random")
    assert isinstance(network, ConvertedNetwork)
    weights = Path(str(network.graph)).with_suffix(".bin").stat().st_size
    room = fit * (weights + openvino_embedder.COPY_BYTES) / openvino_embedder.MEMORY_SHARE
    monkeypatch.setattr(openvino_embedder, "core_count", lambda: 5)
    monkeypatch.setattr(openvino_embedder, "memory_size", lambda: int(room) + 999)
    root = digits / "database_set"
    paths = [image.path for image in iter_images(root, Listing())][:24]
    options = EmbeddingOptions(device="cpu", precision="float32", batch_size=4)
    embedder = make_embedder(network, options, len(paths))
    assert embedder.streams == copies
    got = np.concatenate([batch.embeddings for batch in embed_images(embedder, root, paths, 0)])
    exact = embed_images(exact_embedder(), root, paths, workers=0)
    np.testing.assert_allclose(got, np.concatenate([b.embeddings for b in exact]), atol=1e-5)


def test_a_device_that_is_not_there_is_named() -> None:
    device = "mps" if torch.cuda.is_available() else "cuda"
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has both")
    with pytest.raises(ModelError, match=f"no {device} device"):
        make_embedder(find_network("resnet18", "random"), EmbeddingOptions(device=device), 5)


@pytest.mark.parametrize(
    ("device", "images", "gpus", "chosen"),
    [
        ("auto", GPU_IMAGES, ["cuda", "mps"], "cuda"),
        ("auto", GPU_IMAGES, ["mps"], "mps"),
        ("auto", GPU_IMAGES, [], "cpu"),
        ("auto", GPU_IMAGES - 1, ["cuda", "mps"], "cpu"),
        ("cuda", 1, ["cuda", "mps"], "cuda"),
        ("mps", 1, ["cuda", "mps"], "mps"),
        ("cpu", GPU_IMAGES, ["cuda", "mps"], "cpu"),
    ],
)
def test_auto_takes_a_gpu_that_is_there_for_many_images(
    device: str,
    images: int,
    gpus: list[str],
    chosen: str,
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "GPU_FILES", (str(own_folder),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in gpus)
    assert choose_device(device, images) == chosen


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file says whether there is a GPU")
def test_without_a_gpus_device_file_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "GPU_FILES", ("/dev/no-such-gpu",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("torch was asked"))
    assert choose_device("auto", GPU_IMAGES) == "cpu"


@pytest.mark.parametrize(("local_rank", "index"), [(None, 0), ("0", 0), ("1", 1), ("3", 1)])
def test_each_process_of_torchrun_gets_a_gpu(
    local_rank: str | None, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device("cuda") == torch.device("cuda", index)
    assert torch_device("mps") == torch.device("mps")


def test_float32_turns_tf32_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions on a GPU are computed in TF32 by default: float32 rounded to 10 bits."""
    for backend in (torch.backends.cudnn, torch.backends.cuda.matmul):
        monkeypatch.setattr(backend, "allow_tf32", True)  # put back at the end
    network = torch_network("resnet18", "random")
    TorchEmbedder(network, device="cpu", precision="float32", batch_size=1)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_precision_that_the_cpu_lacks_is_named(
    precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is reported is what runs: the vectors are those of the precision that it names."""
    network = find_network("resnet18", "random")
    asked = make_embedder(
        network, EmbeddingOptions(device="cpu", precision=precision, batch_size=1), 1
    )
    used = asked.words.split(", ")[2]
    warning = f"this CPU does not compute in {precision}; OpenVINO uses {used}\n"
    assert capsys.readouterr().err == ("" if used == precision else f"warning: {warning}")
    assert precision != "float32" or used == "float32"
    reported = make_embedder(
        network, EmbeddingOptions(device="cpu", precision=used, batch_size=1), 1
    )
    assert capsys.readouterr().err == ""
    pixels = np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    np.testing.assert_array_equal(asked.embed(pixels), reported.embed(pixels))


def test_the_function_gives_a_vector_of_unit_length(photos: Path) -> None:
    image = photos / "猫/三毛.webp"
    vector = image_to_embedding(image, weights="random")
    assert vector.shape == (512,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    options = EmbeddingOptions(device="cpu", precision="float32")
    embedder = make_embedder(find_network("resnet18", "random"), options, 1)
    (batch,) = embed_images(embedder, image.parent, [image.name])
    np.testing.assert_array_equal(vector, batch.embeddings[0])
    with pytest.raises(ImageError, match=r"^cannot read nowhere\.png: No such file"):
        image_to_embedding("nowhere.png", weights="random")


def test_the_script_prints_the_numbers(photos: Path, own_folder: Path) -> None:
    image = photos / "猫/三毛.webp"
    done = run_script("image_to_embedding.py", "--weights", "random", image, cwd=own_folder)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    np.testing.assert_allclose(numbers, image_to_embedding(image, weights="random"), atol=1e-6)


def test_an_unreadable_image_costs_no_other(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its line is null, so that each line belongs to an image."""
    image = str(photos / "猫/三毛.webp")
    assert script.main([image, "nowhere.png", image, "--weights", "random"]) == 1
    printed = capsys.readouterr()
    first, second, third = map(json.loads, printed.out.splitlines())
    assert (len(first), second) == (512, None)
    assert first == third
    assert "warning: cannot read nowhere.png: No such file" in printed.err
    assert printed.err.endswith("error: cannot read 1 of 3 images; null stands in their lines\n")


def test_its_mistakes_end_in_one_line(photos: Path, fails: Fails) -> None:
    image = photos / "sixteen.png"
    assert "nowhere.png" in fails(script.main, "nowhere.png", "--weights", "random")
    assert "nowhere.pth" in fails(script.main, image, "--weights", "nowhere.pth")
    assert "resnet18" in fails(script.main, image, "--model", "resnet19", "--weights", "random")


HEAVY = {"timm", "torch", "torchvision", "openvino", "cv2", "pymilvus", "sklearn", "pandas"}
HEAVY |= {"jinja2"}
# What reads networks in torch may import it, but not timm; other modules import none of these.
IN_TORCH = {
    f"similar_images.network.{name}"
    for name in ("torch_network", "weights", "torchvision_model", "timm_model")
}
MODULES = sorted(
    ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    for path in (PROJECT / "similar_images").rglob("[a-z]*.py")
)
SCRIPTS = ["split_images", "image_to_embedding", "embed_and_load", "query_code"]


@pytest.mark.parametrize("modules", [[name] for name in SCRIPTS] + [MODULES], ids=len)
def test_importing_a_module_imports_nothing_heavy(modules: list[str]) -> None:
    """Scripts don't import each other either."""
    others = {*HEAVY, *SCRIPTS} - {*modules}
    code = (
        "import sys, importlib\n"
        f"for name in {sorted(modules, key=IN_TORCH.__contains__)!r}:\n"
        "    importlib.import_module(name)\n"
        f"    print(name, *sorted({others!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    light = [name for name in modules if name not in IN_TORCH]
    assert done.stdout.splitlines()[: len(light)] == light
    assert "timm" not in done.stdout.split()


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_imports_nothing_heavy(name: str) -> None:
    code = (
        f"import sys, {name}\n"
        f"try: {name}.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert f"python {name}.py" in done.stdout
    assert done.stdout.endswith("LOADED []\n")


def test_a_worker_process_starts_with_little() -> None:
    code = "import sys, similar_images.images.decode_workers; print(len(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[0]) < 600


# Threads are switched at every step, so that both enter OpenVINO's bindings at once.
FIRST_USE = """
import sys, threading
import numpy as np
from similar_images.network.embedding import EmbeddingOptions, make_embedder
from similar_images.network.find_network import find_network

sys.setswitchinterval(1e-6)
options = EmbeddingOptions(device="cpu", precision="float32", batch_size=1)
embedder = make_embedder(find_network("resnet18", "random"), options, images=100)
pixels = np.zeros((1, *embedder.preprocessing.shape), np.uint8)
together = threading.Barrier(2)

def work():
    together.wait()
    embedder.embed(pixels)

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_first_two_batches_do_not_wait_for_each_other() -> None:
    """OpenVINO's bindings look up NumPy at first use, and deadlocked if two threads did so."""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", FIRST_USE], cwd=PROJECT, check=True, timeout=600)


def test_images_whose_embedding_is_not_finite_are_skipped_and_named(
    digits: Path, own_folder: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights so large that the embeddings of some images overflow float32, then all of them."""
    shutil.copytree(digits / "database_set/3", "images")
    paths = sorted(os.listdir("images"))
    network = torch_network(NAME, "random")
    body = network.layers.get_submodule("body")
    pixels = np.stack([network.preprocessing(decode(Path("images"), path).rgb) for path in paths])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values).reshape(3, 1, 1) * 255 for values in IMAGENET)
    state = body.state_dict()

    def enlarge(factor: float, name: str) -> None:
        last = {key: factor * state[key] for key in ("classifier.0.weight", "classifier.0.bias")}
        torch.save({**state, **last}, name)

    enlarge(1e9, "large.pth")
    large = torch_network(NAME, "large.pth").layers.get_submodule("body")
    with torch.inference_mode():
        lengths = large((x - mean) / std).flatten(1).norm(dim=1).numpy()
    middle, overflow = float(np.median(lengths)), float(np.finfo(np.float32).max) ** 0.5
    lost = {path for path, length in zip(paths, lengths, strict=True) if length > middle}
    enlarge(1e9 * overflow / middle, "some.pth")
    enlarge(1e12 * overflow / middle, "all.pth")
    options = ["--images", "images", "--model", NAME, "--precision", "float32"]
    assert embed_and_load.main([*options, "--weights", "some.pth"]) == 0
    assert set(rows()) == set(paths) - lost
    assert 0 < len(lost) < len(paths)
    out = capsys.readouterr().out
    assert out.count(": its embedding is not finite; choose --precision float32") == len(lost)
    assert query_code.main(["--queries", "images"]) == 0
    assert "nan" not in Path("results/pairings.txt").read_text()
    error = fails(embed_and_load.main, *options, "--weights", "all.pth", "--recreate")
    assert "no image was loaded; " in error
    assert ".png: its embedding is not finite; choose --precision float32 or check --w" in error
    assert set(rows()) == set(paths) - lost, "the former collection stays"
    error = fails(script.main, f"images/{paths[0]}", "--model", NAME, "--weights", "all.pth")
    assert f"the embedding of images/{paths[0]} is not finite; check --weights" in error
