"""whole_files.py: files are whole at any time, and on the disk when it says so."""

import os
import stat
from pathlib import Path

import pytest
from helpers import raising_at

from similar_images.whole_files import sync_folder, write_together

OLD = {Path("out/a.txt"): b"old a", Path("out/b.txt"): b"old b"}
NEW = {Path("out/a.txt"): b"new a", Path("out/b.txt"): b"new b", Path("out/c.txt"): b"new c"}


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("out").iterdir()}


def test_files_are_written_in_order_and_none_is_removed() -> None:
    write_together(OLD)
    write_together({**NEW, Path("out/a.txt"): None, Path("out/d.txt"): iter(["猫", "\n"])})
    expected = {**NEW, Path("out/d.txt"): "猫\n".encode()}
    del expected[Path("out/a.txt")]
    assert contents() == expected
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        assert stat.S_IMODE(os.stat("out/b.txt").st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_run_leaves_whole_files(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_together(OLD)
    monkeypatch.setattr(os, "replace", raising_at(2, error, os.replace))
    with pytest.raises(type(error)):
        write_together(NEW)
    assert contents() == {Path("out/a.txt"): b"new a", Path("out/b.txt"): b"old b"}


def test_what_cannot_be_written_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write_together(OLD)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", raising_at(3, full, os.fsync))
    with pytest.raises(OSError, match="No space"):
        write_together(NEW)
    assert contents() == OLD


def test_folders_are_synced_as_well_as_files(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("top/inner").mkdir(parents=True)
    for name in ("top/one", "top/inner/two"):
        Path(name).write_bytes(b"x")
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    sync_folder(Path("top"))
    expected = {own_folder, *own_folder.rglob("*")}
    if os.name == "nt":
        expected = {path for path in expected if path.is_file()}
    assert synced == {path.stat().st_ino for path in expected}


def test_a_sync_that_fails_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("one").write_bytes(b"x")
    monkeypatch.setattr(os, "fsync", raising_at(1, OSError(5, "Input/output error"), os.fsync))
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(Path())
