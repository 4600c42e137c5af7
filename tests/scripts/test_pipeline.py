"""embed_and_load.py and query_code.py, on Milvus Lite and on a server, against brute force."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import LOAD, MODEL, both_engines, brute_force, load, pairings, rows
from PIL import Image

import embed_and_load
import query_code
import split_images
from similar_images.milvus import lite
from similar_images.network import weights as network_weights

Fails = Callable[..., str]


@both_engines
@pytest.mark.parametrize("top_k", [1, 4])
def test_matches_equal_brute_force(top_k: int, loaded: Path) -> None:
    assert query_code.main(["--top-k", str(top_k), "--precision", "float32"]) == 0
    database, queries, similarities = brute_force(Path("database_set"), Path("query_set"))
    written = pairings()
    assert [row["query"] for row in written] == [q for q in queries for _ in range(top_k)]
    assert queries == sorted(queries)
    for number, row in enumerate(written):
        ours = similarities[number // top_k]
        rank = number % top_k + 1
        assert int(row["rank"]) == rank
        assert Path(row["match"]).is_file()
        assert float(row["similarity"]) == pytest.approx(np.sort(ours)[-rank], abs=2e-6)
        assert ours[database.index(row["match"])] == pytest.approx(np.sort(ours)[-rank], abs=2e-6)


def test_a_rerun_changes_nothing(loaded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows()
    capsys.readouterr()
    assert load() == 0
    assert "180 were already in the collection" in capsys.readouterr().out
    assert rows() == before


@both_engines
def test_only_new_and_changed_images_are_embedded_and_lost_ones_pruned(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows()
    first, second, third = sorted(before)[:3]
    Image.new("RGB", (50, 40), "red").save(Path("database_set", first))
    Path("database_set", second).unlink()
    Path("database_set", third).write_bytes(b"no image any more")
    Image.new("RGB", (9, 9), "blue").save("database_set/new one.png")
    capsys.readouterr()
    assert load() == 0
    out = capsys.readouterr().out
    assert "Loaded 2 images" in out
    assert "177 were already in the collection" in out
    assert f"{third}: not an image" in out
    after = rows()
    assert set(after) == {*before, "new one.png"}
    assert (after[first]["width"], after[first]["height"]) == (50, 40)
    unchanged = set(before) - {first}
    assert all(after[path] == before[path] for path in unchanged)
    assert load("--prune") == 0
    assert set(rows()) == set(after) - {second, third}


def test_many_rows_for_milvus_lite_are_warned_of(
    milvus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split_images.main(["--sample", "--limit", "200"]) == 0
    monkeypatch.setattr(lite, "MANY_ROWS", 180)
    assert load() == 0
    said = "180 rows are many for Milvus Lite"
    assert (said in capsys.readouterr().err) == (milvus == "./milvus.db")
    assert len(rows()) == 180


def test_workers_and_batches_do_not_change_what_is_loaded(loaded: Path) -> None:
    other = ["--milvus-uri", "other.db", "--workers", "2", "--batch-size", "7"]
    assert embed_and_load.main([*MODEL, *other]) == 0
    ours, theirs = rows(), rows("other.db")
    assert set(ours) == set(theirs)
    for path in ours:
        np.testing.assert_allclose(ours[path]["embedding"], theirs[path]["embedding"], atol=1e-6)


def test_another_model_is_refused_on_loading_and_on_querying(
    loaded: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows()
    with monkeypatch.context() as patch:
        patch.setattr(network_weights, "RANDOM_SEED", 1)
        patch.setenv("XDG_CACHE_HOME", str(loaded / "cache"))  # where no network is kept yet
        assert "other weights" in fails(embed_and_load.main, *LOAD)
        shutil.rmtree("cache")
        assert "other weights" in fails(query_code.main)
    assert rows() == before


def test_another_folder_is_refused_and_a_moved_one_taken(loaded: Path, fails: Fails) -> None:
    os.rename("database_set", "moved_set")
    assert "--moved" in fails(embed_and_load.main, *LOAD, "--images", "moved_set")
    before = rows()
    assert load("--images", "moved_set", "--moved") == 0
    assert rows() == before
    assert query_code.main([]) == 0
    assert pairings()[0]["match"].startswith("moved_set/")


def test_mistakes_end_in_one_line(loaded: Path, fails: Fails) -> None:
    Path("empty").mkdir()
    Path("file.txt").write_text("x")
    for folder in ("empty", "file.txt", "nowhere"):
        assert folder in fails(embed_and_load.main, *LOAD, "--images", folder)
        assert folder in fails(query_code.main, "--queries", folder)
    assert "nowhere.pth" in fails(embed_and_load.main, "--weights", "nowhere.pth")
    assert "milvus address" in fails(embed_and_load.main, "--milvus-uri", "nonsense").lower()
    assert "none.db" in fails(query_code.main, "--milvus-uri", "none.db")
    assert not Path("none.db").exists()
    assert 'no collection "other"' in fails(query_code.main, "--collection", "other")
    assert "--filter" in fails(query_code.main, "--filter", "file_size >")
    assert "file.txt" in fails(query_code.main, "file.txt")
    assert "127.0.0.1:9" in fails(query_code.main, "--milvus-uri", "http://me:secret@127.0.0.1:9")


@pytest.mark.parametrize(
    "args",
    [
        ["--top-k", "0"],
        ["--pairs", "0"],
        ["--pairs", "x"],
        ["--seed", "-1"],
        ["--workers", "-1"],
        ["--batch-size", "0"],
        ["--device", "abacus"],
        ["--collection", "a b"],
        ["cat.png", "--queries", "x"],
        ["--search-params", "ef"],
        ["--search-params", "ef=x"],
        ["--recall-sample", "-1"],
    ],
)
def test_wrong_usage_ends_with_status_2(args: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        query_code.main(args)
    assert stopped.value.code == 2


@both_engines
def test_photographs_of_all_kinds_are_loaded_and_found_again(
    photos: Path, milvus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "text.jpg").write_text("not an image")
    assert load("--images", photos) == 0
    out = capsys.readouterr().out
    assert "Loaded 9 images" in out
    assert "text.jpg: not an image" in out
    cat = Path(shutil.copy(photos / "猫/三毛.webp", "三毛.webp"))
    assert query_code.main([str(cat), "--top-k", "3", "--precision", "float32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert str(cat) in lines
    nearest = lines[lines.index(str(cat)) + 1].split()
    assert nearest == ["1", "1.0000", "photos/猫/三毛.webp", "(猫)"]
    assert Image.open("results/named_comparison.png").height > 200
    shutil.rmtree("results")
    assert query_code.main(["--queries", str(photos), "--filter", "width > 300"]) == 0
    wide = ("Straße/Käse.jpg", "deep/er/down/grey.tif", "deep/cmyk.jpg")
    assert {row["match"] for row in pairings()} <= {str(photos / name) for name in wide}
    assert len(pairings()) == 9


def test_a_flat_folder_has_no_labels(milvus: str) -> None:
    Path("flat").mkdir()
    for number in range(4):
        Image.new("RGB", (10, 10), (60 * number, 9, 200)).save(f"flat/{number}.png")
    assert load("--images", "flat") == 0
    shutil.copytree("flat", "copies")
    assert query_code.main(["--queries", "copies"]) == 0
    assert "No pair has two labels" in Path("results/observations.md").read_text()
    assert [row["match"] for row in pairings()] == [f"flat/{number}.png" for number in range(4)]


def test_results_are_the_same_for_the_same_seed(loaded: Path) -> None:
    for folder in ("one", "two"):
        assert query_code.main(["--output", folder, "--seed", "7"]) == 0
    assert query_code.main(["--output", "three", "--seed", "8"]) == 0
    images = [Path(name, "comparison.png").read_bytes() for name in ("one", "two", "three")]
    assert images[0] == images[1] != images[2]


def test_a_list_without_a_row_is_not_written_and_an_older_one_removed(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("database_set", "copies")
    assert query_code.main(["--queries", "copies"]) == 0
    with open("results/near_duplicates.txt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 180
    assert {row["change"] for row in rows} == {"the same pixels"}
    report = Path("results/observations.md").read_text()
    assert "For **180 of 180 queries**, the nearest match is the same image" in report
    assert "100.0% with them. Queries" in report
    assert {row["verdict"] for row in rows} == {"same"}
    listed = Path("results/copies.txt").read_text().splitlines()
    assert set(listed) <= {row["query"] for row in rows}, "the collection's own images are kept"
    assert len(listed) == 180
    assert Path("results/duplicate_groups.txt").exists()
    assert "Wrote pairings.txt, comparison.png, gallery.html, near" in capsys.readouterr().out
    assert query_code.main([]) == 0
    assert sorted(os.listdir("results")) == [
        *("comparison.png", "gallery.html", "observations.md", "pairings.txt")
    ]
    assert "found no near-duplicates\n" in capsys.readouterr().out
