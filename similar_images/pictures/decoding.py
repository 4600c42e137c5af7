"""From a file to the network's input: a picture as a viewer shows it, resized and cut.

Pillow and NumPy only: a decode worker imports this file and starts in a fraction of a second.
"""

import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from similar_images.pictures.image_files import ImageError, image_error, readable_formats

EXACT_RESIZE = 256  # by a power of two, whose multiples have no rounding
MAX_ASPECT = 16  # beyond it, resizing the whole picture would need gigabytes


class DecodedImage(NamedTuple):
    """What is known of a picture once it is decoded; the file as it was while decoding."""

    path: str
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970
    width: int  # pixels, as a viewer shows it
    height: int


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the square that a network takes: resized, its centre cut out."""

    resize: int  # pixels: the short side after the resize
    crop: int  # pixels: the side of the square
    interpolation: str = "bilinear"  # Pillow's name of it

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of its result: height, width, channels."""
        return self.crop, self.crop, 3

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return an RGB image as the network sees it before normalising: (crop, crop, 3) uint8.

        Equal to torchvision's Resize and CenterCrop on a Pillow image. Only of a square resized to
        256 is the part that the crop keeps resized alone: there, both give the same values to the
        bit (elsewhere they round differently), in 0.30 ms of a CIFAR-10 image instead of 0.37.
        Very long pictures, too, are cut first, and may differ by one grey level.
        """
        width, height = image.size
        short = min(width, height)
        left, wide = self._crop_span(width, short)
        upper, high = self._crop_span(height, short)
        resample = Image.Resampling[self.interpolation.upper()]
        exact = width == height and self.resize == EXACT_RESIZE
        if exact or max(width, height) > MAX_ASPECT * short:
            scale_x, scale_y = width / wide, height / high
            right, lower = (left + self.crop) * scale_x, (upper + self.crop) * scale_y
            box = (left * scale_x, upper * scale_y, min(right, width), min(lower, height))
            return np.asarray(image.resize((self.crop, self.crop), resample, box=box))
        whole = image.resize((wide, high), resample)
        return np.asarray(whole.crop((left, upper, left + self.crop, upper + self.crop)))

    def _crop_span(self, side: int, short: int) -> tuple[int, int]:
        """Return where the crop starts on a side of the resized image, and that side's length."""
        resized = self.resize * side // short
        return round((resized - self.crop) / 2), resized


def decode(root: Path, path: str) -> tuple[DecodedImage, Image.Image]:
    """Return what is known of root/path and its pixels as an RGB image, as a viewer shows it.

    Raises ImageError if Pillow can't decode it, or if the file changed meanwhile.
    """
    try:
        # Opened without waiting: a FIFO that has taken a picture's place must not hold us up.
        flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(root / path, os.O_RDONLY | flags)
    except OSError as error:
        raise image_error(error) from error
    try:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            raise ImageError("not a regular file")
        with open(handle, "rb", closefd=False) as file:  # some decoders close what they are given
            rgb = _decode_file(file)
        after = os.fstat(handle)
    finally:
        os.close(handle)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ImageError("it changed while it was read")
    info = DecodedImage(path, before.st_size, before.st_mtime_ns, rgb.width, rgb.height)
    return info, rgb


def _decode_file(file: BinaryIO) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's limit for bombs is an error all the same
            with Image.open(file, formats=readable_formats()) as image:
                return to_rgb(image)
    except UnidentifiedImageError as error:
        raise ImageError("not a picture in a format that Pillow decodes") from error
    except Exception as error:  # decoders of damaged files raise what they like
        raise image_error(error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB, upright, over white where it is transparent.

    Of an animated image it is the first frame.
    """
    image.load()
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data don't hide the picture in a viewer either
        upright = image
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright
    if upright.mode.startswith(("I", "F")):
        return Image.fromarray(to_bytes(np.asarray(upright))).convert("RGB")
    if upright.mode in ("RGBa", "La"):  # colours multiplied by their opacity
        upright = upright.convert(upright.mode[:-1] + "A")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright.convert("RGB")


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Return grey values of 16 bits, 32 bits or floats as uint8, scaled by what they hold.

    16 bits keep the higher eight. Others are taken for 0 to 1 (floats), for 8 bits or for 16
    bits if they fit, and else are spread from their least to their most.
    """
    if values.dtype.itemsize == 2:
        return (values // 256).clip(0, 255).astype(np.uint8)
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low, high = least, most
    if least >= 0:
        tops = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
        low, high = 0.0, next((top for top in tops if most <= top), most)
    known = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    grey = (known - low) * (255 / ((high - low) or 1))
    return grey.clip(0, 255).round().astype(np.uint8)
