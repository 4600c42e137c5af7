"""network_cache.py and networks.py: stored completely or not at all, checked, safe from others."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers import LOAD, PROJECT

import embed_and_load
import query_code
import split_images
from similar_images.network import find_network as networks
from similar_images.network import network_cache
from similar_images.network.embedding import EmbeddingOptions, make_embedder
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.torch_embedder import TorchEmbedder

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="an environment variable moves the cache"
)


@pytest.fixture
def cache(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "cache"))
    return own_folder / "cache/similar-images"


def kept() -> Path:
    network = networks.find_network("resnet18", "random")
    assert isinstance(network, ConvertedNetwork)
    assert isinstance(network.graph, Path)
    return network.graph.parent


@linux
def test_a_network_is_named_by_its_model_and_kept_once(cache: Path) -> None:
    folder = kept()
    assert folder.parent == cache
    assert re.fullmatch("resnet18-[0-9a-f]{64}", folder.name)
    assert sorted(os.listdir(folder)) == ["about.json", "network.bin", "network.xml"]
    assert sorted(os.listdir(cache)) == [folder.name, "weights"], "nothing half-made stays"
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
def test_what_a_killed_run_left_half_made_is_tidied_away_the_next_day(cache: Path) -> None:
    cache.mkdir(mode=0o700, parents=True)
    for name, hours in ((".partial-old", 25), (".partial-new", 1)):
        (cache / name / "resnet18").mkdir(parents=True)
        make_older(cache / name, hours)
    folder = kept()
    assert sorted(os.listdir(cache)) == [".partial-new", folder.name, "weights"]


def as_stored_by_the_first_version(cache: Path) -> Path:
    """Give the network in the cache the name that the first version gave it, without a key."""
    (folder,) = cache.glob("resnet18-*")
    model = json.loads((folder / "about.json").read_text())["model"]
    old = folder.rename(cache / f"resnet18-{model['weights_sha256']}")
    for note in (cache / "weights").iterdir():
        note.rename(cache / "weights" / ("0" * 64)).write_text(old.name)
    return old


def make_older(folder: Path, hours: int) -> None:
    made = time.time() - 3600 * hours
    os.utime(folder, (made, made))


@linux
def test_a_network_stored_by_the_first_version_is_ignored_and_removed(cache: Path) -> None:
    model = networks.find_network("resnet18", "random").model
    old = as_stored_by_the_first_version(cache)
    make_older(old, hours=25)
    for note in (cache / "weights").iterdir():  # even where the key is the same
        note.rename(cache / "weights" / network_cache._origin("resnet18", "random"))
    assert network_cache.find_by_properties(model.properties()) is None
    assert network_cache.find_by_weights("resnet18", "random") is None
    new = kept()
    assert sorted(os.listdir(cache)) == [new.name, "weights"]


@linux
@pytest.mark.parametrize("changed", ["format", "openvino", "torchvision"])
def test_what_another_version_converted_is_not_used(
    changed: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays for a day, for environments that are used alternately, and is then removed."""
    version = importlib.metadata.version
    others = {changed: "1.2.3"}
    with monkeypatch.context() as other:
        other.setattr(importlib.metadata, "version", lambda name: others.get(name) or version(name))
        if changed == "format":
            other.setattr(network_cache, "FORMAT", 1)
        old = kept()
        assert kept() == old
    new = kept()
    assert new != old
    assert kept() == new
    assert len(os.listdir(cache / "weights")) == 2
    make_older(old, hours=25)
    shutil.rmtree(new)
    assert kept() == new
    assert sorted(os.listdir(cache)) == [new.name, "weights"]
    assert len(os.listdir(cache / "weights")) == 1


def damage(file: Path, how: str) -> None:
    if how == "lost":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content if how == "a bit" else content[: len(content) // 2])


@linux
@pytest.mark.parametrize("name", ["network.bin", "network.xml", "about.json"])
@pytest.mark.parametrize("how", ["lost", "a bit", "half"])
def test_a_damaged_network_is_made_again(
    name: str, how: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "cache").mkdir()
    (own_folder / "cache/similar-images").mkdir(mode=0o700)
    for part in (kept().name, "weights"):
        source = network_cache.cache_folder() / part
        shutil.copytree(source, own_folder / "cache/similar-images" / part)
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "cache"))
    folder = kept()
    assert own_folder in folder.parents
    pixels = np.full((1, 224, 224, 3), 77, np.uint8)
    options = EmbeddingOptions(device="cpu", precision="float32")
    expected = make_embedder(networks.find_network("resnet18", "random"), options, 1).embed(pixels)
    damage(folder / name, how)
    network = networks.find_network("resnet18", "random")
    np.testing.assert_allclose(make_embedder(network, options, 1).embed(pixels), expected)
    assert network_cache.find_by_weights("resnet18", "random") is not None, "whole again"


