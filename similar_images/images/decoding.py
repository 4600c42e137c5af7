"""From a file to the network's input: decoded to RGB, upright, resized and cropped.

Of large packages only Pillow and NumPy are imported: a decode worker imports this file as it
starts.
"""

import contextlib
import functools
import io
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from similar_images.images.camera_raw import preview_of
from similar_images.images.content_hash import JPEG_MAGIC, content_hash
from similar_images.images.image_files import (
    PACKAGES,
    RAW_SUFFIXES,
    FoundImage,
    ImageError,
    image_error,
    modified_at,
    readable_formats,
)
from similar_images.images.taken import taken_at

EXACT_RESIZE = 256  # a power of two: its multiples are not rounded
MAX_ASPECT = 16  # beyond it, resizing the whole image would need gigabytes
FOLDER = "it is a folder; query_code.py takes folders with --queries"
MAX_SIDE = 4096  # pixels, of a network's input: more is a mistake
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")  # as Pillow names them
CROP_MODES = ("center", "squash", "border")  # as timm names them
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")  # of a file's first box, ftyp
JXL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")  # of a codestream, of a container
TILE = 512  # pixels: the side of the squares in which an image is converted
SAMPLE = 1024  # pixels: the sides of what the range of its grey values is taken from, at most
OUTLIERS = 0.1  # percent of those values at each end that are not within the range
NO_VALUE = 1e30  # floats beyond it, such as -3.4e38, mark pixels without a value
LEAST_ROWS = 0.9  # share of a truncated JPEG's rows
ZEROS = 64  # bytes at the end of a file
NO_ROW = (127, 128)  # what libjpeg fills rows with that a file lacks
BYTES_A_PIXEL = 16  # at most, while an image is decoded and examined
MEMORY_SHARE = 1 / 3  # of the memory, for the largest image
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's, in bytes
USUAL_MEMORY = 8 << 30  # bytes, where the system does not tell
GDAL_NODATA = 42113  # the tag of a TIFF that names such a value


class TooLargeError(ImageError):
    """An image with more pixels than may be decoded."""


class DecodedImage(NamedTuple):
    """An image as its row describes it: its own size, and its file as it was decoded.

    label: '' until it is known.
    """

    path: str
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970
    width: int  # pixels, upright
    height: int
    content_hash: str = ""  # of the file
    taken_at: int = 0  # Unix milliseconds, 0 if it is not known
    label: str = ""


