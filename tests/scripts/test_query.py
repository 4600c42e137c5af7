"""query_code.py: what it reports, writes and returns, on Milvus Lite and on a server."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import both_engines, load, pairings
from PIL import Image

import query_code
from similar_images.images import image_files

Fails = Callable[..., str]


def report() -> str:
    return Path("results/observations.md").read_text(encoding="utf-8")


@both_engines
def test_exact_copies_reach_the_highest_similarity(loaded: Path) -> None:
    shutil.copytree("database_set", "copies")
    options = ["--queries", "copies", "--precision", "float32", "--min-similarity", "1"]
    assert query_code.main(options) == 0
    found = [row for row in pairings() if row["query"][6:] == row["match"][12:]]
    assert len(found) == 180
    assert {row["similarity"] for row in found} == {"1.000000"}


@both_engines
def test_a_filtered_search_counts_the_rows_that_were_searched(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threes = len(list(Path("database_set/3").iterdir()))
    assert 0 < threes < 180
    capsys.readouterr()
    assert query_code.main(["--filter", 'path like "3/%"']) == 0
    assert "images that were loaded" not in capsys.readouterr().err, "no rows are missing"
    assert f"with a collection of {threes} images" in report()
    assert f"Collection: {threes} images" in Path("results/gallery.html").read_text()
    assert query_code.main([]) == 0
    assert "with a collection of 180 images" in report()
    capsys.readouterr()
    for wrong in ("path like", "widht > 3", "width > 'wide'"):
        assert query_code.main(["--filter", wrong]) == 1
        captured = capsys.readouterr()
        assert "check --filter" in captured.err
        assert "to embed" not in captured.out, "it is checked before the work"


def test_named_images_leave_the_files_of_a_folder_alone(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query_code.main([]) == 0
    before = {path.name: path.read_bytes() for path in Path("results").iterdir()}
    query = str(next(Path("query_set").rglob("*.png")))
    capsys.readouterr()
    assert query_code.main([query]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("open results/named_comparison.png")
    after = {path.name: path.read_bytes() for path in Path("results").iterdir()}
    assert Image.open("results/named_comparison.png").width > 0
    assert after.keys() - before.keys() == {"named_comparison.png"}
    assert before.items() <= after.items()


def test_an_unreadable_image_is_an_error_after_the_others_were_matched(
    loaded: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    query = str(next(Path("query_set").rglob("*.png")))
    Path("text.png").write_text("no image")
    assert query_code.main([query, "gone.png", "text.png", "query_set"]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert query in lines
    assert lines[lines.index(query) + 1].startswith("  1  ")
    assert Path("results/named_comparison.png").exists()
    skipped = [x for x in captured.err.splitlines() if not x.startswith("warning: ")]
    assert skipped[0].startswith("skipped gone.png: ")
    assert skipped[1].startswith("skipped text.png: ")
    assert skipped[2].startswith("skipped query_set: ")
    assert "--queries" in skipped[2]
    assert skipped[3].startswith("error: cannot read 3 of 4 images; ")
    assert len(skipped) == 4
    assert "gone.png" in fails(query_code.main, "gone.png")
    assert "--queries" in fails(query_code.main, "query_set")


def test_queries_that_are_left_out_or_cannot_be_read_are_counted(
    loaded: Path, fails: Fails, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = (image_files.readable_formats, image_files.image_suffixes)
    others = image_files.REFUSED_FORMATS | {"HEIF"}  # as without pillow-heif
    monkeypatch.setattr(image_files, "REFUSED_FORMATS", others)
    for function in functions:
        function.cache_clear()
    for number in range(3):
        Path(f"query_set/{number}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for name in ("broken.png", "also.png"):
        Path("query_set", name).write_bytes(b"broken")
    capsys.readouterr()
    assert query_code.main([]) == 0
    left_out = "3 .heic (pip install pillow-heif)"
    assert f"Left out: {left_out}\n" in capsys.readouterr().out
    assert "20 of 22 query images were matched" in report()
    assert "- Files left out: 3 .heic" in report()
    assert "pip install pillow-heif" in fails(query_code.main, "query_set/0.heic")
    shutil.copytree("query_set", "phone", ignore=shutil.ignore_patterns("*.png"))
    error = fails(query_code.main, "--queries", "phone")
    assert f"phone holds no images (left out: {left_out}); choose" in error
    for function in functions:
        function.cache_clear()


def test_pairs_that_could_not_be_compared_are_reported(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query_code.main(["--queries", "database_set"]) == 0
    assert "near-duplicates:" not in capsys.readouterr().err
    assert "Pairs whose pixels were compared: 180 of 180.\n" in report()
    assert "--collection-images" not in report()
    matches = sorted({row["match"] for row in pairings()})
    os.rename("database_set", "elsewhere")
    assert query_code.main(["--queries", "elsewhere"]) == 0
    warning = "180 of 180 pairs could not be checked for near-duplicates"
    assert warning in capsys.readouterr().err
    assert "Pairs whose pixels were compared: 0 of 180.\n" in report()
    assert "`--collection-images`" in report()
    assert "the nearest match is a near-duplicate" not in report()
    assert "180 pairs could not be compared" in Path("results/gallery.html").read_text()
    for lost in matches[:3]:
        Path(lost.replace("database_set", "elsewhere")).unlink()
    options = ["--collection-images", "elsewhere", "--queries"]
    assert query_code.main([*options, "query_set", "--top-k", "180"]) == 0
    assert "60 of 3,600 pairs could not be checked" in capsys.readouterr().err
    assert "Pairs whose pixels were compared: 3,540 of 3,600.\n" in report()


def test_matches_whose_files_changed_since_the_load_are_named_once(
    loaded: Path, milvus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert query_code.main(["--top-k", "180"]) == 0
    assert "changed" not in capsys.readouterr().err + report()
    replaced, other, gone, *_ = sorted(Path("database_set").rglob("*.png"))
    shutil.copy(other, replaced)
    gone.unlink()
    assert query_code.main(["--top-k", "180"]) == 0
    err = capsys.readouterr().err
    said = f"2 matched files changed or vanished since the load ({replaced}, {gone})"
    assert err.count(said) == 1
    assert "20 of 3,600 pairs could not be checked" in err
    assert "--collection-images" not in err + report()
    assert f"vanished since the load: 2 (`{replaced}`, `{gone}`)" in report()
    assert load("--prune") == 0
    assert query_code.main(["--top-k", "180"]) == 0
    assert "changed" not in capsys.readouterr().err + report()


def test_the_folder_of_the_collections_images_has_to_exist(loaded: Path, fails: Fails) -> None:
    error = fails(query_code.main, "--collection-images", "nowhere")
    assert "there is no folder nowhere; check --collection-images" in error
    os.rename("database_set", "moved")
    assert query_code.main(["--collection-images", "moved"]) == 0
    assert {row["match"].split("/")[0] for row in pairings()} == {"moved"}


def test_images_one_pixel_wide_or_high_are_matched(milvus: str) -> None:
    rng = np.random.default_rng(0)
    Path("narrow").mkdir()
    for width, height in [(1, 1), (1, 40), (40, 1), (1, 9000), (9000, 1), (2, 2)]:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"narrow/{width}x{height}.png")
    assert load("--images", "narrow") == 0
    shutil.copytree("narrow", "copies")
    assert query_code.main(["--queries", "copies", "--top-k", "3"]) == 0
    with open("results/near_duplicates.txt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    own = [row for row in rows if Path(row["query"]).name == Path(row["match"]).name]
    assert {row["query"] for row in own} == {str(path) for path in Path("copies").iterdir()}
    assert {row["change"] for row in own} == {"the same pixels"}


def test_an_image_of_the_first_of_many_named_images_says_so(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = [str(path) for path in sorted(Path("query_set").rglob("*.png"))[:4]]
    capsys.readouterr()
    assert query_code.main([*queries, "--pairs", "3"]) == 0
    assert "named_comparison.png shows the first 3 of 4 queries" in capsys.readouterr().out
    assert query_code.main([*queries, "--pairs", "4"]) == 0
    assert "named_comparison.png shows" not in capsys.readouterr().out


@both_engines
def test_a_run_without_a_match_has_results_without_a_pair(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They replace those of the run before."""
    query = str(next(Path("query_set").rglob("*.png")))
    assert query_code.main(["--top-k", "5"]) == query_code.main([query]) == 0
    for limit in (["--min-similarity", "1.05"], ["--filter", "width > 99999"]):
        capsys.readouterr()
        assert query_code.main([*limit, "--recall-sample", "3"]) == 0
        captured = capsys.readouterr()
        advice = "loosen --filter or --min-similarity"
        assert f"warning: no query has a match; {advice}\n" in captured.err
        assert ("Recall" in captured.out) == (limit[0] != "--filter"), "of nothing there is none"
        assert "comparison.png" not in captured.out
        assert pairings() == []
        assert not Path("results/comparison.png").exists()
        assert "0 of 20 query images were matched with a collection of" in report()
        assert "![" not in report()
        assert "0 pairs" in Path("results/gallery.html").read_text()
        assert query_code.main([query, *limit, "--json"]) == 0
        assert not Path("results/named_comparison.png").exists()
        assert capsys.readouterr().out == ""


def test_a_folder_of_one_image_has_no_other(
    milvus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("one").mkdir()
    Image.new("RGB", (40, 30), "red").save("one/one.png")
    assert load("--images", "one") == 0
    assert query_code.main(["--queries", "one"]) == 0
    errors = capsys.readouterr().err
    assert "no query has a match; the collection holds no other image\n" in errors
    assert pairings() == []
