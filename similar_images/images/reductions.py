"""What is kept of each image of a run: enough to compare it with others, and to show it.

It is made where the image is decoded, so that this happens once. Of large packages only Pillow and
NumPy are imported: a decode worker imports this file as it starts.
"""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from similar_images.images.decoding import Decoded

TINY = 32  # pixels: the side of the smallest form, a square
VIEW, GRAPHIC_VIEW = 512, 1024  # pixels: the longest side of the view; graphics have fine print
UNREDUCED = 96  # pixels: a view of at most this side has the image's own pixels
QUALITY = 92  # of the JPEG that keeps a larger view
PLAIN = 2  # grey levels: neighbouring pixels that differ by no more have one colour
GRAPHIC = 0.5  # the share of such pixels from which on an image is a graphic, or text
LOSSLESS = frozenset({"PNG", "BMP", "PPM", "TGA"})  # formats
PAGE, PAPER = (
    0.5,
    25,
)  # the share of pixels within so many grey levels on a page, also a scanned one
GAP = 16  # with less, the scale at which an image was decoded shows in its tiny form


class Reduction(NamedTuple):
    """What is kept of an image.

    tiny: 3,072 bytes, (32, 32, 3) uint8, whatever the image's shape. view: the image as a file, PNG
    or JPEG, at most 1,024 pixels wide and high. opacity: the same of its alpha channel, b'' where
    it is opaque. width, height: pixels of the whole image, upright. digest: of the stored values,
    with all bits and the alpha channel. scaled: whether the digest is not of all that is stored, as
    the image was decoded at a reduced scale, or has more frames. shown_whole: whether the view
    shows all of it; not so for animations, for files with several pages, for values of more than 8
    bits and for truncated files. lines: how many rows differ from the one before, or columns if
    fewer, up to 32 and more. coarseness: of a JPEG, the mean step to which its values were rounded;
    0 for lossless formats, -1 for others. features, mirrored_features: of verifying/features.py.
    taken_at: Unix milliseconds, 0 if it is not known.
    """

    tiny: bytes
    view: bytes
    opacity: bytes
    width: int
    height: int
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970
    digest: bytes
    scaled: bool
    shown_whole: bool
    lines: int
    coarseness: float
    features: bytes = b""
    mirrored_features: bytes = b""
    taken_at: int = 0

    @property
    def tiny_pixels(self) -> np.ndarray:
        """The tiny form, (32, 32, 3) uint8."""
        return np.frombuffer(self.tiny, np.uint8).reshape(TINY, TINY, 3)


def reduced(decoded: Decoded) -> Reduction:
    """Return what is kept of a decoded image, without its features."""
    info, rgb = decoded.info, decoded.rgb
    view = _view_of(rgb)
    opacity = _opacity(decoded.stored, view.size)
    return Reduction(
        tiny=_tiny(rgb).tobytes(),
        view=_as_file(view),
        opacity=_as_file(opacity) if opacity else b"",
        width=info.width,
        height=info.height,
        file_size=info.file_size,
        modified_at=info.modified_at,
        taken_at=info.taken_at,
        digest=_digest(decoded.stored),
        lines=_different_lines(rgb),
        coarseness=_coarseness(decoded.stored),
        scaled=rgb.size != (info.width, info.height) or decoded.has_frames,
        shown_whole=not (
            decoded.has_frames or decoded.note or decoded.stored.mode.startswith(("I", "F"))
        ),
    )


def opened(file: bytes, mode: str = "RGB") -> np.ndarray:
    """Return the pixels of a view, (height, width, 3) uint8; of opacity, with mode "L"."""
    return np.asarray(Image.open(io.BytesIO(file)).convert(mode))


def _different_lines(rgb: Image.Image) -> int:
    """Return how many rows differ from the one before, or columns if fewer; 32 for large images."""
    if min(rgb.size) >= UNREDUCED:
        return TINY
    pixels = np.asarray(rgb).astype(np.int16)
    return min(int(np.diff(pixels, axis=axis).any((1 - axis, 2)).sum()) for axis in (0, 1))


def view_size(reduction: Reduction) -> tuple[int, int]:
    """Return the height and width of a view, in pixels."""
    width, height = Image.open(io.BytesIO(reduction.view)).size
    return height, width


def fitted(image: Image.Image, side: int) -> Image.Image:
    """Return an image reduced to at most `side` pixels; smaller ones are not enlarged."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=4)


def _view_of(rgb: Image.Image) -> Image.Image:
    small = fitted(rgb, VIEW)
    if small.size == rgb.size or not _is_graphic(small):
        return small
    return fitted(rgb, GRAPHIC_VIEW)


def _is_graphic(image: Image.Image) -> bool:
    """Return whether most pixels have the colour of their neighbours, as in graphics and text.

    Or, in spite of noise, that of paper.
    """
    if min(image.size) < 2:
        return False
    grey = np.asarray(image.convert("L")).astype(np.int16)
    levels = np.bincount(grey.ravel(), minlength=256)
    if np.convolve(levels, np.ones(PAPER)).max() >= PAGE * grey.size:
        return True
    down, right = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1))
    return bool(((down[:, :-1] <= PLAIN) & (right[:-1] <= PLAIN)).mean() >= GRAPHIC)


def _coarseness(stored: Image.Image) -> float:
    tables = getattr(stored, "quantization", None)
    if tables and 0 in tables:
        return float(np.mean(tables[0]))
    return 0.0 if stored.format in LOSSLESS else -1.0


def _tiny(rgb: Image.Image) -> np.ndarray:
    return np.asarray(rgb.resize((TINY, TINY), Image.Resampling.BOX, reducing_gap=GAP))


def _opacity(stored: Image.Image, size: tuple[int, int]) -> Image.Image | None:
    """Return an image's alpha channel at the size of its view; None where it is opaque."""
    if not stored.has_transparency_data:
        return None
    alpha = stored.convert("RGBA").getchannel("A")
    if alpha.getextrema() == (255, 255):
        return None
    return alpha.resize(size, Image.Resampling.BOX)


def _as_file(image: Image.Image) -> bytes:
    out = io.BytesIO()
    if max(image.size) <= UNREDUCED:
        image.save(out, "PNG")
    else:
        image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _digest(stored: Image.Image) -> bytes:
    digest = hashlib.sha256(f"{stored.mode} {stored.size}".encode())
    if stored.palette:
        digest.update(stored.palette.tobytes())
    digest.update(repr(stored.info.get("transparency")).encode())
    digest.update(stored.tobytes())
    return digest.digest()