@linux
def test_a_folder_that_others_can_write_to_is_not_trusted(cache: Path) -> None:
    folder = kept()
    for place in (folder, cache):
        place.chmod(0o777)
        assert network_cache.find_by_weights("resnet18", "random") is None
        place.chmod(0o700)
    assert network_cache.find_by_weights("resnet18", "random") is not None


@linux
def test_names_from_a_collection_lead_nowhere_else(cache: Path, own_folder: Path) -> None:
    folder = kept()
    shutil.copytree(folder, own_folder / "planted")
    about = json.loads((folder / "about.json").read_text())["model"]
    for architecture in ("../../planted", "/etc", "", "."):
        properties = {**about, "architecture": architecture}
        assert network_cache.find_by_properties(properties) is None
    assert network_cache.find_by_properties(about) is not None


@linux
def test_without_a_cache_folder_the_network_still_works(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "file"))
    network = networks.find_network("resnet18", "random")
    embedder = make_embedder(network, EmbeddingOptions(device="cpu"), 1)
    assert embedder.embed(np.zeros((1, 224, 224, 3), np.uint8)).shape == (1, 512)


def test_without_openvino_torch_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((2, 224, 224, 3), 99, np.uint8)
    options = EmbeddingOptions(device="cpu", precision="float32")
    ours = make_embedder(networks.find_network("resnet18", "random"), options, 2)
    monkeypatch.setattr(networks, "has_openvino", lambda: False)
    plain = make_embedder(networks.find_network("resnet18", "random"), options, 2)
    assert isinstance(plain, TorchEmbedder)
    np.testing.assert_allclose(plain.embed(pixels), ours.embed(pixels), atol=1e-5)


UNIMPORTED = """
import sys
import {script}
status = {script}.main(sys.argv[1:])
print("LOADED", sorted({{"torch", "torchvision", "openvino_telemetry"}} & set(sys.modules)))
sys.exit(status)
"""


@pytest.mark.parametrize("script", ["embed_and_load", "query_code"])
def test_once_it_is_kept_nothing_imports_torch(script: str, loaded: Path) -> None:
    args = LOAD if script == "embed_and_load" else []
    command = [sys.executable, "-c", UNIMPORTED.format(script=script), *args]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    known = ["LOADED []", "LOADED ['openvino_telemetry']"]  # the latter is its absence
    assert done.stdout.splitlines()[-1] in known
    if "telemetry" in done.stdout:
        assert "openvino_telemetry" not in done.stderr


def test_a_collection_of_another_model_is_queried_without_a_flag(own_folder: Path) -> None:
    assert split_images.main(["--sample", "--limit", "40"]) == 0
    assert embed_and_load.main(LOAD) == 0
    assert query_code.main(["--precision", "float32"]) == 0
    assert "mobilenet\\_v3\\_small" in Path("results/observations.md").read_text()
    assert embed_and_load.main(["--weights", "random"]) == 1, "another model is refused"


@pytest.mark.parametrize("named", [True, False])
def test_a_gpu_does_not_embed_with_weights_that_have_changed(
    named: bool, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch reads them again for it, from where they were when the network was converted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    file = own_folder / "weights.pth"
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, file)
    properties = networks.find_network("resnet18", str(file)).model.properties()
    torch.save({**state, "conv1.weight": 2 * state["conv1.weight"]}, file)
    network = networks.network_of_collection(properties, str(file) if named else None)
    assert isinstance(network, ConvertedNetwork)
    with pytest.raises(ModelError, match=r"weights\.pth are not those .* --recreate$"):
        make_embedder(network, EmbeddingOptions(device="cuda"), 5)
    torch.save(state, file)
    assert networks.torch_network_of(network.model).model == network.model


def test_weights_are_read_where_the_collection_says_that_they_are(own_folder: Path) -> None:
    """A network in the cache may have been converted from a file that has moved since."""
    first, moved = own_folder / "first.pth", own_folder / "moved.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), first)
    model = networks.find_network("resnet18", str(first)).model
    first.rename(moved)
    properties = {**model.properties(), "weights": str(moved)}
    network = networks.network_of_collection(properties, str(moved))
    assert isinstance(network, ConvertedNetwork)
    assert networks.torch_network_of(network.model).model.weights == str(moved)
