"""Files and folders that appear whole, several together, or not at all.

What is new is first written beside its place, as .NAME.partial. Then what is old is moved to
.NAME.old, what is new into its place, and what is old is deleted: no step without a way back.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def partial_of(place: Path) -> Path:
    """Return where something is written before it is moved to its place, on the same disk."""
    return _beside(place, "partial")


def _beside(place: Path, suffix: str) -> Path:
    return place.with_name(f".{place.name}.{suffix}")


def leftovers(place: Path) -> tuple[Path, Path]:
    """Return what a run that was killed may have left beside a place: new content, and old."""
    return partial_of(place), _beside(place, "old")


def remove(path: Path) -> None:
    """Delete a file or a folder with all that it holds; a link's target stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that change together: all are as wanted afterwards, or all as before."""
    with replacing_together(list(contents)):
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial_of(path), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


@contextlib.contextmanager
def replacing_together(places: Sequence[Path]) -> Iterator[None]:
    """Move what the body writes to partial_of(place) into each place; on an error, change nothing.

    The places must not be links or mount points: resolve() them first.
    """
    put_back(places)
    try:
        for place in places:
            remove(partial_of(place))
        yield
        _replace(places)
    finally:
        for place in places:
            with contextlib.suppress(OSError):
                remove(partial_of(place))
    for place in places:
        remove(_beside(place, "old"))


def _replace(places: Sequence[Path]) -> None:
    try:
        for place in places:
            if place.exists():
                os.replace(place, _beside(place, "old"))
        for place in reversed(places):  # a folder that the next step reads comes last
            os.replace(partial_of(place), place)
    except BaseException:
        for place in places:  # whatever has not been replaced stands in its partial still
            old, new = _beside(place, "old"), partial_of(place)
            if old.exists() or not new.exists():
                if place.exists() and not new.exists():
                    os.replace(place, new)
                if old.exists():
                    os.replace(old, place)
        raise


def put_back(places: Sequence[Path]) -> None:
    """Undo, or end, what a run that was killed while it replaced these places left behind."""
    replaced = all(place.exists() for place in places)
    for place in places:
        old = _beside(place, "old")
        if old.exists() and replaced:
            remove(old)
        elif old.exists():
            remove(place)
            os.replace(old, place)


def sync_folder(folder: Path) -> None:
    """Wait until a folder, its folders and their files are on the disk; OSError if they aren't.

    Windows syncs files alone: a folder can't be opened there.
    """
    for parent, _folders, files in os.walk(folder):
        for name in files:
            _sync(Path(parent, name), os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        if os.name != "nt":
            _sync(Path(parent), os.O_RDONLY)
    if os.name != "nt":
        _sync(folder.absolute().parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:  # tidied away since it was listed
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
