"""When a photograph was taken, from its EXIF data."""

import contextlib
from datetime import UTC, date, datetime, tzinfo
from typing import BinaryIO

from PIL import ExifTags, Image

# What a camera shows whose clock was never set.
NEVER_SET_YEAR, NEVER_SET_DAY = 1970, date(2000, 1, 1)


def taken_at(source: Image.Image | BinaryIO) -> int:
    """Return when a photograph was taken: Unix time in milliseconds; 0 if that is not known.

    source: a decoded image, or a camera's RAW file in the form of a TIFF, as most are.
    It is EXIF's DateTimeOriginal with its offset and its fraction of a second. Without an offset it
    is taken for UTC. What a clock shows that was never set is not known.
    """
    with contextlib.suppress(Exception):  # damaged EXIF data are ignored
        if isinstance(source, Image.Image):
            tags = source.getexif()
        else:
            source.seek(0)
            tags = Image.Exif()
            tags.load_from_fp(source)
        exif = tags.get_ifd(ExifTags.IFD.Exif)
        taken = datetime.strptime(exif[ExifTags.Base.DateTimeOriginal], "%Y:%m:%d %H:%M:%S")
        if taken.year == NEVER_SET_YEAR or taken.date() == NEVER_SET_DAY:
            return 0
        zone: tzinfo = UTC
        with contextlib.suppress(KeyError, TypeError, ValueError):
            offset = datetime.strptime(exif[ExifTags.Base.OffsetTimeOriginal], "%z").tzinfo
            zone = offset or UTC
        fraction = str(exif.get(ExifTags.Base.SubsecTimeOriginal, "")).strip()
        milliseconds = int(f"{fraction:0<3}"[:3]) if fraction.isdecimal() else 0
        return 1000 * int(taken.replace(tzinfo=zone).timestamp()) + milliseconds
    return 0
