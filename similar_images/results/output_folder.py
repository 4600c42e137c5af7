"""The output folder, checked before the work: it can be written to, and no other file is lost."""

import tempfile
from pathlib import Path

from similar_images.images.image_files import IMAGE_MARK, has_mark
from similar_images.results.tables import COLUMNS

# What stands near the beginning of each file that a run writes.
MARKS = {name: "\t".join(columns).encode() + b"\n" for name, columns in COLUMNS.items()}
MARKS |= {
    "comparison.png": IMAGE_MARK,
    "named_comparison.png": IMAGE_MARK,
    "gallery.html": b'<meta name="generator" content="similar-images">',
    "observations.md": b"were matched with a collection of",
}
WRITTEN_WITH = {"copies.txt": "duplicate_groups.txt"}  # it has no header


class OutputError(Exception):
    """The results can't be written to the output folder; the message says what to do."""


def check_output(folder: Path, named: bool) -> None:
    """Raise OutputError if a folder's results can't be written, or would replace other files.

    named: whether the queries are named images, whose results are a single file.
    """
    drawing = "named_comparison.png"
    for name in [drawing] if named else [*MARKS.keys() - {drawing}, *WRITTEN_WITH]:
        path, marked = folder / name, folder / WRITTEN_WITH.get(name, name)
        if path.exists() and not (path.is_file() and is_own(marked)):
            raise OutputError(
                f"{path} was not written by this program, and would be replaced; move it "
                "away, or choose another --output"
            )
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OutputError(f"can't write to {place} ({error.strerror}); check --output") from error


def is_own(path: Path) -> bool:
    """Return whether a run has written a file of one of these names."""
    return has_mark(path, MARKS[path.name])
