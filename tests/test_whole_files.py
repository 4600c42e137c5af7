"""whole_files.py: files that change together or not at all, and are on the disk when it says so."""

import os
from pathlib import Path

import pytest
from helpers import raising_at

from similar_images import whole_files
from similar_images.whole_files import sync_folder, write_together

OLD = {Path("out/a.txt"): b"old a", Path("out/b.txt"): b"old b"}
NEW = {Path("out/a.txt"): b"new a", Path("out/b.txt"): b"new b", Path("out/c.txt"): b"new c"}


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("out").iterdir()}


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_files_are_replaced_together_or_not_at_all(
    number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_together(OLD)
    assert contents() == OLD
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", raising_at(number, error, os.replace))
        with pytest.raises(type(error)):
            write_together(NEW)
    assert contents() == OLD
    write_together(NEW)
    assert contents() == NEW


def test_what_cannot_be_written_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write_together(OLD)
    synced: list[int] = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_together(NEW)
    assert contents() == OLD


def test_folders_are_synced_as_well_as_files(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "top/inner").mkdir(parents=True)
    for name in ("top/one", "top/inner/two"):
        (own_folder / name).write_bytes(b"x")
    synced = []

    def note(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    sync_folder(Path("top"))
    expected = {own_folder, *own_folder.rglob("*")}
    if os.name == "nt":
        expected = {path for path in expected if path.is_file()}
    assert set(synced) == {path.stat().st_ino for path in expected}


def test_a_sync_that_fails_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("top").mkdir()
    Path("top/one").write_bytes(b"x")

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(whole_files.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(Path("top"))


def test_an_empty_folder_is_not_taken_for_the_new_content(own_folder: Path) -> None:
    """Somebody made it where the old content had just been moved away."""
    old = own_folder / ".x.old"
    old.mkdir()
    (old / "kept.png").write_bytes(b"kept")
    (own_folder / "x").mkdir()
    whole_files.put_back([own_folder / "x"])
    assert (own_folder / "x/kept.png").read_bytes() == b"kept"
    assert not old.exists()
