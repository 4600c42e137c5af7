"""image_to_embedding.py held against plain torchvision: one image at a time, float32, eager."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT, run_script
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18

import image_to_embedding
from image_files import iter_images
from image_to_embedding import Embedder, ModelError, embed_images

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet18 state dict of torchvision's making whose batch norms do something."""
    torch.manual_seed(3)
    network = resnet18()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), file)
    return file


def torchvision_embedding(weights: Path, image: Path) -> np.ndarray:
    network = resnet18()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.fc = torch.nn.Identity()
    preprocess = ResNet18_Weights.IMAGENET1K_V1.transforms()
    with torch.inference_mode():
        pixels = preprocess(Image.open(image).convert("RGB"))
        return torch.nn.functional.normalize(network.eval()(pixels[None]))[0].numpy()


@pytest.fixture
def opaque_photos(photos: Path) -> Path:
    """Pictures for which Pillow's convert("RGB") is what a viewer shows."""
    (photos / "deep/alpha.png").unlink()
    (photos / "sixteen.png").unlink()
    return photos


def test_float32_equals_torchvision_one_by_one_and_in_a_batch(
    weights: Path, opaque_photos: Path
) -> None:
    embedder = Embedder(str(weights), device="cpu", precision="float32")
    paths = [image.path for image in iter_images(opaque_photos, [])]
    expected = np.stack([torchvision_embedding(weights, opaque_photos / path) for path in paths])
    (batch,) = embed_images(embedder, opaque_photos, paths)
    np.testing.assert_allclose(batch.embeddings, expected, rtol=0, atol=1e-5)
    single = [next(embed_images(embedder, opaque_photos, [path])).embeddings[0] for path in paths]
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("compile_", ["off", "on"])
def test_faster_ways_keep_the_embedding(compile_: str, weights: Path, digits: Path) -> None:
    if compile_ == "on" and not image_to_embedding.has_compiler():
        pytest.skip("needs a C++ compiler")
    root = digits / "database_set"
    paths = [image.path for image in iter_images(root, [])][:100]
    exact = Embedder(str(weights), device="cpu", precision="float32")
    expected = np.concatenate([batch.embeddings for batch in embed_images(exact, root, paths, 0)])
    fast = Embedder(str(weights), device="cpu", precision="bfloat16")
    fast.prepare(len(paths), batch_size=8, compile_=compile_)
    batches = list(embed_images(fast, root, paths, workers=2))
    assert [image.path for batch in batches for image in batch.images] == paths
    got = np.concatenate([batch.embeddings for batch in batches])
    cosines = (got * expected).sum(axis=1)
    assert cosines.min() >= 0.9999


def test_auto_takes_bfloat16_only_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for able, expected in (({"avx512_bf16": True}, "bfloat16"), ({"avx2": True}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert image_to_embedding.choose_precision("auto", cpu) == expected


def test_auto_compiles_only_long_runs_that_can() -> None:
    embedder = Embedder("random", device="cpu", precision="float32")
    assert "not compiled" in embedder.prepare(100)
    assert "not compiled" in embedder.prepare(10**6, compile_="off")
    assert "not compiled" not in embedder.prepare(100, compile_="on")
    long_run = embedder.prepare(10**6)
    assert ("not compiled" in long_run) != image_to_embedding.has_compiler()


BROKEN_COMPILER = """
import numpy as np
from image_to_embedding import Embedder, ModelError
embedder = Embedder("random", "cpu", "float32")
embedder.prepare(10**6)
embedder.compile()
pixels = np.zeros((embedder.batch_size, 224, 224, 3), np.uint8)
print(embedder.embed(pixels).shape)
embedder.prepare(10**6, compile_="on")
try:
    embedder.compile()
except ModelError as error:
    print("refused:", error)
"""


def test_a_broken_compiler_costs_speed_and_nothing_else(tmp_path: Path) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    env = {"CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", BROKEN_COMPILER]
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1, done.stderr
    assert "torch.compile" in warnings[0]
    embedded, refused = done.stdout.splitlines()
    assert embedded == "(16, 512)"
    assert refused.startswith("refused: torch.compile failed")
    assert refused.endswith("add --compile off")


def test_random_weights_are_the_same_each_time() -> None:
    one, two = Embedder("random"), Embedder("random")
    assert one.model == two.model
    assert one.model.same_vectors(two.model.properties())


def test_a_model_is_its_weights_values_and_not_their_file(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    copy, other = tmp_path / "copy.pth", tmp_path / "other.pth"
    torch.save({key: value for key, value in state.items() if not key.startswith("fc.")}, copy)
    state["conv1.weight"][0, 0, 0, 0] += 1e-3
    torch.save(state, other)
    model = Embedder(str(weights)).model
    assert Embedder(str(copy)).model.same_vectors(model.properties())
    assert not Embedder(str(other)).model.same_vectors(model.properties())


def test_weights_that_are_not_a_resnet18s_are_refused(weights: Path, tmp_path: Path) -> None:
    from torchvision.models import resnet34

    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "pwned"),)  # type: ignore[return-value]

    state = torch.load(weights, weights_only=True)
    bad: dict[str, object] = {
        "larger": resnet34().state_dict(),
        "tensor": torch.zeros(3),
        "exploit": Exploit(),
        "nan": {**state, "bn1.bias": torch.full((64,), float("nan"))},
        "lacking": {key: value for key, value in state.items() if key != "layer4.1.bn2.bias"},
    }
    for name, content in bad.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "truncated").write_bytes(weights.read_bytes()[:100_000])
    for name in (*bad, "truncated", "missing"):
        with pytest.raises(ModelError) as caught:
            Embedder(str(tmp_path / name))
        assert len(str(caught.value).splitlines()) == 1
        assert name in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_alone_it_prints_512_numbers(weights: Path, photos: Path, own_folder: Path) -> None:
    image = photos / "猫/三毛.webp"
    args = ["--weights", weights, image]
    done = run_script("image_to_embedding.py", *args, cwd=own_folder)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    assert len(numbers) == 512
    np.testing.assert_allclose(numbers, torchvision_embedding(weights, image), atol=1e-5)


def test_its_mistakes_end_in_one_line(photos: Path, fails: Fails) -> None:
    image = photos / "sixteen.png"
    main = image_to_embedding.main
    assert "nowhere.png" in fails(main, "nowhere.png", "--weights", "random")
    assert "nowhere.pth" in fails(main, image, "--weights", "nowhere.pth")


@pytest.mark.parametrize(
    "script", ["split_images", "image_to_embedding", "embed_and_load", "query_code"]
)
def test_help_does_not_import_torch(script: str) -> None:
    code = (
        f"import sys, {script}\n"
        f"try: {script}.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'pymilvus', 'sklearn'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert f"python {script}.py" in done.stdout
    assert done.stdout.endswith("LOADED []\n")
