"""Replaces files and folders together: afterwards all are as wanted, or all are as before.

New content is first written beside its place, as .NAME.partial. Then the old content is moved to
.NAME.old, the new content to its place, and the old content is deleted. Each step can be undone.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path


def partial_of(place: Path) -> Path:
    """Return where new content is written before it is moved to its place on the same disk."""
    return _beside(place, "partial")


def _beside(place: Path, suffix: str) -> Path:
    return place.with_name(f".{place.name}.{suffix}")


def leftovers(place: Path) -> tuple[Path, Path]:
    """Return where a killed run may have left new content and old content beside a place."""
    return partial_of(place), _beside(place, "old")


def remove(path: Path) -> None:
    """Delete a file, or a folder with its content; of a link, only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
                written[path] = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
                on_exit.callback(written[path].unlink, missing_ok=True)
                _write(written[path], content)
        for path in contents:
            if path in written:
                os.replace(written[path], path)
            else:
                path.unlink(missing_ok=True)


def _write(path: Path, content: bytes | Iterable[str]) -> None:
    with open(path, "xb") as file:
        file.writelines([content] if isinstance(content, bytes) else map(str.encode, content))
        file.flush()
        os.fsync(file.fileno())


def accept(found: Path, place: Path) -> None:
    """Let whatever is found at a place be replaced."""


@contextlib.contextmanager
def replacing_together(
    places: Sequence[Path],
    check: Callable[[Path, Path], None] = accept,
    discard: Callable[[Path], None] = remove,
) -> Iterator[None]:
    """Move what the body writes to partial_of(place) to each place; on an error, change nothing.

    check(found, place) raises an exception if the content of a place must not be replaced. It
    is called directly before the content is moved away, where found is the place, and again
    once it has been moved, so that a file that was added in between is put back with the rest.
    discard(path) deletes old or partial content. The places must not be links or mount points:
    resolve() them first.
    """
    put_back(places, check, discard)
    try:
        for place in places:
            discard(partial_of(place))
        yield
        _replace(places, check)
    finally:
        for place in places:
            with contextlib.suppress(Exception):  # the first exception is the one to report
                discard(partial_of(place))
    for place in places:
        discard(_beside(place, "old"))


def _replace(places: Sequence[Path], check: Callable[[Path, Path], None]) -> None:
    for place in places:
        check(place, place)
    try:
        for place in places:
            if place.exists():
                os.replace(place, _beside(place, "old"))
        for place in places:
            check(_beside(place, "old"), place)
        for place in reversed(places):  # a folder that the next step reads comes last
            os.replace(partial_of(place), place)
    except BaseException:
        with contextlib.ExitStack() as steps:  # all are tried, even if one fails
            for place in places:
                steps.callback(_undo, place)
        raise


def _undo(place: Path) -> None:
    old, new = _beside(place, "old"), partial_of(place)
    if not new.exists() and place.exists():  # the new content was moved to its place
        os.replace(place, new)
    if old.exists():
        os.replace(old, place)


def put_back(
    places: Sequence[Path],
    check: Callable[[Path, Path], None] = accept,
    discard: Callable[[Path], None] = remove,
) -> None:
    """Undo, or complete, the replacement of these places by a run that was killed."""
    for old in [_beside(place, "old") for place in places]:
        check(old, old)
    replaced = all(place.exists() and not _is_empty_folder(place) for place in places)
    for place in places:
        old = _beside(place, "old")
        if old.exists() and replaced:
            discard(old)
        elif old.exists():
            discard(place)
            os.replace(old, place)


def _is_empty_folder(place: Path) -> bool:
    return place.is_dir() and not any(place.iterdir())


def sync_folder(folder: Path) -> None:
    """Wait until a folder and all that it holds are on the disk; OSError if that fails.

    On Windows only files are synced: folders can't be opened there.
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
    except FileNotFoundError:  # deleted since it was listed
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
