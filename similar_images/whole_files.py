"""Write files whole: each beside its place, then moved there; sync folders to the disk."""

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO


def write_together(contents: Mapping[Path, bytes | Iterable[str] | None]) -> None:
    """Write files, each beside its place, and then move them there in this order; None removes one.

    Until all are written nothing is changed. Ended between two moves, it leaves files of two runs.
    Text is written in UTF-8, a part at a time as it is made.
    """
    written: dict[Path, Path] = {}
    with contextlib.ExitStack() as on_exit:
        for path, content in contents.items():
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                written[path] = _beside(path)
                on_exit.callback(written[path].unlink, missing_ok=True)
                _write(written[path], content)
        for path in contents:
            if path in written:
                os.replace(written[path], path)
            else:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which then takes its place; after an error nothing is changed."""
    partial = _beside(path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _write(path: Path, content: bytes | Iterable[str]) -> None:
    with open(path, "xb") as file:
        file.writelines([content] if isinstance(content, bytes) else map(str.encode, content))
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder and all that it holds are on the disk; OSError if that fails.

    On Windows only files are synced: folders can't be opened there.
    """
    for path in (folder.absolute().parent, folder, *folder.rglob("*")):
        if os.name != "nt" or path.is_file():
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
