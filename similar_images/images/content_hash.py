"""A hash of a file's content, by which an image is known again under another path or time."""

import hashlib
from typing import BinaryIO

from similar_images.images.image_files import RAW_SUFFIXES

JPEG_MAGIC = b"\xff\xd8"
BLOCK = 64 * 1024  # bytes
DIGITS = 32  # hexadecimal


def content_hash(file: BinaryIO, size: int, suffix: str) -> str:
    """Return a hash of an open file of this size, in bytes; the file is at its beginning again.

    Of a JPEG three blocks are read, the first, the last and the middle: what changes in it shifts
    what follows, and its size. So they are of a camera's RAW file, of which nobody edits values.
    Other files are read whole: a value of a TIFF or a BMP may change alone.
    """
    file.seek(0)
    first = file.read(BLOCK)
    digest = hashlib.sha256(b"%d " % size + first)
    sampled = first.startswith(JPEG_MAGIC) or suffix in RAW_SUFFIXES
    if sampled and size > 3 * BLOCK:
        for start in (size // 2, size - BLOCK):
            file.seek(start)
            digest.update(file.read(BLOCK))
    else:
        while block := file.read(16 * BLOCK):
            digest.update(block)
    file.seek(0)
    return digest.hexdigest()[:DIGITS]
