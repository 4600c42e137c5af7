"""rounding.py: what a precision does to embeddings is measured on the images that are embedded."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import cache_with, raising_at
from PIL import Image

import embed_and_load
import query_code
from similar_images.milvus.collection import existing_collection
from similar_images.milvus.connection import connect, resolve_uri
from similar_images.network import network_cache, rounding
from similar_images.network.embedding import (
    Embedder,
    EmbeddingOptions,
    embed_images,
    make_embedder,
)
from similar_images.network.find_network import find_network, torch_network
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork, Rounding
from similar_images.network.rounding import measured_embedder

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="an environment variable moves the cache"
)
MODEL = "mobilenet_v3_small"
SAID = r"in \w+, cosine to float32 (0\.\d{5}|1\.00000) on average, (0\.\d{5}|1\.00000) at least"


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 JPEGs that are decoded at a reduced scale."""
    folder, rng = tmp_path_factory.mktemp("jpegs"), np.random.default_rng(0)
    for number in range(70):
        blocks = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        blocks.resize((1200, 900), Image.Resampling.BICUBIC).save(folder / f"{number:02}.jpg")
    return folder


@pytest.fixture
def folder(own_folder: Path, jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The JPEGs; a cache of the network alone, without what was measured."""
    cache_with(MODEL, own_folder / "cache", monkeypatch)
    return Path(shutil.copytree(jpegs, "images"))


def embeddings(embedder: Embedder, folder: Path, paths: list[str]) -> np.ndarray:
    return np.concatenate([batch.embeddings for batch in embed_images(embedder, folder, paths, 0)])


def network_with(weights: str) -> ConvertedNetwork:
    network = find_network(MODEL, weights)
    assert isinstance(network, ConvertedNetwork)
    return network


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_cosines_are_those_of_64_images_to_float32_and_whole_decoding(folder: Path) -> None:
    network = network_with("random")
    embedder = measured_embedder(network, EmbeddingOptions(device="cpu"), folder, names(folder))
    sample = rounding.spread(names(folder), 64)
    assert {*sample} >= {"00.jpg", "69.jpg"}
    assert len({*sample}) == 64
    exact = make_embedder(network, EmbeddingOptions(device="cpu", precision="float32"), 64)
    ours, true = (embeddings(one, folder, sample) for one in (embedder, exact))
    cosines = (ours * true).sum(1)
    noted = network_cache.measured(network)[embedder.machine]
    assert noted == pytest.approx((cosines.mean(), cosines.min(), 64), abs=1e-5)
    assert embedder.rounding == noted.words
    assert cosines.min() < 1 - 1e-7, "decoding alone moves them"


def test_cosines_stand_in_the_summary_the_collection_and_the_report(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--images", "images", "--weights", "random", "--model", MODEL, "--device", "cpu"]
    assert embed_and_load.main(command) == 0
    (loaded,) = re.findall("^Loaded 70 images .*$", capsys.readouterr().out, re.MULTILINE)
    found = re.search(SAID, loaded)
    assert found
    with connect(resolve_uri(None), must_exist=True) as client:
        properties = existing_collection(client, "images").properties
    assert properties["precision"] == found[0].removeprefix("in ")
    shutil.copytree("images", "queries")
    monkeypatch.setattr(rounding, "measure", raising_at(1, AssertionError("measured again"), None))
    assert query_code.main(["--queries", "queries", "--no-near-duplicates"]) == 0
    report = Path("results/observations.md").read_text()
    assert f"- Precision of the collection: {properties['precision']}\n" in report
    assert re.search(f"- Device: .*; {re.escape(found[0].split(', ', 1)[1])}\n", report)
    assert embed_and_load.main([*command, "--recreate", "--precision", "float32"]) == 0
    assert "images/s, in float32; 0 were" in capsys.readouterr().out


def test_few_images_are_measured_again_when_there_are_more(folder: Path) -> None:
    network, options = network_with("random"), EmbeddingOptions(device="cpu")
    (folder / "damaged.jpg").write_bytes(b"none")
    counts = []
    for paths in (["damaged.jpg"], ["00.jpg", "damaged.jpg"], names(folder)[:9], ["20.jpg"]):
        measured_embedder(network, options, folder, paths)
        counts.append([noted.images for noted in network_cache.measured(network).values()])
    assert counts == [[], [2], [9], [9]], "what can't be read is not tried again"


def test_impossible_cosines_are_not_taken_from_the_cache(folder: Path) -> None:
    network = network_with("random")
    assert isinstance(network.graph, Path)
    file = network.graph.parent / network_cache.MEASURED
    for noted in ("[0.999, NaN, 64]", "[NaN, 0.9, 64]", "[1e300, 1, 64]", "[1, 1, NaN]", "[1]"):
        file.write_text(f'{{"machine": {noted}}}')
        assert network_cache.measured(network) == {}, noted
    for damaged in ("[" * 100_000, f'{{"machine": [1{"0" * 400}]}}', "none"):
        file.write_text(damaged)
        file.with_name(network_cache.INT8_ABOUT).write_text(damaged)
        assert network_cache.measured(network) == {}
        assert network_cache.in_eight_bits(network) is None


def test_an_embedding_that_is_finite_only_in_float32_counts_as_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, options = network_with("random"), EmbeddingOptions(device="cpu")
    embedder = make_embedder(network, options, 4)

    def embed(pixels: np.ndarray, whole: Embedder = embedder) -> np.ndarray:
        return type(whole).embed(whole, pixels) * np.array([[np.nan]] + [[1]] * (len(pixels) - 1))

    monkeypatch.setattr(embedder, "embed", embed)
    found = rounding.measure(network, embedder, options, folder, names(folder)[:4])
    assert found.least == 0
    assert found.images == 4
    assert 0.7 < found.mean <= 0.75


def test_a_precision_that_rounds_too_much_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A large value that all features share and the next layer takes away: 8 bits lose the rest."""
    state = torch_network(MODEL, "random").layers.get_submodule("body").state_dict()
    drawn = torch.randn(576, generator=torch.Generator().manual_seed(0))
    state["features.12.1.bias"] = 1000 + drawn
    state["classifier.0.weight"] -= state["classifier.0.weight"].mean(1, keepdim=True)
    torch.save(state, "shifted.pth")
    paths, network = names(folder)[:4], network_with("shifted.pth")
    options = {name: EmbeddingOptions(device="cpu", precision=name) for name in ("auto", "float32")}
    exact = make_embedder(network, options["float32"], 4)
    fast = make_embedder(network, options["auto"], 4).precision
    if fast == "float32":
        pytest.skip("this CPU computes in float32 alone")
    for _ in ("measured", "noted"):
        capsys.readouterr()
        embedder = measured_embedder(network, options["auto"], folder, paths)
        said = capsys.readouterr().err
        assert re.fullmatch(rf"warning: {fast} changes this .*; float32 is used\n", said)
        expected = embeddings(exact, folder, paths)
        np.testing.assert_array_equal(embeddings(embedder, folder, paths), expected)
        with pytest.raises(ModelError, match=r"is needed\); choose --precision float32$"):
            measured_embedder(network, EmbeddingOptions(precision=fast), folder, paths)
        monkeypatch.setattr(rounding, "measure", raising_at(1, AssertionError(), Rounding))
