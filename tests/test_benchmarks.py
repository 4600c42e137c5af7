"""The benchmarks: they run on any split, and their figures are of what they say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import PROJECT

from benchmarks.measure import agreement

PARTS = ("embedding", "preprocessing", "agreement", "search")


def test_a_short_run_writes_its_table_and_figures(digits: Path, own_folder: Path) -> None:
    options = {
        "--weights": ["random"],
        "--parts": PARTS,
        "--images": [str(digits / "database_set")],
        "--queries": [str(digits / "query_set")],
        "--repetitions": ["2"],
        "--count": ["16"],
        "--ways": ["not compiled"],
        "--agreement": ["40"],
        "--milvus-uri": [str(digits / "milvus.db")],
        "--output": [str(own_folder)],
    }
    command = [sys.executable, "-m", "benchmarks.run"]
    for option, values in options.items():
        command += [option, *values]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = (own_folder / "results.md").read_text()
    assert done.stdout.strip() == table.strip()
    results = json.loads((own_folder / "results.json").read_text())
    assert set(PARTS) <= set(results)
    for way in results["embedding"]["ways"]:
        assert len(way["rate"]["repetitions"]) == 2
        assert way["least_cosine"] > 0.999
        assert way["name"] in table
    assert results["preprocessing"]["most_grey_levels_apart"] <= 1
    assert results["agreement"]["queries"] == 20
    assert results["agreement"]["database"] == 40
    assert results["agreement"]["least_cosine"] > 0.999
    assert results["search"]["rows"] == 180
    assert results["search"]["equal"] == 1


def test_agreement_counts_what_differs() -> None:
    database = np.eye(512, dtype=np.float32)[:3]
    queries = np.array([0.8 * database[0] + 0.6 * database[1], database[2]], np.float32)
    worse = np.array([0.6 * database[0] + 0.8 * database[1], database[2]], np.float32)
    labels = (["a", "c"], ["a", "b", "c"])
    figures = agreement((queries, database), (worse, database), labels)
    assert figures["top1_agreement"] == 0.5
    assert np.isclose(figures["least_cosine"], 0.96)
    assert np.isclose(figures["given_up_most"], 0.2)
    assert np.isclose(figures["given_up_mean"], 0.1)
    assert (figures["label_share_reference"], figures["label_share"]) == (1, 0.5)
