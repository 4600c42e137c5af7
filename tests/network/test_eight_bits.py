"""--precision int8: calibrated and checked on the folder's images, kept, and used by queries."""

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import cache_with, raising_at
from PIL import Image

import embed_and_load
import query_code
from similar_images.console import Console
from similar_images.loading.ranks import Ranks
from similar_images.milvus.collection import existing_collection
from similar_images.milvus.connection import connect, resolve_uri
from similar_images.network import eight_bits, network_cache, rounding
from similar_images.network.embedding import EmbeddingOptions, embed_images, make_embedder
from similar_images.network.find_network import find_network, torch_network
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork, Rounding

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="an environment variable moves the cache"
)
needs_nncf = pytest.mark.skipif(
    not importlib.util.find_spec("nncf"), reason="NNCF is not installed"
)
MODEL = ["--model", "resnet18", "--weights", "random"]
LOAD = ["--images", "images", *MODEL, "--precision", "int8"]
Fails = Callable[..., str]


@pytest.fixture(autouse=True)
def folder(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 images, of which 8 are checked; a cache of the network in float32 alone."""
    cache_with("resnet18", own_folder / "cache", monkeypatch)
    for module, name in ((rounding, "SAMPLE"), (eight_bits, "CALIBRATION"), (eight_bits, "LEAST")):
        monkeypatch.setattr(module, name, 8)
    rng = np.random.default_rng(0)
    Path("images").mkdir()
    for number in range(16):
        blocks = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        blocks.resize((256, 256), Image.Resampling.BICUBIC).save(f"images/{number:02}.png")


def collections() -> list[str]:
    with connect(resolve_uri(None)) as client:
        return [*client.milvus.list_collections()]


def recorded(key: str) -> str:
    with connect(resolve_uri(None), must_exist=True) as client:
        return existing_collection(client, "images").properties[key]


def found_network() -> ConvertedNetwork:
    network = find_network("resnet18", "random")
    assert isinstance(network, ConvertedNetwork)
    return network


def test_what_it_needs_is_said_in_one_line(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert re.search(r"needs NNCF \(.+\); run pip install nncf$", fails(embed_and_load.main, *LOAD))
    assert not collections(), "one was left by a load that was refused"
    assert "is for CPUs with OpenVINO;" in fails(embed_and_load.main, *LOAD, "--device", "mps")
    ranks, args = Ranks(), embed_and_load.parse_args([*LOAD, "--milvus-uri", "http://localhost:1"])
    ranks.count = 2
    with pytest.raises(ModelError, match="takes one process; run it without torchrun"):
        embed_and_load.checked_uri(args, ranks, Console(quiet=True))
    monkeypatch.setattr(embed_and_load, "find_network", torch_network)
    assert "is for CPUs with OpenVINO;" in fails(embed_and_load.main, *LOAD)


@needs_nncf
def test_a_network_in_8_bits_is_calibrated_kept_and_used_by_queries(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embed_and_load.main(LOAD) == 0
    out, err = capfd.readouterr()
    assert not re.sub(r"(images|files).*|warning: --weights random.*", "", err).strip()
    lines = [line.split()[0] for line in out.splitlines()]
    assert lines == ["Loading", "Calibrating", "16", "Loaded", "The"]
    said = re.search(r"in (int8 (\w{12}), cosine to float32 0.99\d+ on average)", out)
    assert said
    small = network_cache.in_eight_bits(found_network())
    assert small
    assert small.eight_bits == said[2]

    def matched(*options: str) -> str:
        assert query_code.main(["--no-near-duplicates", *options]) == 0
        report = Path("results/observations.md").read_text()
        assert f"- Precision of the collection: {said[1]}" in report
        (device,) = re.findall("^- Device: (.*)$", report, re.MULTILINE)
        return str(device)

    shutil.copytree("images", "query_set")
    monkeypatch.setitem(sys.modules, "nncf", None)  # not needed any more
    assert f", int8 {said[2]}, " in matched()
    assert ", float32, " in matched("--precision", "float32")
    paths = sorted(path.name for path in Path("images").iterdir())
    exact, ours = (
        np.concatenate([b.embeddings for b in embed_images(embedder, Path("images"), paths, 0)])
        for embedder in (
            make_embedder(found_network(), EmbeddingOptions(device="cpu", precision="float32"), 16),
            make_embedder(small, EmbeddingOptions(device="cpu"), 16),
        )
    )
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    cosines = (exact * ours).sum(1)
    assert 0.99 < cosines.mean() < 0.99999
    before = recorded("precision")
    with monkeypatch.context() as context:  # what the collection names needs no check
        context.setattr(rounding, "measure", raising_at(1, AssertionError("measured"), None))
        for number, options in enumerate(([], ["--precision", "int8"])):
            Image.new("RGB", (64, 64), (9, 99, 80 * number)).save(f"images/new{number}.png")
            capfd.readouterr()
            assert embed_and_load.main(["--images", "images", *MODEL, *options]) == 0
            assert re.search(rf"Loaded 1 image .*, in {said[1]}", capfd.readouterr().out)
    assert recorded("precision") == before
    shutil.copytree("images", "others")  # another folder: checked, but not calibrated again
    assert embed_and_load.main([*LOAD, "--images", "others", "--recreate"]) == 0
    out = capfd.readouterr().out
    assert "Calibrating" not in out
    assert f"in int8 {said[2]}, cosine" in out
    file = small.graph
    assert isinstance(file, Path)
    file.with_suffix(".bin").write_bytes(b"damaged")
    assert network_cache.in_eight_bits(found_network()) is None
    assert "int8" not in matched()


@needs_nncf
def test_a_network_that_8_bits_change_too_much_is_refused(
    fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept or calibrated anew; what is kept stays, as does the collection; or too few images."""
    right, wrong = Rounding(0.995, 0.99, 8), Rounding(0.9876, 0.9, 8)
    results = iter([right, wrong, wrong])
    monkeypatch.setattr(rounding, "measure", lambda *args: next(results))
    assert embed_and_load.main(LOAD) == 0
    kept = network_cache.in_eight_bits(found_network())
    assert kept
    shutil.copytree("images", "others")
    for path in Path("others").iterdir():  # other images, so that calibration differs
        Image.open(path).rotate(90).save(path)
    before = collections()
    error = fails(embed_and_load.main, *LOAD, "--images", "others", "--recreate")
    assert collections() == before
    assert error.endswith("0.9876, at least 0.99 is needed); choose --precision auto")
    assert next(results, None) is None
    assert network_cache.in_eight_bits(found_network()) == kept
    monkeypatch.setattr(rounding, "measure", lambda *args: wrong)
    assert embed_and_load.main(["--images", "others", *MODEL, "--recreate"]) == 0
    Image.new("RGB", (64, 64)).save("others/new.png")
    error = fails(embed_and_load.main, *LOAD, "--images", "others")
    assert error.endswith("int8 is checked on 8 images, and 1 are new; choose another --precision")
    for number in range(8):
        Image.new("RGB", (64, 64), (0, 9, number)).save(f"others/new{number}.png")
    fails(embed_and_load.main, *LOAD, "--images", "others")
    assert recorded("load") == "ended"
    for path in (Path("others/00.png"), *Path("others").glob("new*")):
        path.unlink()
    error = fails(embed_and_load.main, *LOAD, "--images", "others", "--recreate")
    assert error.endswith("checked on, and there are 7; choose another --precision")
