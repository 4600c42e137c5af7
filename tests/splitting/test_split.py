"""split.py: which image goes where; both folders are written, or neither."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import PROJECT, raising_at, written
from hypothesis import given, settings
from hypothesis import strategies as st

import split_images
from similar_images.splitting import split
from similar_images.splitting.split import ImageSetError, split_positions

Fails = Callable[..., str]
# Of the original homework's 5,000 query positions, sorted, as little-endian int64.
ORIGINAL_QUERIES = "640395c866c54d0e929c6cfb9a552f3d1aa15d216e47ad12a73c5fe76e88e03d"


def test_default_split_is_the_original_homeworks() -> None:
    database, queries = split_positions(50_000, 0.1, 42)
    assert hashlib.sha256(queries.astype("<i8").tobytes()).hexdigest() == ORIGINAL_QUERIES
    assert len(database) == 45_000
    assert not set(database) & set(queries)


@settings(deadline=None)
@given(st.integers(2, 400), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_every_image_lands_on_exactly_one_side(count: int, fraction: float, seed: int) -> None:
    try:
        database, queries = split_positions(count, fraction, seed)
    except ImageSetError:
        assert int(count * (1 - fraction)) == 0  # nothing would be left for the database
        return
    assert sorted([*database, *queries]) == list(range(count))
    assert len(queries) == int(np.ceil(count * fraction))


def test_a_folder_that_is_not_empty_is_named_and_kept(own_folder: Path, fails: Fails) -> None:
    Path("database_set").mkdir()  # an empty folder is fine
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    before = contents(own_folder)
    assert "database_set is not empty; delete it" in fails(split_images.main, "--sample")
    shutil.rmtree("database_set")
    assert "query_set is not empty; delete it" in fails(split_images.main, "--sample")
    assert contents(own_folder) == {k: v for k, v in before.items() if "query_set" in k}
    assert os.listdir(own_folder) == ["query_set"]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_split_has_the_permissions_of_any_new_folder(own_folder: Path) -> None:
    assert split_images.main(["--sample", "--limit", "20", "--database-set", "new/d"]) == 0
    Path("ordinary").mkdir()
    for folder in ("new/d", "query_set"):
        assert Path(folder).stat().st_mode == Path("ordinary").stat().st_mode


def test_a_link_to_an_empty_folder_stays_a_link(own_folder: Path) -> None:
    (own_folder / "elsewhere").mkdir()
    os.symlink("elsewhere", "query_set")
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    assert Path("query_set").is_symlink()
    assert len(written(Path("elsewhere"))) == 2


def test_a_mount_point_is_refused_before_anything_is_touched(
    own_folder: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "query_set")
    assert "mount point" in fails(split_images.main, "--sample")
    assert not os.listdir(own_folder)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", [OSError(16, "busy"), KeyboardInterrupt()])
def test_a_rename_that_fails_leaves_nothing(
    number: int, error: BaseException, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", raising_at(number, error, Path.rename))
        status = split_images.main(["--sample", "--limit", "60"])
    assert status == (1 if isinstance(error, OSError) else 130)
    assert not os.listdir(own_folder)


@pytest.mark.parametrize("folder", ["database_set", "query_set"])
def test_a_file_added_during_the_run_is_kept(
    folder: str, own_folder: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adding(*arguments: object) -> None:
        Path(folder).mkdir()
        Path(folder, "holiday.jpg").write_bytes(b"mine")
        rename(*arguments)

    rename = split._rename_together
    monkeypatch.setattr(split, "_rename_together", adding)
    assert f"{folder} is not empty" in fails(split_images.main, "--sample", "--limit", "20")
    assert contents(own_folder) == {f"{folder}/holiday.jpg": b"mine"}
    assert os.listdir(own_folder) == [folder]


def test_of_several_runs_at_once_one_succeeds(own_folder: Path) -> None:
    command = [sys.executable, PROJECT / "split_images.py", "--sample", "--limit", "300"]
    runs = [
        subprocess.Popen([*command, "--seed", seed], stderr=subprocess.PIPE, text=True)
        for seed in "012"
    ]
    errors = [run.communicate()[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1, 1]
    assert sorted("is not empty" in error for error in errors) == [False, True, True]
    seed = errors.index("")
    database, queries = split_positions(300, 0.1, seed)
    assert sorted(written(Path("database_set"))) == list(database)
    assert sorted(written(Path("query_set"))) == list(queries)
    assert sorted(os.listdir(own_folder)) == ["database_set", "query_set"]
