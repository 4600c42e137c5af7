"""split.py: which image goes where, and what may be overwritten."""

import hashlib
import os
import shutil
import signal
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
from similar_images.splitting.split import SplitError, check_targets, split_positions

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
    except SplitError:
        assert int(count * (1 - fraction)) == 0  # nothing would be left for the database
        return
    assert sorted([*database, *queries]) == list(range(count))
    assert len(queries) == int(np.ceil(count * fraction))


def test_nothing_is_overwritten_unless_asked_and_never_foreign_files(
    own_folder: Path, fails: Fails
) -> None:
    Path("database_set").mkdir()  # an empty folder is fine
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    assert "--overwrite" in fails(split_images.main, "--sample")
    assert split_images.main(["--sample", "--limit", "30", "--overwrite"]) == 0
    assert len(written(Path("database_set"))) == 27
    Path("query_set/holiday.jpg").write_bytes(b"mine")
    assert "query_set" in fails(split_images.main, "--sample", "--overwrite")
    assert Path("query_set/holiday.jpg").read_bytes() == b"mine"
    assert set(os.listdir(own_folder)) == {"database_set", "query_set"}


STEPS = 4  # both old folders out of the way, both new ones into their places


@pytest.mark.parametrize("number", range(1, STEPS + 1))
@pytest.mark.parametrize("error", [OSError(16, "busy"), KeyboardInterrupt()])
def test_no_step_of_overwriting_is_without_a_way_back(
    number: int, error: BaseException, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert split_images.main(["--sample", "--limit", "50"]) == 0
    before = contents(own_folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", raising_at(number, error, os.replace))
        status = split_images.main(["--sample", "--limit", "60", "--overwrite"])
    assert status == (1 if isinstance(error, OSError) else 130)
    assert contents(own_folder) == before


KILLED = """
import os, signal, sys
import split_images
name, number = sys.argv[1], int(sys.argv[2])
function, calls = getattr(os, name), []

def killed(*places, **options):
    calls.append(1)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    function(*places, **options)

if __name__ == "__main__":
    setattr(os, name, killed)
    split_images.main(["--sample", "--limit", "60", "--overwrite"])
"""


def kill_an_overwriting_run(folder: Path, name: str, number: int) -> None:
    """Kill a run, in a process of its own, at its call of this number of a function of os."""
    (folder / "killed.py").write_text(KILLED)
    command = [sys.executable, "killed.py", name, str(number)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    (folder / "killed.py").unlink()


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("number", range(1, STEPS + 1))
def test_a_run_killed_between_its_steps_is_undone_by_the_next(
    number: int, own_folder: Path
) -> None:
    assert split_images.main(["--sample", "--limit", "50"]) == 0
    before = contents(own_folder)
    kill_an_overwriting_run(own_folder, "replace", number)
    with pytest.raises(SplitError, match="add --overwrite"):
        check_targets([Path("database_set"), Path("query_set")], overwrite=False)
    for partial in own_folder.glob(".*.partial"):
        shutil.rmtree(partial)
    assert contents(own_folder) == before
    assert split_images.main(["--sample", "--limit", "60", "--overwrite"]) == 0
    assert len(written(Path("database_set"))) == 54
    assert sorted(os.listdir(own_folder)) == ["database_set", "query_set"]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("name", "number"), [("unlink", 2), ("unlink", 46), ("rmdir", 11)])
def test_a_run_killed_while_it_deletes_the_old_split_is_completed_by_the_next(
    name: str, number: int, own_folder: Path
) -> None:
    assert split_images.main(["--sample", "--limit", "50"]) == 0
    kill_an_overwriting_run(own_folder, name, number)
    assert len(written(Path("database_set"))) == 54
    assert Path(".database_set.old").exists()
    with pytest.raises(SplitError, match="add --overwrite"):
        check_targets([Path("database_set"), Path("query_set")], overwrite=False)
    assert sorted(os.listdir(own_folder)) == ["database_set", "query_set"]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_link_to_a_folder_is_overwritten_again_and_again(own_folder: Path) -> None:
    (own_folder / "elsewhere").mkdir()
    os.symlink("elsewhere", "query_set")
    for count in (20, 30, 40, 50):
        assert split_images.main(["--sample", "--limit", str(count), "--overwrite"]) == 0
        assert len(written(Path("database_set"))) + len(written(Path("elsewhere"))) == count
        assert Path("query_set").is_symlink()


def test_a_mount_point_is_refused_before_anything_is_touched(
    fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    before = contents(Path())
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "query_set")
    assert "mount point" in fails(split_images.main, "--sample", "--overwrite")
    assert contents(Path()) == before


@pytest.mark.parametrize("folder", ["database_set", ".database_set.old", ".query_set.partial"])
def test_images_named_like_ours_are_never_deleted(folder: str, fails: Fails) -> None:
    mine = Path(folder, "clip1/00001.png")  # as ffmpeg names frames
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    error = fails(split_images.main, "--sample", "--limit", "20", "--overwrite")
    assert "did not write (clip1/00001.png)" in error
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("link", [".database_set.old", ".query_set.partial"])
def test_nothing_is_deleted_through_a_link(link: str, own_folder: Path, fails: Fails) -> None:
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    Path("elsewhere").mkdir()
    Path("database_set").rename("elsewhere/split")
    os.symlink("elsewhere/split", link)
    before = contents(Path("elsewhere"))
    assert link in fails(split_images.main, "--sample", "--overwrite")
    assert contents(Path("elsewhere")) == before
    assert Path(link).is_symlink()


def add_holiday(folder: str) -> None:
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "holiday.jpg").write_bytes(b"mine")


def adding_at(number: int, folder: str, function: Callable[..., object]) -> Callable[..., object]:
    """Return a function that at its call of this number first adds a user's file to a folder."""
    calls: list[object] = []

    def adding(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == number:
            add_holiday(folder)
        return function(*arguments, **options)

    return adding


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("module", "name", "folder"),
    [
        (split_images, "load_images", "database_set"),
        (split_images, "load_images", "query_set"),
        (split_images, "load_images", ".query_set.old"),
        (split_images, "load_images", ".database_set.partial"),
        (split, "replacing_together", "query_set"),
        (split.concurrent.futures, "as_completed", "database_set"),
        (split.concurrent.futures, "as_completed", "query_set"),
    ],
)
def test_a_file_added_before_the_folders_are_replaced_is_kept(
    module: object,
    name: str,
    folder: str,
    overwrite: bool,
    fails: Fails,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--overwrite"] if overwrite else []
    if overwrite:
        assert split_images.main(["--sample", "--limit", "20"]) == 0
    before = contents(Path())
    monkeypatch.setattr(module, name, adding_at(1, folder, getattr(module, name)))
    error = fails(split_images.main, "--sample", "--limit", "30", *options)
    assert f"{folder} holds what split_images.py did not write (holiday.jpg)" in error
    assert contents(Path()) == {**before, f"{folder}/holiday.jpg": b"mine"}


@pytest.mark.parametrize(
    ("name", "number", "folder", "kept"),
    [
        ("replace", 1, "database_set", "database_set"),  # moved away with it, and put back
        ("replace", 2, "query_set", "query_set"),
        ("replace", 2, ".database_set.old", "database_set"),
        ("replace", 3, ".database_set.old", ".database_set.old"),
        ("replace", 4, ".query_set.old", ".query_set.old"),
        ("replace", 3, "query_set", "query_set"),
        ("replace", 4, "database_set", "database_set"),
        ("unlink", 1, ".database_set.old", ".database_set.old"),
        ("unlink", 19, ".database_set.old/7", ".database_set.old/7"),
        ("rmdir", 1, ".query_set.old", ".query_set.old"),
    ],
)
def test_a_file_added_while_the_folders_are_replaced_is_kept(
    name: str,
    number: int,
    folder: str,
    kept: str,
    fails: Fails,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(os, name, adding_at(number, folder, getattr(os, name)))
        error = fails(split_images.main, "--sample", "--limit", "30", "--overwrite")
    assert Path(kept, "holiday.jpg").read_bytes() == b"mine"
    assert "holiday.jpg" in error or f"{folder}'" in error
    assert sorted(written(Path())) in (list(range(20)), list(range(30)))
    Path(kept, "holiday.jpg").unlink()
    assert split_images.main(["--sample", "--limit", "40", "--overwrite"]) == 0
    assert len(written(Path("database_set"))) == 36


def test_what_systems_leave_in_folders_is_in_nobodys_way() -> None:
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    for place in ("database_set/.DS_Store", "query_set/1/Thumbs.db"):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_bytes(b"")
    assert split_images.main(["--sample", "--limit", "30", "--overwrite"]) == 0
    assert len(written(Path("database_set"))) == 27
