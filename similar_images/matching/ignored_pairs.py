"""Pairs that a user has looked at and that are no duplicates: --ignore-pairs."""

import os
from pathlib import Path

from similar_images.images.image_files import ImageError
from similar_images.text import table_cell

HEADER = ("query", "rank", "match")


class IgnoredPairs:
    """Pairs of images that are never called near-duplicates, in either order."""

    def __init__(self, file: Path | None = None) -> None:
        """file: with lines as in near_duplicates.txt; ImageError if it can't be read as that."""
        self.pairs: set[frozenset[str]] = set()
        self.met: set[frozenset[str]] = set()  # those that were left out
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n") if file else []
        except (OSError, UnicodeError) as error:
            raise ImageError(f"cannot read {file} ({error}); check --ignore-pairs") from error
        for number, line in enumerate(lines, 1):
            cells = line.rstrip("\r").split("\t")[:3]
            if tuple(cells) == HEADER or not line.strip():
                continue
            if len(cells) < len(HEADER):
                raise ImageError(
                    f"{file}, line {number} is none of near_duplicates.txt: query, rank and match, "
                    "separated by tabs; check --ignore-pairs"
                )
            self.pairs.add(_both(cells[0], cells[2]))

    def leave_out(self, one: str, other: str) -> bool:
        """Return whether two near-duplicates are to be left out, and note it."""
        both = _both(table_cell(one), table_cell(other))
        self.met |= {both} & self.pairs
        return both in self.pairs


def _both(one: str, other: str) -> frozenset[str]:
    """Return two paths as tables have them, whatever folder they are relative to."""
    return frozenset(map(os.path.abspath, (one, other)))


NONE_IGNORED = IgnoredPairs()
