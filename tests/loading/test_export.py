"""export.py: all rows of a collection, whatever the names, as other programs read them."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import both_engines, load, rows
from PIL import Image

import embed_and_load
from similar_images.milvus import collection
from similar_images.milvus.schema import COLUMNS

Fails = Callable[..., str]


@both_engines
def test_every_row_is_exported(milvus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends at each of these names, which a filter has to quote."""
    monkeypatch.setattr(collection, "READ_EMBEDDINGS", 1)
    names = ["a.png", "b ü.png"]
    if os.name == "posix":
        names += ['12" vinyl.png', "\\new.png", "\n\t'.png", "猫/\\u0022.png"]
    Path("images/猫").mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8 + number, 9), (40 * number, 9, 9)).save(Path("images", name))
    assert load("--images", "images") == 0
    for file in ("vectors.parquet", "vectors.npz"):
        for _ in range(2):  # the second replaces the first
            assert embed_and_load.main(["--export", file]) == 0
    stored = rows()
    assert sorted(names) == sorted(stored)
    with np.load("vectors.npz") as arrays:
        table = pd.read_parquet("vectors.parquet")
        assert list(table) == list(arrays) == list(COLUMNS)
        for found in (table, arrays):
            assert list(found["path"]) == sorted(names, key=str.encode)
            for name in COLUMNS[1:]:
                wanted = np.array([stored[path][name] for path in found["path"]])
                np.testing.assert_array_equal(np.stack(list(found[name])), wanted)
        assert arrays["embedding"].dtype == table["embedding"][0].dtype == np.float32
    assert not list(Path().glob(".*vectors*")), "nothing is left beside them"


@both_engines
def test_what_cannot_be_exported_is_one_line(loaded: Path, fails: Fails) -> None:
    assert "there is no folder nowhere;" in fails(embed_and_load.main, "--export", "nowhere/v.npz")
    assert "no collection" in fails(embed_and_load.main, "--export", "v.npz", "--collection", "b")
    Path("empty").mkdir()
    Path("empty/broken.png").write_text("no image")
    assert load("--images", "empty", "--collection", "c") == 0
    assert "no images" in fails(embed_and_load.main, "--export", "v.npz", "--collection", "c")
    for wrong in (["vectors.csv"], ["vectors.npz", "--recreate"]):
        with pytest.raises(SystemExit) as ended:
            embed_and_load.main(["--export", *wrong])
        assert ended.value.code == 2
    assert not list(Path().glob("v*"))
