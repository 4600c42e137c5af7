"""From a file to the network's input: decoded to RGB, upright, resized and cropped.

Of large packages only Pillow and NumPy are imported: a decode worker imports this file as it
starts.
"""

import contextlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from similar_images.images.image_files import ImageError, image_error, readable_formats

EXACT_RESIZE = 256  # a power of two: its multiples are not rounded
MAX_ASPECT = 16  # beyond it, resizing the whole image would need gigabytes
FOLDER = "it is a folder; query_code.py takes folders with --queries"
MAX_SIDE = 4096  # pixels, of a network's input: more is a mistake
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")  # as Pillow names them
CROP_MODES = ("center", "squash", "border")  # as timm names them
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")  # of a file's first box, ftyp
TILE = 512  # pixels: the side of the squares in which an image is converted


class DecodedImage(NamedTuple):
    """An image's own size, and its file's size and time when it was decoded."""

    path: str
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970
    width: int  # pixels, upright
    height: int


class Decoded(NamedTuple):
    """An image as it was decoded.

    rgb: as of to_rgb(). stored: upright, with the mode, the transparency and all bits of the file.
    has_frames: whether the file has more frames or pages than this first one.
    """

    info: DecodedImage
    rgb: Image.Image
    stored: Image.Image
    has_frames: bool


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


def decode(root: Path, path: str, least_side: int | None = None) -> Decoded:
    """Return a description of the image root/path and its pixels as an RGB image; see to_rgb.

    least_side: pixels; a large JPEG is decoded at the smallest of libjpeg's scales (1/2, 1/4, 1/8)
    that leaves its short side at least so long, by leaving out DCT coefficients: 4 to 8 times as
    fast for a photograph of 12 megapixels. None, and other formats, are decoded whole. Raises
    ImageError if Pillow can't decode it, or if the file changes meanwhile.
    """
    try:
        # Opened without waiting: a FIFO that has taken an image's place would block for ever.
        flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(root / path, os.O_RDONLY | flags)
    except OSError as error:
        if os.path.isdir(root / path):  # Windows does not open folders
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
            rgb, stored, (width, height), has_frames = _decode_file(file, least_side)
        after = os.fstat(handle)
    finally:
        os.close(handle)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ImageError("it changed while it was read", unseen=True)
    info = DecodedImage(path, before.st_size, before.st_mtime_ns, width, height)
    return Decoded(info, rgb, stored, has_frames)


def _decode_file(
    file: BinaryIO, least_side: int | None
) -> tuple[Image.Image, Image.Image, tuple[int, int], bool]:
    """Return an image as RGB, perhaps at a reduced scale, and as stored; its width and height."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # beyond twice Pillow's limit of pixels is an error
            with Image.open(file, formats=readable_formats()) as image:
                width, height = image.size
                is_jpeg = isinstance(image, JpegImageFile)  # an MPO is one, too
                has_frames = not is_jpeg and getattr(image, "is_animated", False)
                if least_side and is_jpeg:
                    image.draft(None, (least_side, least_side))
                if image.size == (width, height):
                    rgb = to_rgb(image)
                    return rgb, image, rgb.size, has_frames
                own_size = (height, width) if _on_its_side(image) else (width, height)
                return to_rgb(image), image, own_size, has_frames
    except UnidentifiedImageError as error:
        raise ImageError(_unsupported(file)) from error
    except Exception as error:  # decoders of damaged files raise any kind of exception
        raise image_error(error) from error


def _unsupported(file: BinaryIO) -> str:
    """Return why Pillow can't identify a file, and what to install if it is HEIC."""
    file.seek(4)
    heic = file.read(4) == b"ftyp" and file.read(4) in HEIC_BRANDS
    advice = "; run pip install pillow-heif" if heic and "HEIF" not in readable_formats() else ""
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

    Of 16 bits the higher eight are kept. Other values are taken to be from 0 to 1 (floats), of 8
    bits or of 16 bits if they all fit, and else are scaled from their least to their greatest.
    """
    if image.mode.startswith("I;16"):
        return lambda tile: Image.fromarray((np.asarray(tile) // 256).astype(np.uint8))
    least, most = np.inf, -np.inf
    for _, tile in _tiles(image):
        values = np.asarray(tile, np.float64)
        finite = np.isfinite(values)
        least = min(least, values.min(initial=np.inf, where=finite))
        most = max(most, values.max(initial=-np.inf, where=finite))
    low, high = (least, most) if least <= most else (0.0, 1.0)
    if low >= 0:
        tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next((top for top in tops if high <= top), high)
    scale = 255 / ((high - low) or 1)

    def to_grey(tile: Image.Image) -> Image.Image:
        values = np.asarray(tile, np.float64)
        known = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        return Image.fromarray(((known - low) * scale).clip(0, 255).round().astype(np.uint8))

    return to_grey
