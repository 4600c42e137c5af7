"""timm_model.py: models of timm, compared with timm's own code; the download from the hub."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from helpers import PROJECT, exact_embedder, rows, run_script
from PIL import Image

import embed_and_load
import query_code
import split_images
from image_to_embedding import image_to_embedding
from similar_images.images.decoding import decode
from similar_images.images.image_files import Listing, iter_images
from similar_images.network import find_network as networks
from similar_images.network import network_cache
from similar_images.network.embedding import EmbeddingOptions, make_embedder
from similar_images.network.find_network import find_network, torch_network
from similar_images.network.model_description import ModelError
from similar_images.network.openvino_embedder import OpenVinoEmbedder
from similar_images.network.torch_embedder import TorchEmbedder
from similar_images.network.weights import random_state

Fails = Callable[..., str]
# Of timm's models for tests, those with a class token and with SigLIP's attention pooling.
TINY, TINY_SIGLIP = "test_vit.r160_in1k", "test_vit3.r160_in1k"
QUICK = [TINY_SIGLIP, "convnextv2_atto", "tf_efficientnet_lite0"]
LARGE = ["vit_small_patch14_dinov2", "vit_base_patch16_clip_224", "vit_base_patch16_siglip_224"]
LARGE += ["resnet18", "mobilenetv4_conv_small", "eva02_tiny_patch14_224"]
slow = pytest.mark.skipif("SLOW_TESTS" not in os.environ, reason="takes minutes; set SLOW_TESTS=1")


@pytest.fixture
def reductions(photos: Path) -> list[Image.Image]:
    return [decode(photos, image.path)[1] for image in iter_images(photos, Listing())]


def lively(name: str) -> torch.nn.Module:
    """A network of timm whose layers all do something: it starts with some scaled by almost 0."""
    network = timm.create_model(name, num_classes=0).eval()
    state = random_state(network)
    generator = torch.Generator().manual_seed(1)
    for key, tensor in state.items():
        if key.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    network.load_state_dict(state)
    return network


def timms_own(network: torch.nn.Module, reductions: list[Image.Image]) -> np.ndarray:
    """The embeddings by timm's transform and network, one image at a time."""
    data = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**data, is_training=False)
    with torch.inference_mode():
        vectors = [network(transform(image)[None])[0] for image in reductions]
        embeddings: np.ndarray = torch.nn.functional.normalize(torch.stack(vectors)).numpy()
        return embeddings


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=slow) for name in LARGE)], ids=str
)
def test_every_kind_of_model_embeds_as_timms_own(
    name: str, reductions: list[Image.Image], tmp_path: Path
) -> None:
    network = lively(name)
    expected = timms_own(network, reductions)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    kept = find_network(f"timm/{name}", str(file))
    assert expected.shape[1] == int(kept.model.dimension)
    for precision in ("float32", "bfloat16"):
        options = EmbeddingOptions(device="cpu", precision=precision, batch_size=4)
        embedder = make_embedder(kept, options, images=9)
        assert isinstance(embedder, OpenVinoEmbedder)
        pixels = np.stack([embedder.preprocessing(image) for image in reductions])
        got = np.concatenate([embedder.embed(pixels[i : i + 4]) for i in range(0, len(pixels), 4)])
        if precision == "float32":
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
        assert (got * expected).sum(axis=1).min() >= 0.999
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-3)


def test_random_weights_and_the_function_give_timms_embedding(photos: Path) -> None:
    name, image = f"timm/{TINY}", photos / "猫/三毛.webp"
    one, two = torch_network(name, "random"), torch_network(name, "random")
    assert one.model == two.model
    body = one.layers.get_submodule("body")
    expected = timms_own(body, [decode(image.parent, image.name)[1]])[0]
    vector = image_to_embedding(image, model=name, weights="random")
    np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)


def test_a_file_may_have_two_classifiers(tmp_path: Path) -> None:
    """Of a distilled model: neither is part of the embedding."""
    name, file = "deit_tiny_distilled_patch16_224", tmp_path / "weights.pth"
    state = timm.create_model(name).state_dict()
    assert {"head.weight", "head_dist.weight"} <= state.keys()
    torch.save(state, file)
    body = torch_network(f"timm/{name}", str(file)).layers.get_submodule("body").state_dict()
    assert body.keys() == {key for key in state if not key.startswith("head")}
    assert all(torch.equal(state[key], tensor) for key, tensor in body.items())


