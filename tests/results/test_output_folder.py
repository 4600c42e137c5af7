"""output_folder.py: no work is done in vain, and no file is replaced but a run's own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import load
from PIL import Image

import query_code
from similar_images.results.output_folder import MARKS, WRITTEN_WITH

Fails = Callable[..., str]


def contents(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_what_a_run_did_not_write_stays_and_is_named_before_the_work(
    loaded: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [*MARKS, *WRITTEN_WITH]:
        for is_folder in (True, False):
            path = Path("mine", name, "inside.txt") if is_folder else Path("mine", name)
            path.parent.mkdir(parents=True)
            path.write_text("# Observations of mine")
            before = contents("mine")
            drawing = name == "named_comparison.png"
            query = str(next(Path("query_set").rglob("*.png")))
            options = ["--output", "mine", *([query] if drawing else [])]
            assert query_code.main(options) == 1
            captured = capsys.readouterr()
            assert f"error: {Path('mine', name)} was not written by this program" in captured.err
            assert "to embed" not in captured.out
            assert contents("mine") == before
            shutil.rmtree("mine")
    Path("file").write_text("")
    assert "can't write to file (Not a directory); check" in fails(
        query_code.main, "--output", "file"
    )
    assert not Path("results").exists()


def test_the_files_of_a_run_are_replaced_by_the_next(own_folder: Path) -> None:
    """With every list but leaks, beside another file, and after a run that has no list."""
    colours = {"red": (200, 9, 9), "blue": (9, 9, 200)}
    for label, colour in colours.items():
        Path("images", label).mkdir(parents=True)
        for number in range(6):
            image = Image.new("RGB", (120, 100 + number), colour)
            image.save(f"images/{label}/{number}.png")
    shutil.copy("images/red/0.png", "images/red/copy.png")
    shutil.copy("images/red/0.png", "images/blue/wrong.png")
    assert load("--images", "images") == 0
    Path("results").mkdir()
    Path("results/notes.md").write_text("of the user")
    options = ["--queries", "images", "--top-k", "5"]
    assert query_code.main(options) == 0
    names = {*MARKS, *WRITTEN_WITH} - {"named_comparison.png", "leaks.txt"}
    assert {path.name for path in Path("results").iterdir()} == {*names, "notes.md"}
    assert query_code.main([*options, "--seed", "1"]) == 0
    assert query_code.main(["images/red/0.png"]) == 0
    assert query_code.main(["images/red/0.png"]) == 0
    assert query_code.main([*options[:2], "--no-near-duplicates"]) == 0
    assert not Path("results/copies.txt").exists()
    assert Path("results/notes.md").read_text() == "of the user"
