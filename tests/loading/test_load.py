"""loading.py: what a load prunes and what it keeps; on Milvus Lite and on a server."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import LOAD, load, on_both_engines, rows

import embed_and_load

Fails = Callable[..., str]
milvus_uri = pytest.fixture(params=["lite", "server"], name="milvus")(on_both_engines)


def test_nothing_is_pruned_under_what_could_not_be_listed(
    loaded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows()
    scandir = os.scandir

    def refused(folder: Any) -> Any:
        if Path(folder).name == "3":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    shutil.rmtree("database_set/4")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        assert load("--prune") == 0
    kept = {path for path in before if not path.startswith("4/")}
    assert set(rows()) == kept
    out = capsys.readouterr().out
    locked = sum(path.startswith("3/") for path in before)
    assert f"{locked} rows of files that could not be looked at: kept" in out
    assert load("--prune") == 0
    assert set(rows()) == kept


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_nothing_is_pruned_under_a_link_that_leads_nowhere(loaded: Path) -> None:
    """As where a share is not mounted."""
    before = rows()
    os.rename("database_set/5", "share")
    os.symlink(loaded / "share", "database_set/5")
    assert load("--prune") == 0
    os.rename("share", "unmounted")
    assert load("--prune") == 0
    assert set(rows()) == set(before)


def test_a_prune_of_most_rows_asks_for_a_word_more(loaded: Path, fails: Fails) -> None:
    before = rows()
    for label in "0123456":
        shutil.rmtree(f"database_set/{label}")
    error = fails(embed_and_load.main, *LOAD, "--prune")
    assert "too many to remove unasked: is a disk missing?" in error
    assert "--prune-most" in error
    assert rows() == before
    assert load("--prune", "--prune-most") == 0
    assert set(rows()) == {path for path in before if path[0] in "789"}


def test_what_is_left_out_is_said(loaded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.heic", "b.heic", "c.svg"):
        Path("database_set", name).write_bytes(b"")
    capsys.readouterr()
    assert load() == 0
    said = capsys.readouterr().out
    assert "1 .svg" in said.partition("left out: ")[2].splitlines()[0]


def test_a_folder_of_nothing_else_says_what_it_holds(own_folder: Path, fails: Fails) -> None:
    Path("phone").mkdir()
    for number in range(3):
        Path(f"phone/{number}.svg").write_bytes(b"")
    error = fails(embed_and_load.main, *LOAD, "--images", "phone")
    assert "phone holds no images (left out: 3 .svg)" in error
