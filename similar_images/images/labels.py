"""The labels of a folder's images: from a file, or the first folders' names."""

import csv
import posixpath
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from similar_images.images.image_files import (
    MAX_PATH_BYTES,
    ImageError,
    Listing,
    iter_images,
    label_of,
)
from similar_images.text import counted, printable

PATH_COLUMNS = ("path", "file_name", "filename", "image")
LABEL_COLUMN = "label"
DELIMITERS = ",\t;"


class Labels:
    """What a folder's images are labelled with.

    file: CSV, with whichever of DELIMITERS its first line has most. That line names the columns,
    one of PATH_COLUMNS and LABEL_COLUMN; paths are relative to the folder. None for the first
    folders' names.
    """

    def __init__(self, file: Path | None = None, folder: Path = Path()) -> None:
        """Read the file; ImageError if it is none of labels, or not of the folder's images."""
        self.file = file
        self._lines: dict[str, str] = {}
        for path, label in _lines(file) if file else ():
            if self._lines.setdefault(path, label) != label:
                raise ImageError(f"{file} has two labels for {printable(path)}; remove one")
        if self._lines and not any(iter_images(folder, Listing(), self.__contains__, excluded=())):
            first = printable(next(iter(self._lines)))
            raise ImageError(
                f"no line of {file} has an image of {folder} (the first has {first}); write paths "
                "relative to that folder"
            )

    def __contains__(self, path: str) -> bool:
        """Return whether the file has a line for an image."""
        return _key(path) in self._lines

    def of(self, path: str) -> str:
        """Return an image's label, '' if it has none."""
        return self._lines.get(_key(path), "") if self.file else label_of(path)

    def in_words(self, images: int) -> str:
        """Return how many lines have one of the images that were found, and how many have none."""
        without = len(self._lines) - images
        return f"Labels: {counted(images, 'line')} of {self.file}; {without:,} more have no image"


def _key(path: str) -> str:
    """Return a path in one form: systems differ in the separator, and in the form of accents."""
    return unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/")))


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and the label of each line."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            delimiter = max(DELIMITERS, key=text.readline().count)
            text.seek(0)
            reader = csv.reader(text, delimiter=delimiter, strict=True, skipinitialspace=True)
            names = [name.strip().lower() for name in next(reader, [])]
            wanted = next((name for name in PATH_COLUMNS if name in names), "")
            if not wanted or LABEL_COLUMN not in names:
                raise ImageError(
                    f"{file} does not name its columns in the first line; call them path and label"
                )
            for cells in reader:
                line = dict(zip(names, cells, strict=False))
                label = line.get(LABEL_COLUMN, "").strip()
                if len(label.encode()) > MAX_PATH_BYTES:
                    raise ImageError(
                        f"line {reader.line_num} of {file} has a label of more than "
                        f"{MAX_PATH_BYTES} bytes; is a quotation mark missing?"
                    )
                if line.get(wanted):
                    yield _key(line[wanted]), label
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{file} can't be read as CSV ({reason}); check --labels") from error