@pytest.mark.parametrize("crop_mode", ["squash", "border"])
def test_a_models_crop_mode_is_applied_and_described(
    crop_mode: str, reductions: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm has no small model with these, so one is given them."""
    resolve = timm.data.resolve_model_data_config
    changes = {"crop_mode": crop_mode, "interpolation": "bilinear", "mean": (0.5, 0.25, 0.75)}
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda m: {**resolve(m), **changes})
    network = torch_network(f"timm/{TINY}", "random")
    words = "mean (0.5, 0.25, 0.75) and deviation (0.5, 0.5, 0.5)"
    resize = {"squash": "resize both sides to", "border": "border #8040bf, resize the long side to"}
    assert network.model.preprocessing == (
        f"{resize[crop_mode]} 168 bilinear, centre crop 160, {words}"
    )
    embedder = make_embedder(network, EmbeddingOptions(device="cpu"), images=9)
    pixels = np.stack([embedder.preprocessing(image) for image in reductions])
    expected = timms_own(network.layers.get_submodule("body"), reductions)
    np.testing.assert_allclose(embedder.embed(pixels), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop_mode": "corner"}, "'corner' is none of center, squash, border"),
        ({"interpolation": "random"}, "'random' is none of bilinear, bicubic, lanczos"),
        ({"crop_pct": 1.5}, "160 of 106 pixels"),
        ({"input_size": (3, 160, 120)}, "120×160 pixels"),
        ({"input_size": (1, 160, 160)}, "1 channels"),
    ],
)
def test_unknown_preprocessing_is_refused(
    changes: dict[str, object], said: str, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = timm.data.resolve_model_data_config
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda m: {**resolve(m), **changes})
    Image.new("RGB", (9, 9)).save("x.png")
    line = fails(
        embed_and_load.main, "--images", ".", "--model", f"timm/{TINY_SIGLIP}", "--weights=random"
    )
    assert said in line


# --- Names ------------------------------------------------------------------------------------


def test_a_name_without_a_tag_means_the_first_of_timms() -> None:
    bare, tagged = (torch_network(f"timm/{name}", "random") for name in ("test_vit", TINY))
    assert bare.model == tagged.model
    assert bare.model.architecture == "timm/test_vit.r160_in1k"


def test_tags_with_other_preprocessing_are_other_models() -> None:
    one, two = (
        torch_network(f"timm/resnet18.{tag}", "random").model for tag in ("a1_in1k", "tv_in1k")
    )
    assert one.weights_sha256 == two.weights_sha256
    assert not one.same_vectors(two.properties())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm/resnet81", "--model timm/resnet"),
        ("timm/vit_small_patch14_dinov2.lvd412m", "--model timm/vit_small_patch14_dinov2.lvd142m"),
        ("timm/hf-hub:timm/resnet18.a1_in1k", "no model hf-hub:"),
        ("timm/local-dir:/tmp", "no model local-dir:"),
        ("timm/", "--model timm/"),
        ("timm/\x1b[2J", "\\u001b"),
        ("other/resnet18", "or timm/NAME"),
        ("vit_small_patch14_dinov2", "or timm/NAME"),
    ],
)
def test_a_name_that_is_none_is_answered_in_one_line(name: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        find_network(name, "random")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_without_timm_one_line_says_so_and_torchvisions_models_work(
    fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it fails
    Image.new("RGB", (9, 9)).save("x.png")
    options = ["--images", ".", "--weights", "random", "--model"]
    line = fails(embed_and_load.main, *options, "timm/test_resnet")
    assert line.endswith("; run pip install timm")
    assert not Path("milvus.db").exists()
    assert embed_and_load.main([*options, "mobilenet_v3_small"]) == 0


# --- Weights ----------------------------------------------------------------------------------


def test_a_file_of_either_kind_with_or_without_a_last_layer_is_the_same_model(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    state = timm.create_model(TINY).state_dict()
    torch.save(state, tmp_path / "whole.pth")
    safetensors.torch.save_file(state, tmp_path / "whole.safetensors")
    bare = {key: value for key, value in state.items() if not key.startswith("head.")}
    torch.save(bare, tmp_path / "bare.pth")
    safetensors.torch.save_file(bare, tmp_path / "BARE.SAFETENSORS")
    torch.save({**bare, "head.weight": torch.zeros(7, 64)}, tmp_path / "tuned.pth")
    found = [torch_network(f"timm/{TINY}", str(file)).model for file in tmp_path.iterdir()]
    assert len(found) == 5
    assert all(model.same_vectors(found[0].properties()) for model in found)
    assert {Path(model.weights).name for model in found} == set(os.listdir(tmp_path))


def test_weights_that_are_not_the_models_are_refused(tmp_path: Path) -> None:
    state = timm.create_model(TINY).state_dict()
    more = {**state, "body.extra": torch.zeros(1)}
    safetensors.torch.save_file(more, tmp_path / "more.safetensors")
    weight = state["norm.weight"]
    kinds = {"sparse": weight.to_sparse(), "meta": weight.to("meta"), "whole": weight.int()}
    for name, tensor in {**kinds, "complex": weight.to(torch.complex64)}.items():
        torch.save({**state, "norm.weight": tensor}, tmp_path / f"{name}.pth")
    torch.save(state, tmp_path / "in_truth_pth.safetensors")
    (tmp_path / "empty.safetensors").touch()
    names = [*os.listdir(tmp_path), "missing.safetensors"]
    assert len(names) == 8
    for name in names:
        with pytest.raises(ModelError) as caught:
            find_network(f"timm/{TINY}", str(tmp_path / name))
        assert len(str(caught.value).splitlines()) == 1
        assert name in str(caught.value)


# --- OpenVINO ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fails", "fixes the number of images", "is wrong"])
def test_what_openvino_can_not_convert_runs_in_torch(
    how: str,
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    openvino = networks.import_openvino()
    convert = openvino.convert_model

    def badly(layers: torch.nn.Module, example_input: torch.Tensor) -> object:
        if how == "fails":
            raise RuntimeError("no such operation\nand more")
        if how == "is wrong":
            example_input = example_input.roll(1)
            return convert(torch.nn.Sequential(Flipped(), layers), example_input=example_input)
        return convert(torch.nn.Sequential(Doubled(), layers), example_input=example_input)

    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "cache"))
    monkeypatch.setattr(openvino, "convert_model", badly)
    network = find_network(f"timm/{TINY}", "random")
    line = capsys.readouterr().err
    assert line.startswith(f"warning: OpenVINO can't convert timm/{TINY} (")
    assert len(line.splitlines()) == 1
    assert line.endswith("; torch runs it instead\n")
    embedder = make_embedder(network, EmbeddingOptions(device="cpu"), images=1)
    assert isinstance(embedder, TorchEmbedder)
    assert embedder.embed(np.zeros((1, 160, 160, 3), np.uint8)).shape == (1, 64)
    monkeypatch.setattr(openvino, "convert_model", convert)
    assert network_cache.find_by_weights(f"timm/{TINY}", "random") is None


class Flipped(torch.nn.Module):
    """A layer that shows the image in other colours."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 255 - pixels


class Doubled(torch.nn.Module):
    """A layer that traces to one for two images."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.reshape(2, 160, 160, 3)


# --- Whole runs -------------------------------------------------------------------------------

UNIMPORTED = """
import sys
import {script}
status = {script}.main(sys.argv[1:])
heavy = {{"torch", "torchvision", "timm", "safetensors", "openvino_telemetry"}}
print("LOADED", sorted(name for name in heavy if sys.modules.get(name)))
sys.exit(status)
"""


def run_unimported(script: str, *args: str) -> None:
    command = [sys.executable, "-c", UNIMPORTED.format(script=script), *args]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_a_load_is_resumed_and_queried_without_torch(own_folder: Path) -> None:
    assert split_images.main(["--sample", "--limit", "60"]) == 0
    model = ["--model", "timm/test_vit", "--weights", "random", "--workers", "0"]
    assert embed_and_load.main(model) == 0
    before = rows()
    assert len(next(iter(before.values()))["embedding"]) == 64  # type: ignore[arg-type]
    lost = own_folder / "database_set" / sorted(before)[0]
    lost.write_bytes((own_folder / "database_set" / sorted(before)[1]).read_bytes())
    run_unimported("embed_and_load", *model)
    after = rows()
    changed = [path for path in after if after[path] != before[path]]
    assert changed == [sorted(before)[0]]
    run_unimported("query_code", "--workers", "0")
    report = Path("results/observations.md").read_text().replace("\\", "")
    assert "timm/test_vit.r160_in1k, weights random" in report
    assert embed_and_load.main(["--weights", "random"]) == 1, "another model is refused"
    assert query_code.main([str(lost)]) == 0


class Hub(http.server.BaseHTTPRequestHandler):
    """A server in the hub's place with the files of one model; it counts what it sends."""

    files: dict[str, bytes]
    sent: list[str]

    def do_HEAD(self) -> None:
        content = self.files.get(self.path.rpartition("/resolve/main/")[2])
        self.send_response(200 if content is not None else 404)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.sent.append(self.path)
        self.wfile.write(self.files.get(self.path.rpartition("/resolve/main/")[2], b""))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(own_folder: Path) -> Iterator[tuple[dict[str, bytes], list[str], dict[str, str]]]:
    """Files to publish, the paths that were downloaded, and a script's environment."""
    handler = type("OwnHub", (Hub,), {"files": {}, "sent": []})
    Image.new("RGB", (9, 9), "teal").save("x.png")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(own_folder / "hf"),
            "XDG_CACHE_HOME": str(own_folder / "cache"),
        }
        yield handler.files, handler.sent, environment  # type: ignore[attr-defined]
        server.shutdown()


