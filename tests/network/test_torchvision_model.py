"""torchvision_model.py: any of torchvision's classifiers, compared with torchvision's own code."""

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers import exact_embedder
from PIL import Image

from similar_images.images.decoding import decode
from similar_images.images.image_files import Listing, iter_images
from similar_images.network import find_network as networks
from similar_images.network import network_cache, torchvision_model
from similar_images.network.embedding import EmbeddingOptions, make_embedder
from similar_images.network.find_network import find_network
from similar_images.network.model_description import ModelError
from similar_images.network.torchvision_model import load_network

# The untrained weights: collections of other machines must answer queries here.
RANDOM_SHA256 = "1ed140bb97b8dbed27430c125a97560647b2e8e93e187e7954d6bc6acc494f27"
slow = pytest.mark.skipif("SLOW_TESTS" not in os.environ, reason="takes minutes; set SLOW_TESTS=1")
LARGE = ("resnet50", "convnext_tiny", "vit_b_16", "efficientnet_v2_s", "swin_t")
MODELS = ["resnet18", "regnet_x_400mf", "mobilenet_v3_small"]
MODELS += [pytest.param(name, marks=slow) for name in LARGE]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet18 state dict of torchvision's making whose batch norms do something."""
    torch.manual_seed(3)
    network = torchvision.models.resnet18()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), file)
    return file


class Oracle:
    """torchvision's transforms and network, one image at a time; what enters its last layer."""

    def __init__(self, name: str, state: dict[str, torch.Tensor], **options: object) -> None:
        self.transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        self.network = torchvision.models.get_model(name, weights=None, **options).eval()
        self.network.load_state_dict(state, strict=False)
        linear = [m for m in self.network.modules() if isinstance(m, torch.nn.Linear)]
        linear[-1].register_forward_pre_hook(self._note)

    def _note(self, _: torch.nn.Module, entering: tuple[torch.Tensor]) -> None:
        self.entered = entering[0]

    def embedding(self, image: Image.Image) -> np.ndarray:
        with torch.inference_mode():
            self.network(self.transforms(image)[None])
            vector: np.ndarray = torch.nn.functional.normalize(self.entered.flatten(1))[0].numpy()
            return vector


