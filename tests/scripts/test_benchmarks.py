"""The benchmarks: they run on any split, and their figures are of what they say."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers import wait_until
from PIL import Image

from benchmarks import (
    competitors,
    different_images,
    formats,
    judged_pairs,
    label_issues,
    measure,
    models,
    near_duplicates,
    photograph_parts,
    photographs,
    run,
    scale,
    upserts,
)
from similar_images.matching.label_issues import label_issues as find_label_issues

Fails = Callable[..., str]
PARTS = ("network", "pipeline", "agreement", "load", "query")
MODEL = ["--model", "mobilenet_v3_small", "--weights", "random"]


@pytest.fixture
def small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(competitors, "MATRICES", (128, 512))
    monkeypatch.setattr(competitors, "LEAST_SECONDS", 0.001)


def options_for(digits: Path, output: Path) -> list[str]:
    folders = ["--images", str(digits / "database_set"), "--queries", str(digits / "query_set")]
    return [*MODEL, *folders, "--output", str(output), "--count", "16"]


@pytest.mark.usefixtures("small_measurements")
def test_a_short_run_writes_its_tables_and_figures(
    digits: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*options_for(digits, own_folder), "--repetitions", "1", "--device", "cpu"]
    assert run.main(options) == 0
    printed = capsys.readouterr().out
    table = (own_folder / "results.md").read_text()
    assert printed.strip() == table.strip()
    results = json.loads((own_folder / "results.json").read_text())
    assert set(PARTS) <= set(results)
    assert all(name in table for part in PARTS for name in results[part])
    check_ways(results["network"] | results["pipeline"], "cpu")
    assert results["agreement"]["least cosine"] > 0.999
    assert results["agreement"]["database images"] == 180
    assert run.parse_args([]).agreement is None  # all images, however many there are
    assert "embed_and_load.py, 180 images: seconds" in results["load"]


@pytest.mark.usefixtures("small_measurements")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_compared_with_what_runs_on_it(digits: Path, own_folder: Path) -> None:
    options = [*options_for(digits, own_folder), "--repetitions", "1", "--device", "cuda"]
    assert run.main([*options, "--parts", "network", "pipeline"]) == 0
    results = json.loads((own_folder / "results.json").read_text())
    check_ways(results["network"] | results["pipeline"], "cuda")


def check_ways(figures: dict[str, object], device: str) -> None:
    """Check that all ways to embed give the same vectors, and where the competitors ran."""
    cosines = {k: v for k, v in figures.items() if k.endswith("least cosine to float32")}
    for way in ("similar_images, ", "torch, eager, float32", "homework: "):
        assert any(name.startswith(way) for name in cosines)
    for name, cosine in cosines.items():
        exact = "float32, cpu" in name or "homework" in name
        assert cosine > (1 - 1e-5 if exact else 0.999), name
    competitors = [name for name in figures if re.search("eager|matrix product", name)]
    assert len(competitors) >= 4
    assert all(f", {device}" in name for name in competitors)


def test_the_table_tells_medians_from_single_runs() -> None:
    rows = measure.table_of_figures({"rate": [1.5, 3.5, 2.5], "seconds": 62.0}).splitlines()
    assert rows[2:] == ["| rate | 2.5 | 1.5 | 3.5 | 3 |", "| seconds | 62 |  |  | 1 |"]


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_operations_are_those_of_the_model(model: str) -> None:
    weights = torchvision.models.get_model_weights(model).DEFAULT
    network = torchvision.models.get_model(model, weights=None).eval()
    counted = competitors.flop_per_image(network, torch.zeros(2, 3, 224, 224))
    published = 2e9 * weights.meta["_ops"]  # a multiplication and an addition each
    assert counted == pytest.approx(published, rel=0.01, abs=2e6)


def test_growth_is_measured_by_size(own_folder: Path) -> None:
    options = ["--sizes", "1000", "--indexes", "flat", "hnsw", "--output", str(own_folder)]
    assert scale.main(options) == 0
    figures = json.loads((own_folder / "scale.json").read_text())["figures"]
    one = figures["Milvus Lite, 1,000 rows"]
    assert one["flat: recall@1"] == 1
    assert one["hnsw: recall@10"] > 0.5
    assert one["upsert, µs a row"] > 0
    assert "Milvus Lite, 1,000 rows" in (own_folder / "scale.md").read_text()


def test_upserts_are_measured_one_at_a_time_on_milvus_lite(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upserts.main(["--total", "500", "--rows", "100", "256", "--repetitions", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "rows/s" in line]
    assert [line.split("|")[1].strip() for line in lines] == [
        f"{rows} rows in a request, 1 at a time: rows/s" for rows in (100, 256)
    ]
    assert all(float(line.split("|")[2].replace(",", "")) > 0 for line in lines)


@pytest.mark.parametrize("options", [[], ["--jpeg"]])
def test_changes_are_found(
    photos: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert near_duplicates.main([*options, str(photos)]) == 0
    lines = capsys.readouterr().out.splitlines()
    shares = {line.split("|")[1].strip(): line.split("|")[2] for line in lines if "%" in line}
    for name in ("mirrored", "rotated by 90°", "rotated by 180°", "rotated by 270°, mirrored"):
        assert float(shares[name].strip(" %")) > 50
    assert float(shares["a different image, falsely detected"].strip(" %")) == 0


def test_wrong_labels_are_found(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert label_issues.main(options_for(digits, Path())[:8]) == 0
    printed = capsys.readouterr().out
    assert "200 images matched with each other" in printed
    assert "20 images matched with 180 others" in printed
    assert len(re.findall("^\\| margin, [0-9]+ matches", printed, re.M)) == 8


def test_wrong_labels_among_clear_clusters_are_all_found() -> None:
    labels = np.repeat(["a", "b", "c"], 200)
    noise = np.random.default_rng(0).normal(0, 0.1, (600, 3))
    vectors = np.repeat(np.eye(3), 200, axis=0) + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images = label_issues.Images(vectors.astype(np.float32), labels)
    similarities, rows = label_issues.nearest(images, None)
    assert not (rows == np.arange(600)[:, None]).any(), "an image is no match of its own"
    given, wrong = label_issues.make_wrong(labels, seed=0)
    assert wrong.sum() == 6
    assert ((given != labels) == wrong).all()
    pairs = label_issues.pair_rows(similarities, rows, given, given)
    ranked = find_label_issues(pairs, least_margin=-1)
    figures = label_issues.measure(ranked, 6, wrong)
    assert figures[1:] == (1, 6, 1, 1)
    assert figures.firsts[0] == 6 / 50
    half = label_issues.measure(ranked[:3], 3, wrong)
    assert half.roc_area == pytest.approx(0.75), "what is not ranked ties at the end"
    assert (half.precision, half.recall) == (1, 0.5)
    assert np.isnan(half.firsts).all()


@pytest.fixture
def camera(own_folder: Path) -> Path:
    """A folder of four photographs, three of them large enough to be decoded scaled."""
    folder = own_folder / "camera"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, size in enumerate([(1200, 1040), (1040, 1200), (1300, 1100), (600, 520)]):
        few = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        few.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=88)
    return folder


def test_photographs_are_compared_with_the_reference_and_with_torch(
    camera: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--photographs", str(camera), *MODEL, "--output", str(own_folder)]
    parts = ["--repetitions", "1", "--parts", "rates", "exactness"]
    assert photographs.main([*options, *parts]) == 0
    table = (own_folder / "photographs.md").read_text()
    assert capsys.readouterr().out.strip() == table.strip()
    results = json.loads((own_folder / "photographs.json").read_text())
    assert "4 images (.jpg) of 0.3 to 1.4 megapixels" in table
    exactness = results["exactness"]
    assert all(name in table for name in results["rates"] | exactness)
    assert any(name.startswith("torch, DataLoader") for name in results["rates"])
    cosines = {name: x for name, x in exactness.items() if name.endswith("least cosine")}
    assert len(cosines) == 3
    assert all(0.999 < cosine < 1 + 1e-6 for cosine in cosines.values())
    assert cosines["scaled decode alone, float32: least cosine"] < 1 - 1e-9, "nothing was scaled"
    assert exactness["--precision float32: largest difference of a component"] < 1e-5


def test_whole_runs_with_photographs_are_timed(
    camera: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photograph_parts, "LARGE", (1600, 1200))
    monkeypatch.setattr(photograph_parts, "LARGE_COUNT", 3)
    options = ["--photographs", str(camera), *MODEL, "--output", str(own_folder)]
    assert photographs.main([*options, "--repetitions", "1", "--parts", "runs", "large"]) == 0
    results = json.loads((own_folder / "photographs.json").read_text())
    for part, count in (("runs", 2), ("large", 3)):
        assert f"query_code.py, {count} images: seconds" in results[part]
        load = results[part][f"embed_and_load.py, {count} images: seconds"][0]
        query = results[part][f"query_code.py, {count} images: seconds"][0]
        assert results[part]["query_code.py / embed_and_load.py"][0] == query / load


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_all_processes() -> None:
    lines = "import sys, subprocess; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    child = "x = bytearray(200 * 2**20); x[::4096] = b'1' * len(x[::4096]); input()"
    process = subprocess.Popen([sys.executable, "-c", lines, child], stdin=subprocess.PIPE)
    memory = measure.TreeMemory()
    try:
        wait_until(
            lambda: memory(process.pid) > 200, "it had memory", lambda: process.poll() is None
        )
    finally:
        process.communicate(b"\n")
    assert measure.TreeMemory()(process.pid) == 0
    assert memory(process.pid) > 200, "the peaks of processes that have ended count"
    assert len(memory.peaks) == 2


def test_formats_are_compared(
    camera: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--photographs", str(camera), "--count", "2", "--output", str(own_folder)]
    assert formats.main(options) == 0
    assert capsys.readouterr().out.strip() == (own_folder / "formats.md").read_text().strip()
    rows = json.loads((own_folder / "formats.json").read_text())["rows"]
    ways = {(row["format"], row["way"]): row for row in rows}
    assert {"jpg", "png", "webp", "tif"} <= {suffix for suffix, _ in ways}
    difference = "mean difference of pixels"
    assert 0 < ways["jpg", "scaled"][difference] < 3
    assert all(
        row[difference] == 0 and row["of whole"] == 1 for row in rows if row["way"] == "whole"
    )


def test_models_are_compared_with_the_default_one(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "RUN_SECONDS", 0)
    assert models.main(["mobilenet_v3_small", "--repetitions", "1"]) == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [line[0] for line in lines] == ["| `resnet18`", "| `mobilenet_v3_small`"]
    assert [line[1:4] for line in lines] == [["512", "11.2", "224"], ["1024", "1.5", "224"]]
    assert all(float(line[4].replace(",", "")) > 0 for line in lines)


@pytest.mark.parametrize(
    "module",
    [
        different_images,
        formats,
        judged_pairs,
        label_issues,
        models,
        near_duplicates,
        photographs,
        run,
        scale,
        upserts,
    ],
)
def test_help(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])  # type: ignore[attr-defined]
    assert ended.value.code == 0
    assert "Usage:\n  python -m benchmarks." in capsys.readouterr().out


def test_a_folder_without_images_ends_in_one_line(
    digits: Path, own_folder: Path, fails: Fails
) -> None:
    (own_folder / "empty").mkdir()
    for folder in ("nowhere", "empty"):
        assert folder in fails(near_duplicates.main, folder)
        assert folder in fails(different_images.main, folder)
        assert folder in fails(run.main, "--images", folder)
        assert folder in fails(label_issues.main, "--images", folder)
        assert folder in fails(formats.main, "--photographs", folder)
        assert folder in fails(photographs.main, "--photographs", folder, *MODEL)
    one_label = str(digits / "database_set" / "7")
    assert "two labels" in fails(label_issues.main, "--images", one_label)
    database = str(digits / "database_set")
    for module in (run, label_issues):
        assert "--queries" in fails(module.main, "--images", database, "--queries", "empty")
    assert "no such" in fails(run.main, *options_for(digits, own_folder)[2:], "--model", "no such")


def test_a_server_that_is_not_there_ends_in_one_line(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--sizes", "1000", "--milvus-uri", "http://localhost:1"]
    assert scale.main([*options, "--output", str(own_folder)]) == 1
    progress, error = capsys.readouterr().err.splitlines()
    assert progress.endswith(" fill 1000")
    assert error.startswith("error: no Milvus answers at http://localhost:1")
    assert not list(own_folder.iterdir())


def test_agreement_counts_what_differs() -> None:
    database = np.eye(512, dtype=np.float32)[:3]
    queries = np.array([0.8 * database[0] + 0.6 * database[1], database[2]], np.float32)
    worse = np.array([0.6 * database[0] + 0.8 * database[1], database[2]], np.float32)
    labels = (["a", "c"], ["a", "b", "c"])
    figures = measure.agreement((queries, database), (worse, database), labels)
    assert figures["equal nearest matches"] == 0.5
    assert np.isclose(figures["least cosine"], 0.96)
    assert np.isclose(figures["similarity lost, most"], 0.2)
    assert np.isclose(figures["similarity lost, mean"], 0.1)
    shares = (
        figures["share of equal labels, float32"],
        figures["share of equal labels, this precision"],
    )
    assert shares == (1, 0.5)