PUBLISHED = ["image_to_embedding.py", "--model", f"timm/{TINY}", "x.png"]


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_published_weights_are_downloaded_once(
    file: str,
    own_folder: Path,
    hub: tuple[dict[str, bytes], list[str], dict[str, str]],
) -> None:
    files, sent, environment = hub
    torch.manual_seed(0)
    state = timm.create_model(TINY).state_dict()
    torch.save(state, "same.pth")
    files[file] = (
        safetensors.torch.save(state)
        if file.endswith("safetensors")
        else Path("same.pth").read_bytes()
    )
    first = run_script(*PUBLISHED, cwd=own_folder, env=environment)
    assert first.returncode == 0, first.stderr
    vector = image_to_embedding("x.png", model=f"timm/{TINY}", weights="same.pth")
    np.testing.assert_allclose(json.loads(first.stdout), vector, atol=1e-6)
    assert sent == [f"/timm/{TINY}/resolve/main/{file}"]
    (about,) = (own_folder / "cache/similar-images").glob("*/about.json")
    model = json.loads(about.read_text())["model"]
    assert model["weights"] == "pretrained"
    same = find_network(f"timm/{TINY}", "same.pth").model
    assert same.same_vectors(model), "a file of these weights is the same model"
    if file == "model.safetensors":
        environment = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9", "XDG_CACHE_HOME": "new"}
        again = run_script(*PUBLISHED, cwd=own_folder, env=environment)
        assert (again.returncode, again.stdout) == (0, first.stdout), "the hub's cache has them"