@pytest.fixture
def reductions(photos: Path) -> list[Image.Image]:
    return [decode(photos, image.path)[1] for image in iter_images(photos, Listing())]


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_classifier_embeds_as_torchvisions_own(
    name: str, reductions: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(name, "random")
    monkeypatch.setattr(networks, "torch_network", lambda *_: network)  # not drawn again
    state = network.layers.get_submodule("body").state_dict()
    oracle = Oracle(name, state)
    expected = np.stack([oracle.embedding(image) for image in reductions])
    assert expected.shape[1] == int(network.model.dimension)
    kept = find_network(name, "random")
    assert kept.model == network.model
    embedder = make_embedder(
        kept, EmbeddingOptions(device="cpu", precision="float32", batch_size=4), images=9
    )
    pixels = np.stack([embedder.preprocessing(image) for image in reductions])
    got = np.concatenate([embedder.embed(pixels[i : i + 4]) for i in range(0, len(pixels), 4)])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


def test_float32_equals_torchvision_within_a_hundred_thousandth(
    weights: Path, reductions: list[Image.Image]
) -> None:
    state = torch.load(weights, weights_only=True)
    oracle = Oracle("resnet18", state)
    expected = np.stack([oracle.embedding(image) for image in reductions])
    embedder = exact_embedder(str(weights), "resnet18")
    pixels = np.stack([embedder.preprocessing(image) for image in reductions])
    np.testing.assert_allclose(embedder.embed(pixels), expected, rtol=0, atol=1e-5)
    single = [embedder.embed(one[None])[0] for one in pixels]
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5)
    network = load_network("resnet18", str(weights))
    plain = make_embedder(network, EmbeddingOptions(device="cpu"), images=9)
    np.testing.assert_allclose(plain.embed(pixels), expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_keeps_the_embedding(weights: Path, reductions: list[Image.Image]) -> None:
    exact = exact_embedder(str(weights), "resnet18")
    pixels = np.stack([exact.preprocessing(image) for image in reductions])
    network = load_network("resnet18", str(weights))
    fast = make_embedder(network, EmbeddingOptions(device="cuda"), images=9)
    cosines = (fast.embed(pixels) * exact.embed(pixels)).sum(axis=1)
    assert cosines.min() >= 0.9999


def test_random_weights_are_the_same_each_time_and_as_ever() -> None:
    one, two = load_network("resnet18", "random").model, load_network("resnet18", "random").model
    assert one == two
    assert one.weights_sha256 == RANDOM_SHA256


def test_models_that_differ_in_anything_that_counts_are_not_comparable() -> None:
    model = load_network("resnet18", "random").model
    properties = model.properties()
    assert model.same_vectors({**properties, "weights": "moved.pth"})
    for name in ("weights_sha256", "architecture", "preprocessing", "dimension"):
        assert not model.same_vectors({**properties, name: "another"})


def test_transform_input_is_part_of_the_model(
    reductions: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's GoogLeNet converts its input with the published weights, not with a file's.

    Each finds the other's converted network with equal values in the cache, and must not use it.
    """
    monkeypatch.setattr(network_cache, "cache_folder", lambda: tmp_path / "cache")
    file = tmp_path / "googlenet.pth"
    state = load_network("googlenet", "random").layers.get_submodule("body").state_dict()
    torch.save(state, file)
    monkeypatch.setattr(torchvision_model, "_published_state", lambda _: state)
    models = {}
    for weights in ("pretrained", str(file)):
        transformed = weights == "pretrained"
        oracle = Oracle("googlenet", state, init_weights=False, transform_input=transformed)
        expected = np.stack([oracle.embedding(image) for image in reductions[:3]])
        for _ in ("converted", "from the cache"):
            network = find_network("googlenet", weights)
            embedder = make_embedder(
                network, EmbeddingOptions(device="cpu", precision="float32", batch_size=3), images=3
            )
            pixels = np.stack([embedder.preprocessing(image) for image in reductions[:3]])
            np.testing.assert_allclose(embedder.embed(pixels), expected, rtol=0, atol=1e-4)
        models[weights] = network.model
    assert len({model.weights_sha256 for model in models.values()}) == 1
    for weights, model in models.items():
        for other in models:
            properties = models[other].properties()
            assert model.same_vectors(properties) == (weights == other)
            kept = network_cache.find_by_properties(properties)
            assert kept is not None
            assert kept.model == models[other]
    with pytest.raises(ModelError, match=r"other weights .*preprocessing: .*transform_input"):
        networks.network_of_collection(models["pretrained"].properties(), str(file))


def test_checkpoints_as_trainers_write_them_hold_the_same_model(
    weights: Path, tmp_path: Path
) -> None:
    state = torch.load(weights, weights_only=True)
    compiled = {f"module._orig_mod.{key}": value for key, value in state.items()}
    arguments = argparse.Namespace(lr=0.1, names=["a"])
    for number, checkpoint in enumerate(
        [
            {"epoch": 3, "state_dict": state, "optimizer": {"param_groups": [{"lr": 0.1}]}},
            {"state_dict": compiled},
            {f"_orig_mod.{key}": value for key, value in state.items()},
            {"model": {f"module.{key}": value for key, value in state.items()}, "args": arguments},
        ]
    ):
        file = tmp_path / f"{number}.pth"
        torch.save(checkpoint, file)
        model = load_network("resnet18", str(file)).model
        assert model.same_vectors(load_network("resnet18", str(weights)).model.properties())
    torch.save({"net": state}, file)
    with pytest.raises(ModelError, match=r"conv1.weight is missing.*; the file's first key is net"):
        load_network("resnet18", str(file))


def test_weights_that_are_not_the_models_are_refused(weights: Path, tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "pwned"),)  # type: ignore[return-value]

    state = torch.load(weights, weights_only=True)
    bad: dict[str, object] = {
        "larger": torchvision.models.resnet34().state_dict(),
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
            find_network("resnet18", str(tmp_path / name))
        assert len(str(caught.value).splitlines()) == 1
        assert name in str(caught.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "near"), [("resnet81", "resnet18"), ("vit_b16", "vit_b_16"), ("xyz", "resnet18")]
)
def test_a_name_that_is_none_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ModelError) as caught:
        find_network(name, "random")
    assert f"no classifier {name}" in str(caught.value)
    assert near in str(caught.value)


def test_a_classifier_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="ends in no linear layer"):
        load_network("squeezenet1_0", "random")
