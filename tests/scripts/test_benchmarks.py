"""The benchmarks: they run on any split, and their figures are of what they say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import PROJECT

from benchmarks import measure, run

PARTS = ("network", "pipeline", "agreement", "load", "query")


def benchmark(name: str, *options: object) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, options)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_short_run_writes_its_table_and_figures(
    digits: Path,
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measure, "MATRICES", (128, 512))
    options = ["--model", "mobilenet_v3_small", "--weights", "random", "--repetitions", "1"]
    options += ["--count", "16", "--agreement", "40"]
    options += ["--images", str(digits / "database_set"), "--queries", str(digits / "query_set")]
    assert run.main([*options, "--output", str(own_folder)]) == 0
    printed = capsys.readouterr().out
    table = (own_folder / "results.md").read_text()
    assert printed.strip() == table.strip()
    results = json.loads((own_folder / "results.json").read_text())
    assert set(PARTS) <= set(results)
    network = results["network"]
    cosines = [value for name, value in network.items() if name.endswith("least cosine to float32")]
    assert len(cosines) >= 1
    assert min(cosines) > 0.999
    assert all(name in table for part in PARTS for name in results[part])
    assert results["agreement"]["least cosine"] > 0.999
    assert "embed_and_load.py, 180 images: seconds" in results["load"]


def test_growth_is_measured_by_size(own_folder: Path) -> None:
    benchmark("scale", "--sizes", "1000", "--indexes", "flat", "hnsw", "--output", own_folder)
    figures = json.loads((own_folder / "scale.json").read_text())["figures"]
    one = figures["Milvus Lite, 1,000 rows"]
    assert one["flat: recall@1"] == 1
    assert one["hnsw: recall@10"] > 0.5
    assert one["upsert, µs a row"] > 0
    assert "Milvus Lite, 1,000 rows" in (own_folder / "scale.md").read_text()


def test_changes_are_found(photos: Path) -> None:
    lines = benchmark("near_duplicates", photos).splitlines()
    shares = {line.split("|")[1].strip(): line.split("|")[2] for line in lines if "%" in line}
    assert float(shares["mirrored"].strip(" %")) > 50
    assert float(shares["another picture (wrongly found)"].strip(" %")) == 0


def test_agreement_counts_what_differs() -> None:
    database = np.eye(512, dtype=np.float32)[:3]
    queries = np.array([0.8 * database[0] + 0.6 * database[1], database[2]], np.float32)
    worse = np.array([0.6 * database[0] + 0.8 * database[1], database[2]], np.float32)
    labels = (["a", "c"], ["a", "b", "c"])
    figures = measure.agreement((queries, database), (worse, database), labels)
    assert figures["equal nearest matches"] == 0.5
    assert np.isclose(figures["least cosine"], 0.96)
    assert np.isclose(figures["similarity given up, most"], 0.2)
    assert np.isclose(figures["similarity given up, mean"], 0.1)
    shares = (figures["share of equal labels, float32"], figures["share of equal labels, ours"])
    assert shares == (1, 0.5)
