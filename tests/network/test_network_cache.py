"""network_cache.py and networks.py: kept whole or not at all, checked, believed only if ours."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import LOAD, PROJECT

import embed_and_load
import query_code
import split_images
from similar_images.network import network_cache, networks
from similar_images.network.embedding import EmbeddingOptions, make_embedder
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.torch_embedder import TorchEmbedder

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="the cache folder is moved by a variable"
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
    model = json.loads((folder / "about.json").read_text())["model"]
    assert folder == cache / f"resnet18-{model['weights_sha256']}"
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
        made = time.time() - 3600 * hours
        os.utime(cache / name, (made, made))
    folder = kept()
    assert sorted(os.listdir(cache)) == [".partial-new", folder.name, "weights"]


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
    options = EmbeddingOptions("cpu", "float32")
    expected = make_embedder(networks.find_network("resnet18", "random"), options, 1).embed(pixels)
    damage(folder / name, how)
    network = networks.find_network("resnet18", "random")
    np.testing.assert_allclose(make_embedder(network, options, 1).embed(pixels), expected)
    assert network_cache.find_by_weights("resnet18", "random") is not None, "whole again"


@linux
def test_a_folder_that_others_can_write_to_is_not_believed(cache: Path) -> None:
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
def test_without_a_place_to_keep_it_the_network_works_all_the_same(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "file"))
    network = networks.find_network("resnet18", "random")
    embedder = make_embedder(network, EmbeddingOptions("cpu"), 1)
    assert embedder.embed(np.zeros((1, 224, 224, 3), np.uint8)).shape == (1, 512)


def test_without_openvino_torch_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((2, 224, 224, 3), 99, np.uint8)
    options = EmbeddingOptions("cpu", "float32")
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
