"""The preview that a camera's RAW file holds: what the camera shows, and writes as JPEG."""

import io
from typing import BinaryIO

from PIL import ExifTags, Image

from similar_images.images.image_files import PACKAGES, ImageError, image_error, image_suffixes

ORIENTATIONS = {3: 3, 5: 8, 6: 6}  # LibRaw's flip → EXIF's orientation; else 1, upright


def preview_of(file: BinaryIO, suffix: str) -> BinaryIO:
    """Return the preview in a RAW file as an image file, most often a JPEG; with rawpy installed.

    Raises ImageError if it is not, or if there is none that LibRaw can read.
    """
    if suffix not in image_suffixes():
        raise ImageError(f"a camera's RAW file; run pip install {PACKAGES[suffix]}")
    try:
        import rawpy
    except Exception as error:  # it lacks a library, or was built for another NumPy
        raise ImageError(f"rawpy can't be imported: {error}", unseen=True) from error
    try:
        with rawpy.imread(file) as raw:
            preview, flip = raw.extract_thumb(), raw.sizes.flip
    except (rawpy.LibRawError, NotImplementedError) as error:
        raise ImageError("a RAW file without a preview that LibRaw can read") from error
    except Exception as error:  # it can't be read, or there is too little memory
        raise image_error(error) from error
    if preview.format == rawpy.ThumbFormat.JPEG:  # LibRaw adds its EXIF orientation
        return io.BytesIO(preview.data)
    bitmap, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = ORIENTATIONS.get(flip, 1)
    Image.fromarray(preview.data).save(bitmap, "PNG", exif=exif)
    bitmap.seek(0)
    return bitmap
