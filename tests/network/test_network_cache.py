"""network_cache.py, find_network.py: a network is stored completely or not at all, and checked."""

import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers import DIMENSION, NAME, raising_at

from similar_images.network import find_network as networks
from similar_images.network import network_cache
from similar_images.network.embedding import EmbeddingOptions, make_embedder
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.torch_embedder import TorchEmbedder

SMALL = ["mobilenet_v3_small", "shufflenet_v2_x1_0", "shufflenet_v2_x0_5"]
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="an environment variable moves the cache"
)


@pytest.fixture
def cache(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "cache"))
    return own_folder / "cache/similar-images"


def kept() -> Path:
    network = networks.find_network(NAME, "random")
    assert isinstance(network, ConvertedNetwork)
    assert isinstance(network.graph, Path)
    return network.graph.parent


@linux
def test_a_network_is_named_by_its_model_and_kept_once(cache: Path) -> None:
    folder = kept()
    assert folder.parent == cache
    assert re.fullmatch(NAME + "-[0-9a-f]{64}", folder.name)
    assert sorted(os.listdir(folder)) == ["about.json", "network.bin", "network.xml"]
    assert os.listdir(cache) == [folder.name], "nothing half-made stays"
    before = (folder / "network.bin").stat().st_mtime_ns
    assert kept() == folder
    assert (folder / "network.bin").stat().st_mtime_ns == before


@linux
def test_a_network_that_another_process_has_kept_meanwhile_stays(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be reading it."""
    folder = kept()
    before = (folder / "network.bin").stat().st_ino
    monkeypatch.setattr(network_cache, "find_by_weights", lambda *_: None)  # it was not there yet
    assert kept() == folder
    assert (folder / "network.bin").stat().st_ino == before


@linux
@pytest.mark.parametrize("changed", ["format", "openvino", "torchvision"])
def test_what_another_version_converted_is_not_used(
    changed: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version
    others = {changed: "1.2.3"}
    with monkeypatch.context() as other:
        other.setattr(importlib.metadata, "version", lambda name: others.get(name) or version(name))
        if changed == "format":
            other.setattr(network_cache, "FORMAT", "0")
        folder = kept()
        properties = network_cache.find_by_weights(NAME, "random").model.properties()
    assert network_cache.find_by_weights(NAME, "random") is None
    assert network_cache.find_by_properties(properties) is None
    assert kept() == folder
    assert network_cache.find_by_properties(properties) is not None
    assert os.listdir(cache) == [folder.name]
    monkeypatch.setattr(importlib.metadata, "version", raising_at(1, ImportError(), version))
    assert network_cache.find_by_properties(properties) is None, "as where one is uninstalled"


@linux
def test_networks_used_least_recently_are_removed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a process that was killed has left; the one that was made last stays."""
    names = [network_cache._name(name, "random") for name in SMALL]
    for name in SMALL[:2]:
        networks.find_network(name, "random")
    (cache / ".partial-x").mkdir()
    (cache / ".partial-x/network.bin").write_bytes(bytes(100))
    for age, name in enumerate([names[1], names[0], ".partial-x"]):
        os.utime(cache / name, (10**9 - age, 10**9 - age))
    networks.find_network(SMALL[0], "random")  # used again
    size = sum(file.stat().st_size for file in cache.rglob("network.*"))
    monkeypatch.setattr(network_cache, "KEPT_BYTES", size)
    networks.find_network(SMALL[2], "random")
    assert set(os.listdir(cache)) == {names[0], names[2]}
    monkeypatch.setattr(network_cache, "KEPT_BYTES", 1)
    networks.find_network(SMALL[1], "random")
    assert os.listdir(cache) == [names[1]]


def damage(file: Path, how: str) -> None:
    if how == "lost":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content if how == "a bit" else content[: len(content) // 2])


@linux
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("network.bin", "a bit"),
        ("network.bin", "half"),
        ("network.xml", "lost"),
        ("about.json", "a bit"),
        ("about.json", "half"),
    ],
)
def test_a_damaged_network_is_made_again(
    name: str, how: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "cache").mkdir()
    (own_folder / "cache/similar-images").mkdir(mode=0o700)
    shutil.copytree(kept(), own_folder / "cache/similar-images" / kept().name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "cache"))
    folder = kept()
    assert own_folder in folder.parents
    pixels = np.full((1, 224, 224, 3), 77, np.uint8)
    options = EmbeddingOptions(device="cpu", precision="float32")
    expected = make_embedder(networks.find_network(NAME, "random"), options, 1).embed(pixels)
    damage(folder / name, how)
    network = networks.find_network(NAME, "random")
    np.testing.assert_allclose(make_embedder(network, options, 1).embed(pixels), expected)
    assert network_cache.find_by_weights(NAME, "random") is not None, "whole again"


@linux
def test_names_from_a_collection_lead_nowhere_else(cache: Path, own_folder: Path) -> None:
    for architecture in ("../../planted", "/etc", "", "."):
        folder = cache / network_cache._name(architecture, "random")
        assert folder.resolve().parent == cache.resolve()


@linux
def test_without_a_cache_folder_the_network_still_works(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "file"))
    network = networks.find_network(NAME, "random")
    embedder = make_embedder(network, EmbeddingOptions(device="cpu"), 1)
    assert embedder.embed(np.zeros((1, 224, 224, 3), np.uint8)).shape == (1, DIMENSION)


def test_without_openvino_torch_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((2, 224, 224, 3), 99, np.uint8)
    options = EmbeddingOptions(device="cpu", precision="float32")
    ours = make_embedder(networks.find_network(NAME, "random"), options, 2)
    monkeypatch.setattr(networks, "has_openvino", lambda: False)
    plain = make_embedder(networks.find_network(NAME, "random"), options, 2)
    assert isinstance(plain, TorchEmbedder)
    np.testing.assert_allclose(plain.embed(pixels), ours.embed(pixels), atol=1e-5)


@pytest.mark.parametrize("named", [True, False])
def test_a_gpu_does_not_embed_with_weights_that_have_changed(
    named: bool, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch reads them again for it, from where they were when the network was converted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    file = own_folder / "weights.pth"
    state = torchvision.models.get_model(NAME).state_dict()
    torch.save(state, file)
    properties = networks.find_network(NAME, str(file)).model.properties()
    first = next(key for key, value in state.items() if value.dim() == 4)
    torch.save({**state, first: 2 * state[first]}, file)
    network = networks.network_of_collection(properties, str(file) if named else None)
    assert isinstance(network, ConvertedNetwork)
    with pytest.raises(ModelError, match=r"other weights than \S*weights\.pth .* --recreate$"):
        make_embedder(network, EmbeddingOptions(device="cuda"), 5)
    torch.save(state, file)
    assert networks.torch_network_of(network.model).model == network.model


def test_weights_are_read_where_the_collection_says_that_they_are(own_folder: Path) -> None:
    """A network in the cache may have been converted from a file that has moved since."""
    first, moved = own_folder / "first.pth", own_folder / "moved.pth"
    torch.save(torchvision.models.get_model(NAME).state_dict(), first)
    model = networks.find_network(NAME, str(first)).model
    first.rename(moved)
    properties = {**model.properties(), "weights": str(moved)}
    network = networks.network_of_collection(properties, str(moved))
    assert isinstance(network, ConvertedNetwork)
    assert networks.torch_network_of(network.model).model.weights == str(moved)