class Decoded(NamedTuple):
    """An image as it was decoded.

    rgb: as of to_rgb(). stored: upright, with the mode, the transparency and all bits of the file.
    has_frames: whether the file has more than this: frames, pages, a camera's raw values. note:
    what is wrong with the file, although it was decoded.
    """

    info: DecodedImage
    rgb: Image.Image
    stored: Image.Image
    has_frames: bool
    note: str = ""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the square that a network takes: resized, then its centre cropped.

    Raises ValueError if a value is none that can be applied.
    """

    resize: int  # pixels: the short side after the resize; border: the long one; squash: both
    crop: int  # pixels: the side of the square
    interpolation: str = "bilinear"  # one of INTERPOLATIONS
    crop_mode: str = "center"  # one of CROP_MODES
    fill: str = "#000000"  # the colour around an image in crop mode border

    def __post_init__(self) -> None:
        """Check the values, which another package, or a file, may have given."""
        for value, known in ((self.interpolation, INTERPOLATIONS), (self.crop_mode, CROP_MODES)):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")
        whole = isinstance(self.resize, int) and isinstance(self.crop, int)
        if not whole or not 0 < self.crop <= self.resize <= MAX_SIDE:
            raise ValueError(f"{self.crop!r} of {self.resize!r} pixels can't be cropped")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the result."""
        return self.crop, self.crop, 3

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the network's input before normalisation, (crop, crop, 3) uint8, of an RGB image.

        It equals torchvision's Resize and CenterCrop of the Pillow image, or what timm's
        create_transform() has in their place for other crop modes. In crop mode center, a square
        that is resized to 256 is resized only where the crop keeps it, which gives the same bits
        in less time. Very long images are cropped first, too, and may differ by one grey level.
        """
        width, height = image.size
        wide, high = self._resized(width, height)
        left, upper = self._crop_start(wide), self._crop_start(high)
        resample = Image.Resampling[self.interpolation.upper()]
        exact = width == height and self.resize == EXACT_RESIZE
        long = max(width, height) > MAX_ASPECT * min(width, height)
        if self.crop_mode == "center" and (exact or long):
            scale_x, scale_y = width / wide, height / high
            right, lower = (left + self.crop) * scale_x, (upper + self.crop) * scale_y
            box = (left * scale_x, upper * scale_y, min(right, width), min(lower, height))
            return np.asarray(image.resize((self.crop, self.crop), resample, box=box))
        whole = image.resize((wide, high), resample)
        if self.crop_mode == "border":
            square = Image.new("RGB", (self.crop, self.crop), self.fill)
            square.paste(whole, (-left, -upper))
            return np.asarray(square)
        return np.asarray(whole.crop((left, upper, left + self.crop, upper + self.crop)))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after the resize."""
        if self.crop_mode == "squash":
            return self.resize, self.resize
        if self.crop_mode == "border":
            ratio = max(width, height) / self.resize
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        short = min(width, height)
        return self.resize * width // short, self.resize * height // short

    def _crop_start(self, resized: int) -> int:
        """Return where the crop starts along a side; negative where there is a border before it."""
        if resized < self.crop:
            return -((self.crop - resized) // 2)
        return round((resized - self.crop) / 2)


@functools.cache
def memory_size() -> int:
    """Return the bytes of memory that this process may use; torchrun's processes share them."""
    size = USUAL_MEMORY
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows has no such names
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit: "max"
        size = min(size, int(MEMORY_LIMIT.read_text()))
    return size // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def megapixels_that_fit() -> int:
    """Return the megapixels of the largest image that may be decoded, by this process's memory."""
    return max(1, int(memory_size() * MEMORY_SHARE / BYTES_A_PIXEL / 1e6))


def decode(
    root: Path, path: str, least_side: int | None = None, megapixels: float | None = None
) -> Decoded:
    """Return a description of the image root/path and its pixels as an RGB image; see to_rgb.

    least_side: pixels; a large JPEG is decoded at the smallest of libjpeg's scales (1/2, 1/4, 1/8)
    that leaves its short side at least so long, by leaving out DCT coefficients: 4 to 8 times as
    fast for a photograph of 12 megapixels. None, and other formats, are decoded whole. Of a
    camera's RAW file its preview is decoded. megapixels: the most that are decoded; by default
    megapixels_that_fit(). Raises ImageError if Pillow can't decode it, or if the file changes
    meanwhile, and TooLargeError if it has more pixels.
    """
    with _opened(root / path) as (file, status):
        suffix = os.path.splitext(path)[1].lower()
        content = content_hash(file, status.st_size, suffix)
        is_raw = suffix in RAW_SUFFIXES
        rgb, stored, (width, height), has_frames, note = _decode_file(
            preview_of(file, suffix) if is_raw else file,
            least_side,
            int(1e6 * (megapixels or megapixels_that_fit())),
        )
        taken = taken_at(stored) or (taken_at(file) if is_raw else 0)  # a preview may lack it
    info = DecodedImage(path, status.st_size, modified_at(status), width, height, content, taken)
    return Decoded(info, rgb, stored, has_frames or is_raw, note)


def hashed(root: Path, path: str) -> tuple[FoundImage, str]:
    """Return the file root/path as it is now, and the hash of its content; errors as of decode."""
    with _opened(root / path) as (file, status):
        found = FoundImage(path, status.st_size, modified_at(status))
        return found, content_hash(file, status.st_size, os.path.splitext(path)[1].lower())


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a file that may be an image; ImageError if it can't be, or changes meanwhile."""
    try:
        # Opened without waiting: a FIFO that has taken an image's place would block for ever.
        flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(place, os.O_RDONLY | flags)
    except OSError as error:
        if os.path.isdir(place):  # Windows does not open folders
            raise ImageError(FOLDER) from error
        raise image_error(error) from error
    try:
        before = os.fstat(handle)
        if stat.S_ISDIR(before.st_mode):
            raise ImageError(FOLDER)
        if not stat.S_ISREG(before.st_mode):
            raise ImageError("not a regular file")
        if not before.st_size:
            raise ImageError("an empty file")
        with open(handle, "rb", closefd=False) as file:  # some decoders close what they are given
            yield file, before
        after = os.fstat(handle)
    except OSError as error:
        raise image_error(error) from error
    finally:
        os.close(handle)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ImageError("it changed while it was read", unseen=True)


def _decode_file(
    file: BinaryIO, least_side: int | None, most_pixels: int
) -> tuple[Image.Image, Image.Image, tuple[int, int], bool, str]:
    """Return an image as RGB, perhaps at a reduced scale, and as stored; its width and height;
    whether it has more frames; what is wrong with it.
    """
    try:
        # A JPEG is decoded at a scale: what its header says is too large may not be so then.
        limit = None if _starts_with(file, JPEG_MAGIC) else most_pixels
        with _pillows_limit(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # beyond half the limit
            with Image.open(file, formats=readable_formats()) as image:
                width, height = image.size
                is_jpeg = isinstance(image, JpegImageFile)  # an MPO is one, too
                has_frames = not is_jpeg and getattr(image, "is_animated", False)
                if least_side and is_jpeg:
                    image.draft(None, (least_side, least_side))
                # A progressive one is kept as coefficients, of 4 to 8 bytes a pixel, until its end.
                whole = width * height // 2 if image.info.get("progressive") else 0
                if max(math.prod(image.size), whole) > most_pixels:
                    raise Image.DecompressionBombError
                note = _load(image, file) if is_jpeg else ""
                if image.size == (width, height):
                    rgb = to_rgb(image)
                    return rgb, image, rgb.size, has_frames, note
                own_size = (height, width) if _on_its_side(image) else (width, height)
                return to_rgb(image), image, own_size, has_frames, note
    except Image.DecompressionBombError as error:
        most = f"{most_pixels / 1e6:,.0f} megapixels"
        raise TooLargeError(f"it has more than {most}; see --max-megapixels") from error
    except ValueError as error:
        # Pillow refuses a PNG whose texts need over 1 MiB, also one inside an .ico.
        if "MAX_TEXT" in str(error) and _starts_with(file, PNG_MAGIC):
            return _decode_file(_without_texts(file), least_side, most_pixels)
        raise image_error(error) from error
    except UnidentifiedImageError as error:
        raise ImageError(_unsupported(file)) from error
    except Exception as error:  # decoders of damaged files raise any kind of exception
        raise image_error(error) from error


def _starts_with(file: BinaryIO, magic: bytes) -> bool:
    file.seek(0)
    found = file.read(len(magic)) == magic
    file.seek(0)
    return found


def _without_texts(png: BinaryIO) -> BinaryIO:
    """Return a PNG without its texts and its colour profile."""
    png.seek(0)
    kept = io.BytesIO()
    kept.write(png.read(len(PNG_MAGIC)))
    while header := png.read(8):
        length = int.from_bytes(header[:4]) + 4  # with the checksum
        if header[4:] in PNG_TEXTS:
            png.seek(length, os.SEEK_CUR)
        else:
            kept.write(header + png.read(length))
    kept.seek(0)
    return kept


@contextlib.contextmanager
def _pillows_limit(pixels: int | None) -> Iterator[None]:
    """Let Pillow open and decode images with at most so many pixels; it refuses twice its limit."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels and max(1, pixels // 2)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _load(jpeg: ImageFile.ImageFile, file: BinaryIO) -> str:
    """Decode a JPEG, without its end if LEAST_ROWS are there; return what is wrong with it."""
    try:
        jpeg.load()
        return ""
    except OSError as error:
        if "truncated" not in str(error) or _ends_in_zeros(file):  # zeros decode to plain rows
            raise
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            jpeg.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        last = math.ceil(LEAST_ROWS * jpeg.height)
        if np.isin(np.asarray(jpeg.crop((0, last - 1, jpeg.width, last))), NO_ROW).all():
            raise
    return "the end of the file is missing"


def _ends_in_zeros(file: BinaryIO) -> bool:
    """Return whether the end of a file was never written, as of an interrupted download."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - ZEROS))
    return not any(file.read())


def _unsupported(file: BinaryIO) -> str:
    """Return why Pillow can't identify a file, and what to install if it is HEIC or JPEG XL."""
    file.seek(0)
    head, package = file.read(12), ""
    if head[4:8] == b"ftyp" and head[8:] in HEIC_BRANDS and "HEIF" not in readable_formats():
        package = PACKAGES[".heic"]
    if head.startswith(JXL_STARTS) and "JXL" not in readable_formats():
        package = PACKAGES[".jxl"]
    advice = f"; run pip install {package}" if package else ""
    return f"not an image format that Pillow supports{advice}"


def _on_its_side(image: Image.Image) -> bool:
    """Return whether an image's EXIF orientation exchanges its width and height."""
    with contextlib.suppress(Exception):  # damaged EXIF data are ignored in to_rgb, too
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return False


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB: its first frame, upright by its EXIF orientation.

    What is transparent is laid over white. Embedded colour profiles (ICC) are not applied, as by
    torchvision's loaders, which call Image.open(...).convert("RGB"). The given image may be
    changed. At most 4 bytes a pixel are needed beside it, and some 15 MB.
    """
    image.load()
    with contextlib.suppress(Exception):  # a viewer shows an image with damaged EXIF data, too
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        return _in_tiles(image, _grey_scale(image))
    if image.has_transparency_data:
        return _in_tiles(image, _over_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_tiles(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return an image as RGB, converted in squares: wider types then take little memory."""
    rgb = Image.new("RGB", image.size)
    for box, tile in _tiles(image):
        rgb.paste(convert(tile), box)
    return rgb


def _tiles(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    for upper in range(0, image.height, TILE):
        for left in range(0, image.width, TILE):
            lower, right = min(upper + TILE, image.height), min(left + TILE, image.width)
            yield (left, upper, right, lower), image.crop((left, upper, right, lower))


def _over_white(tile: Image.Image) -> Image.Image:
    if tile.mode in ("RGBa", "La"):  # colours multiplied by their opacity
        tile = tile.convert(tile.mode[:-1] + "A")
    rgba = tile.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _grey_scale(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return what converts grey values of 16 bits, 32 bits or floats to 8 bits.

    Whole numbers from 0 to 255 stay as they are. Others are scaled as viewers of such files show
    them (ImageJ, QGIS): from the least to the greatest value, but for OUTLIERS at each end, such as
    hot pixels, and for what marks pixels without a value. A plain image keeps its grey value.
    """
    sample = image.resize([min(side, SAMPLE) for side in image.size], Image.Resampling.NEAREST)
    values = np.asarray(sample, np.float64)
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):  # there is no such
        values = values[values != float(image.tag_v2[GDAL_NODATA])]  # type: ignore[attr-defined]
    values = values[np.abs(values) < NO_VALUE]  # which no NaN is
    values = values if values.size else np.zeros(1)
    least, most = values.min(), values.max()
    low, high = np.percentile(values, (OUTLIERS, 100 - OUTLIERS), method="nearest")
    if low == high:
        low, high = least, most
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    if low == high or (image.mode != "F" and least >= 0 and most <= 255):
        low, high = 0.0, next((top for top in tops if most <= top), most)

    def to_grey(tile: Image.Image) -> Image.Image:
        known = np.nan_to_num(np.asarray(tile, np.float64), nan=low, posinf=high, neginf=low)
        grey = (known.clip(low, high) - low) * (255 / (high - low))
        return Image.fromarray(grey.round().astype(np.uint8))

    return to_grey