@pytest.mark.parametrize("what", ["offline", "damaged", "lacking", "absent"])
def test_weights_that_can_not_be_downloaded_end_in_one_line(
    what: str,
    own_folder: Path,
    hub: tuple[dict[str, bytes], list[str], dict[str, str]],
) -> None:
    files, _, environment = hub
    if what == "damaged":
        files["model.safetensors"] = b"not this"
    elif what == "lacking":
        files["model.safetensors"] = safetensors.torch.save({"norm.weight": torch.zeros(64)})
    elif what == "offline":
        environment = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run_script(
        "embed_and_load.py", "--images", ".", *PUBLISHED[1:3], cwd=own_folder, env=environment
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    if what == "offline":
        assert len(done.stderr.splitlines()) == 1, "no retries, which take long"
    url = f"{environment['HF_ENDPOINT']}/timm/{TINY}/resolve/main/model.safetensors"
    assert f"download {url} by hand and give the file with --weights FILE" in errors[0]
    assert not (own_folder / "milvus.db").exists()


def test_a_model_without_published_weights_says_so() -> None:
    name = next(
        name for name in timm.list_models("resnet*") if not timm.list_models(name, pretrained=True)
    )
    with pytest.raises(ModelError, match=r"publishes no weights .*--weights FILE"):
        find_network(f"timm/{name}", "pretrained")


def test_the_kept_networks_of_both_sources_are_told_apart() -> None:
    """Each also has a resnet18."""
    theirs, timms = (find_network(name, "random").model for name in ("resnet18", "timm/resnet18"))
    assert not theirs.same_vectors(timms.properties())
    assert exact_embedder(name="timm/resnet18").preprocessing.interpolation == "bicubic"
    assert exact_embedder(name="resnet18").preprocessing.interpolation == "bilinear"
