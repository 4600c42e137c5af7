"""Find the images under a folder by the suffixes of their names, and label them.

Of large packages only Pillow is imported: a decode worker imports this file as it starts.
"""

import collections
import contextlib
import fnmatch
import functools
import heapq
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from similar_images.text import printable

MAX_PATH_BYTES = 4096  # the collection's key holds no more
# Pillow runs Ghostscript for EPS; inside IPTC it opens an image of any format, EPS included. The
# others it only recognises: what decodes them is added by other packages, or is Windows's own.
REFUSED_FORMATS = frozenset({"EPS", "IPTC", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"})
COMMON_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # tried first: each try costs 20 microseconds
OPENED_BY_ANOTHER = frozenset({"MPO"})  # by the JPEG plugin
RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".iiq", ".kdc", ".mrw", ".nef", ".nrw"),
        *(".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
# The package that adds a format, by suffix; see readable_formats and image_suffixes.
PACKAGES = (
    dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif")
    | {".jxl": "pillow-jxl-plugin"}
    | dict.fromkeys(RAW_SUFFIXES, "rawpy")
)
OWN_IMAGES = frozenset({"comparison.png", "named_comparison.png"})  # which query_code.py writes
MADE_BY = ("Software", "similar-images")  # their PNG text chunk
IMAGE_MARK, MARK_WITHIN = "\0".join(MADE_BY).encode(), 1024  # bytes from a file's beginning
# Thumbnails, trash and snapshots, as Synology, QNAP, Windows, Linux and macOS call their folders.
NO_PHOTOGRAPHS = (
    *("@eaDir", "#recycle", "#snapshot", "@Recycle", "$RECYCLE.BIN", ".Trash*", "lost+found"),
    *("System Volume Information", "__MACOSX", ".thumbnails"),
)
LEFT_OUT_LISTED = 8  # suffixes, or reasons, that a line names
SKIPPED_LISTED = 20  # files


class ImageError(Exception):
    """An image that could not be read; the message is the reason.

    unseen: what the file holds now is not known, so that its row must be kept.
    """

    def __init__(self, reason: str, unseen: bool = False) -> None:
        super().__init__(reason)
        self.unseen = unseen


class FoundImage(NamedTuple):
    """An image's path under its root ('/' on every system), and its file as listed."""

    path: str
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970


class Skipped(NamedTuple):
    """A file or folder that was skipped, and why."""

    path: str
    reason: str
    unseen: bool = False  # as of ImageError


@dataclass
class Listing:
    """What was found under a folder besides the images."""

    skipped: list[Skipped] = field(default_factory=list)
    left_out: collections.Counter[str] = field(default_factory=collections.Counter)  # by suffix
    # By the name that excludes them, and "written by query_code.py".
    excluded: collections.Counter[str] = field(default_factory=collections.Counter)


def label_of(path: str) -> str:
    """Return an image's label, the first folder under the root; '' in a flat folder.

    >>> label_of("frog/00042.png"), label_of("cat.png")
    ('frog', '')
    """
    return path.partition("/")[0] if "/" in path else ""


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that we decode, and those of installed PACKAGES."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401 - its format registers itself
    Image.init()
    others = set(Image.OPEN) - REFUSED_FORMATS - set(COMMON_FORMATS)
    return (*COMMON_FORMATS, *sorted(others))


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that we decode: '.png' and so on."""
    formats = {*readable_formats(), *OPENED_BY_ANOTHER}
    extensions = Image.registered_extensions()
    by_pillow = {suffix for suffix, name in extensions.items() if name in formats}
    return RAW_SUFFIXES.union(by_pillow) if find_spec("rawpy") else frozenset(by_pillow)


def has_image_suffix(path: str) -> bool:
    """Return whether a path's suffix is that of a format that can be decoded now.

    >>> has_image_suffix("frog/1.PNG"), has_image_suffix("frog.png/1")
    (True, False)
    """
    return os.path.splitext(path)[1].lower() in image_suffixes()


def check_folder(folder: Path, option: str) -> None:
    """Raise ImageError unless folder is one; `option` names the option that chooses another."""
    if not folder.is_dir():
        what = f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}"
        is_default = str(folder) in ("database_set", "query_set")
        split = "run python split_images.py or choose" if is_default else "check"
        raise ImageError(f"{what}; {split} {option}")


def identity(status: os.stat_result) -> tuple[int, int]:
    """Return the device and inode of a file or folder, which all its names and links share.

    status: of os.stat, since that of os.scandir has no inode on Windows.
    """
    return status.st_dev, status.st_ino


def excluded_names(given: Sequence[str]) -> tuple[str, ...]:
    """Return the names that are left out if these are given with --exclude.

    >>> excluded_names(["", "drafts"]), len(excluded_names(["drafts"])) == len(NO_PHOTOGRAPHS) + 1
    (('drafts',), True)
    """
    return tuple(filter(None, given)) if "" in given else (*NO_PHOTOGRAPHS, *given)


def excluded_by(name: str, excluded: tuple[str, ...]) -> str:
    """Return which of the excluded names and globs a file or folder has, '' if it has none.

    >>> excluded_by("2.TIF", ("raw", "*.tif")), excluded_by("2.tiff", ("raw", "*.tif"))
    ('*.tif', '')
    """
    found = _any_of(excluded).match(name) if excluded else None
    return excluded[found.lastindex - 1] if found and found.lastindex else ""


def is_excluded(path: str, excluded: tuple[str, ...]) -> bool:
    """Return whether an image is left out by its own name or that of a folder it is in."""
    return any(excluded_by(name, excluded) for name in path.split("/"))


@functools.cache
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"({fnmatch.translate(name)})" for name in names), re.IGNORECASE)


def iter_images(
    root: Path,
    listing: Listing,
    wanted: Callable[[str], bool] = lambda _: True,
    excluded: tuple[str, ...] = NO_PHOTOGRAPHS,
) -> Iterator[FoundImage]:
    """Yield every image under root, by the suffix of its name, in no particular order.

    The list is not kept in memory: the first image is yielded at once. Files and folders whose
    names begin with a dot are left out, as are paths that are not `wanted`. Other files, what is
    excluded by name, images that query_code.py wrote, and what can't be listed, are noted in
    `listing`. Raises OSError if root itself can't be listed.

    Links are followed, but each folder is listed once: under its own path if it lies under root,
    else under the first path, in alphabetical order, by which a link leads to it.
    """
    for path, entry in _walk(root, listing, excluded):
        if wanted(path):
            try:
                yield _found(path, entry.stat())
            except (OSError, ImageError) as error:
                listing.skipped.append(skipped_for(path, error))


def left_out_in_words(listing: Listing) -> str:
    """Return what was left out, by name and by suffix, with the package that would decode it.

    >>> counts = collections.Counter({".svg": 1, ".heic": 3000})
    >>> left_out_in_words(Listing([], counts, collections.Counter({"@eaDir": 2})))
    '2 @eaDir, 3,000 .heic (pip install pillow-heif), 1 .svg'
    """
    words = [f"{count:,} {printable(name)}" for name, count in listing.excluded.most_common()]
    for suffix, count in listing.left_out.most_common(LEFT_OUT_LISTED):
        package = f" (pip install {PACKAGES[suffix]})" if suffix in PACKAGES else ""
        words.append(f"{count:,} {printable(suffix) or 'without a suffix'}{package}")
    more = ", …" if len(listing.left_out) > LEFT_OUT_LISTED else ""
    return f"{', '.join(words)}{more}"


def check_images(folder: Path, option: str, excluded: tuple[str, ...] = ()) -> None:
    """Raise ImageError if an option's folder does not exist, or holds no images but excluded ones.

    What could not be listed may be images.
    """
    check_folder(folder, option)
    listing = Listing()
    images = iter_images(folder, listing, excluded=excluded)
    if next(images, None) is None and not listing.skipped:
        left_out = left_out_in_words(listing)
        words = f" (left out: {left_out})" if left_out else ""
        raise ImageError(f"{folder} holds no images{words}; choose another folder with {option}")


def is_own_image(path: str) -> bool:
    """Return whether a file is an image that query_code.py wrote."""
    with contextlib.suppress(OSError):
        return has_mark(path, IMAGE_MARK)
    return False


def has_mark(path: str | Path, mark: bytes) -> bool:
    """Return whether a file has the mark near its beginning, as those that this program wrote."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return mark in file.read(MARK_WITHIN)


def modified_at(status: os.stat_result) -> int:
    """Return a file's time in nanoseconds since 1970, at most what 64 bits hold: the year 2262."""
    return max(-(2**63), min(status.st_mtime_ns, 2**63 - 1))


def image_error(error: Exception) -> ImageError:
    """Return an error of the system or of a decoder as an ImageError without the image's path.

    After an error of the system, which has a number, or without memory, it is not known what the
    file holds. That goes for "No such file", too: it may be a link to a disk that is not mounted.
    """
    if isinstance(error, ImageError):
        return error
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    of_system = isinstance(error, OSError) and error.errno is not None
    return ImageError(reason, unseen=of_system or isinstance(error, MemoryError))


def skipped_for(path: str, error: Exception) -> Skipped:
    """Return the note on an image that was skipped because of this error."""
    known = image_error(error)
    return Skipped(path, str(known), known.unseen)


def skipped_in_lines(skipped: Sequence[Skipped]) -> Iterator[str]:
    """Yield a line on each of the first files that were skipped, and one with the others' reasons.

    >>> list(skipped_in_lines([Skipped(f"{n}.png", "an empty file") for n in range(3000)]))[19:]
    ['19.png: an empty file', '2,980 more: an empty file (2,980)']
    """
    for one in skipped[:SKIPPED_LISTED]:
        yield f"{printable(one.path)}: {printable(one.reason)}"
    others = collections.Counter(printable(one.reason) for one in skipped[SKIPPED_LISTED:])
    if others:
        reasons = [f"{reason} ({n:,})" for reason, n in others.most_common(LEFT_OUT_LISTED)]
        more = ["…"] if len(others) > LEFT_OUT_LISTED else []
        yield f"{others.total():,} more: {', '.join(reasons + more)}"


def _walk(
    root: Path, listing: Listing, excluded: tuple[str, ...]
) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield the path under root and the entry of every file that may be an image."""
    seen: set[tuple[int, int]] = set()
    folders = [(False, "")]  # a heap of folders to list: whether a link leads there, and the path
    while folders:
        linked, path = heapq.heappop(folders)
        place = os.path.join(root, path)
        try:
            folder = identity(os.stat(place))
            if folder in seen:
                listing.skipped.append(Skipped(path, "a folder that is listed under another path"))
                continue
            seen.add(folder)
            names: set[str] = set()
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name in names:
                        continue
                    names.add(entry.name)  # one that is replaced meanwhile may be listed twice
                    inner = f"{path}/{entry.name}" if path else entry.name
                    if by := excluded_by(entry.name, excluded):
                        listing.excluded[by] += 1
                    elif entry.name.startswith("."):
                        continue
                    elif _is_folder(entry, inner, listing):
                        heapq.heappush(folders, (linked or entry.is_symlink(), inner))
                    elif entry.name in OWN_IMAGES and is_own_image(entry.path):
                        listing.excluded["written by query_code.py"] += 1
                    elif has_image_suffix(inner):
                        yield inner, entry
                    else:
                        listing.left_out[os.path.splitext(inner)[1].lower()] += 1
        except OSError as error:
            if not path:
                raise
            listing.skipped.append(skipped_for(path, error)._replace(unseen=True))


def _is_folder(entry: "os.DirEntry[str]", path: str, listing: Listing) -> bool:
    """Return whether an entry is a folder; note a broken link, which may have been one."""
    try:
        if entry.is_dir():
            return True
        broken = entry.is_symlink() and not os.path.exists(entry.path)
    except OSError:  # links in a circle, a folder that may not be entered
        broken = True
    if broken and not has_image_suffix(path):  # an image is noted by iter_images
        listing.skipped.append(Skipped(path, "a broken symbolic link", unseen=True))
    return False


def _found(path: str, status: os.stat_result) -> FoundImage:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("not a regular file")
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise ImageError("its name is not UTF-8") from None
    if length > MAX_PATH_BYTES:
        raise ImageError(f"its path is longer than {MAX_PATH_BYTES} bytes")
    return FoundImage(path, status.st_size, modified_at(status))
