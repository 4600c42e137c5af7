"""Pictures under a folder: found by their names' suffixes, named, labelled.

Pillow alone: a decode worker imports this file and starts in a fraction of a second.
"""

import collections
import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from similar_images.text import printable

MAX_PATH_BYTES = 4096  # the collection's key holds no more
# Pillow reads these by running another program, or only names them without decoding pixels.
REFUSED_FORMATS = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"})
COMMON_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # tried first: each try costs 20 microseconds
OPENED_BY_ANOTHER = frozenset({"MPO"})  # by the JPEG plugin
# What a package would add to the formats, by suffix; see readable_formats.
PACKAGES = dict.fromkeys((".heic", ".heif", ".hif", ".avif"), "pillow-heif")
LEFT_OUT_LISTED = 8  # suffixes that a line names


class ImageError(Exception):
    """A picture that can't be had; the message is the reason.

    unseen: the system refused to show the file, so that it may be the picture that it was.
    """

    def __init__(self, reason: str, unseen: bool = False) -> None:
        super().__init__(reason)
        self.unseen = unseen


class FoundImage(NamedTuple):
    """A picture's path under its root ('/' on every system), and its file as listed."""

    path: str
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970


class Skipped(NamedTuple):
    """A file that could not be taken, and why; whether the system refused to show it."""

    path: str
    reason: str
    unseen: bool = False  # what it holds is not known: it may be the picture that it was


@dataclass
class Listing:
    """What was met under a folder beside the pictures."""

    skipped: list[Skipped] = field(default_factory=list)
    left_out: collections.Counter[str] = field(default_factory=collections.Counter)  # by suffix

    def unseen(self) -> set[str]:
        """Return the files and folders that could not be looked at."""
        return {item.path for item in self.skipped if item.unseen}


def label_of(path: str) -> str:
    """Return a picture's label, the first folder under the root; '' in a flat folder.

    >>> label_of("frog/00042.png"), label_of("cat.png")
    ('frog', '')
    """
    return path.partition("/")[0] if "/" in path else ""


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that we decode, with pillow-heif's if it is there."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    others = set(Image.OPEN) - REFUSED_FORMATS - set(COMMON_FORMATS)
    return (*COMMON_FORMATS, *sorted(others))


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that we decode: '.png' and so on."""
    formats = {*readable_formats(), *OPENED_BY_ANOTHER}
    extensions = Image.registered_extensions()
    return frozenset(suffix for suffix, name in extensions.items() if name in formats)


def check_folder(folder: Path, option: str) -> None:
    """Raise ImageError unless folder is one; option: how another is chosen, such as --images."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ImageError(f"{folder} {what}; run python split_images.py or choose {option}")


def iter_images(
    root: Path, listing: Listing, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[FoundImage]:
    """Yield every picture under root, by file name suffix, as the folders list them: in no order.

    Nothing is kept: the first comes at once, however many there are. Links are followed, but
    never in a circle. Files and folders whose names begin with a dot are left out, as are paths
    that are not `wanted`. Files that no image suffix names, and what can't be taken, are noted
    in `listing`. Raises OSError if root itself can't be listed.
    """
    for path, entry in _walk(root, listing):
        if wanted(path):
            try:
                yield _found(path, entry.stat())
            except (OSError, ImageError) as error:
                listing.skipped.append(skipped_for(path, error))


def left_out_in_words(left_out: Mapping[str, int]) -> str:
    """Return how many files no decoder takes, by suffix, with the package that would.

    >>> left_out_in_words({".svg": 1, ".heic": 3000})
    'left out: 3,000 .heic (pip install pillow-heif), 1 .svg'
    """
    words = []
    ordered = sorted(left_out.items(), key=lambda item: -item[1])
    for suffix, count in ordered[:LEFT_OUT_LISTED]:
        package = f" (pip install {PACKAGES[suffix]})" if suffix in PACKAGES else ""
        words.append(f"{count:,} {printable(suffix) or 'without a suffix'}{package}")
    others = sum(count for _, count in ordered[LEFT_OUT_LISTED:])
    if others:
        words.append(f"{others:,} others")
    return f"left out: {', '.join(words)}"


def image_error(error: Exception) -> ImageError:
    """Return what a system or a decoder raised as an ImageError, without the picture's path."""
    if isinstance(error, ImageError):
        return error
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    number = error.errno if isinstance(error, OSError) else None
    return ImageError(reason, unseen=number not in (None, errno.ENOENT))


def skipped_for(path: str, error: Exception) -> Skipped:
    """Return the note on a picture that could not be taken for this error."""
    known = image_error(error)
    return Skipped(path, str(known), known.unseen)


@dataclass(frozen=True)
class _Folder:
    """A folder to be listed, and those that it lies in."""

    path: str  # '' for the root
    identity: tuple[int, int]
    parent: "_Folder | None" = None

    def holds(self, identity: tuple[int, int]) -> bool:
        folder: _Folder | None = self
        while folder and folder.identity != identity:
            folder = folder.parent
        return folder is not None


def _walk(root: Path, listing: Listing) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield the path under root and the entry of every file that may be a picture."""
    top = os.fspath(root)
    folders = [_Folder("", _identity(top))]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(top, folder.path) if folder.path else top) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{folder.path}/{entry.name}" if folder.path else entry.name
                    if _is_folder(entry, path, listing):
                        _descend(folder, path, entry, folders, listing)
                        continue
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if suffix in image_suffixes():
                        yield path, entry
                    else:
                        listing.left_out[suffix] += 1
        except OSError as error:
            if not folder.path:
                raise
            listing.skipped.append(skipped_for(folder.path, error)._replace(unseen=True))


def _is_folder(entry: "os.DirEntry[str]", path: str, listing: Listing) -> bool:
    """Return whether an entry is a folder; a link that leads nowhere may have been one."""
    try:
        if entry.is_dir():
            return True
        leads_nowhere = entry.is_symlink() and not os.path.exists(entry.path)
    except OSError:  # links in a circle, a folder that may not be entered
        leads_nowhere = True
    suffix = os.path.splitext(entry.name)[1].lower()
    if leads_nowhere and suffix not in image_suffixes():  # a picture's is noted when it is taken
        listing.skipped.append(Skipped(path, "a link to nothing", unseen=True))
    return False


def _descend(
    folder: _Folder,
    path: str,
    entry: "os.DirEntry[str]",
    folders: list[_Folder],
    listing: Listing,
) -> None:
    """Put a folder among those to be listed, unless it is one that it lies in."""
    try:
        identity = _identity(entry.path)
    except OSError as error:
        listing.skipped.append(skipped_for(path, error)._replace(unseen=True))
        return
    if folder.holds(identity):
        listing.skipped.append(Skipped(path, "a link to a folder that it lies in"))
    else:
        folders.append(_Folder(path, identity, folder))


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)  # and not DirEntry.stat(), which knows no inode on Windows
    return status.st_dev, status.st_ino


def _found(path: str, status: os.stat_result) -> FoundImage:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("not a regular file")
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise ImageError("its name is not UTF-8") from None
    if length > MAX_PATH_BYTES:
        raise ImageError(f"its path is longer than {MAX_PATH_BYTES} bytes")
    return FoundImage(path, status.st_size, status.st_mtime_ns)
