"""What is kept of each image of a run: 32×32 pixels to compare, and a thumbnail to show.

Both are made where the image is decoded, so that this happens once. Of large packages only
Pillow and NumPy are imported: a decode worker imports this file as it starts.
"""

import hashlib
import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from similar_images.images.decoding import DecodedImage

SIDE = 32  # pixels: the reduced images are squares of this side
DETAIL = 12  # different rows and columns: with fewer, only equal pixels make near-duplicates
LINES_AT_ONCE = 32  # enough for a photograph
PLAIN = 8  # grey levels: a line of pixels that differ by no more has one colour
GAP = 16  # with less, the scale at which an image was decoded shows in its 32×32 pixels
THUMBNAIL = 192  # pixels: the longest side of a thumbnail
UNREDUCED = 96  # pixels: images of at most this side are shown as they are


class Reduction(NamedTuple):
    """What is compared of an image.

    pixels: 3,072 bytes, (32, 32, 3) uint8. width, height: pixels of the whole image, upright.
    rows, columns: its detail, at most 32 each: without the repetitions of an enlarged image.
    fine: whether enough rows and columns differ from the one before: parallel stripes do not.
    plain_edge: whether without_strips() may change it. scaled: whether the image was decoded at
    a reduced scale. digest: of the pixels it was made from, before they were enlarged.
    """

    pixels: bytes
    width: int
    height: int
    rows: int
    columns: int
    fine: bool
    plain_edge: bool
    scaled: bool
    digest: bytes
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970

    @property
    def array(self) -> np.ndarray:
        """The pixels, (32, 32, 3) uint8."""
        return np.frombuffer(self.pixels, np.uint8).reshape(SIDE, SIDE, 3)


class Examined(NamedTuple):
    """What examine() finds. thumbnail: empty where the image itself is as small."""

    small: Reduction
    thumbnail: bytes


def examine(info: DecodedImage, rgb: Image.Image) -> Examined:
    """Return what is kept of a decoded image."""
    small = max(info.width, info.height) <= UNREDUCED
    factor = max(rgb.size) // (2 * THUMBNAIL)
    if factor > 1 and rgb.size != (info.width, info.height):  # decoded at a reduced scale already
        rgb = rgb.reduce(factor)
    return Examined(reduced(info, rgb), b"" if small else thumbnail(info, rgb))


def reduced(info: DecodedImage, rgb: Image.Image) -> Reduction:
    """Return what is compared of a decoded image."""
    scaled = rgb.size != (info.width, info.height)
    pixels = np.asarray(rgb)
    sides = [_changes_between(lines) for lines in (pixels, pixels.swapaxes(0, 1))]
    down, right = (math.gcd(*places) for places in sides)
    pixels = pixels[::down, ::right]
    rows, columns = (min(side, SIDE) for side in pixels.shape[:2])
    small = resized(rgb, (rows, columns))
    return Reduction(
        pixels=small.tobytes(),
        width=info.width,
        height=info.height,
        rows=rows,
        columns=columns,
        fine=min(map(len, sides)) >= DETAIL,
        plain_edge=_has_plain_edge(small),
        scaled=scaled,
        digest=_digest(pixels, scaled),
        file_size=info.file_size,
        modified_at=info.modified_at,
    )


def whole_digest(_info: DecodedImage, rgb: Image.Image) -> bytes:
    """Return a digest of all pixels of a decoded image."""
    return _digest(np.asarray(rgb))


def _digest(pixels: np.ndarray, scaled: bool = False) -> bytes:
    digest = hashlib.blake2b(f"{pixels.shape} {scaled}".encode(), digest_size=32)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def thumbnail(_info: DecodedImage, rgb: Image.Image) -> bytes:
    """Return a decoded image as a small file."""
    out = io.BytesIO()
    if max(rgb.size) <= UNREDUCED:
        rgb.save(out, "PNG")
        return out.getvalue()
    factor = min(1, THUMBNAIL / max(rgb.size))
    width, height = (max(1, round(side * factor)) for side in rgb.size)
    small = rgb.resize((width, height), Image.Resampling.HAMMING, reducing_gap=2)
    small.save(out, "JPEG", quality=85)
    return out.getvalue()


def _changes_between(lines: np.ndarray) -> list[int]:
    """Return where an image's lines differ from the line before, and the number of lines.

    lines: (N, length, 3). The greatest common divisor of the result is by how much an enlarged
    image was enlarged; where that is 1 and there is detail enough, the result is incomplete.

    >>> _changes_between(np.arange(48).reshape(4, 4, 3).repeat(8, axis=0))
    [8, 16, 24, 32]
    """
    changed = np.append(np.zeros(len(lines) - 1, bool), True)
    for start in range(0, lines.shape[1], LINES_AT_ONCE):  # bounded memory, whatever the size
        some = lines[:, start : start + LINES_AT_ONCE]
        changed[:-1] |= (some[1:] != some[:-1]).any((1, 2))
        places = [int(place) + 1 for place in np.flatnonzero(changed)]
        if len(places) >= DETAIL and math.gcd(*places) == 1:
            break
    return places


def resized(image: Image.Image, detail: tuple[int, int]) -> np.ndarray:
    """Return an image as (32, 32, 3) uint8, with the detail of so many rows and columns."""
    if image.size != (SIDE, SIDE) or detail != (SIDE, SIDE):
        image = image.resize(detail[::-1], Image.Resampling.BOX, reducing_gap=GAP)
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _has_plain_edge(pixels: np.ndarray) -> bool:
    edges = np.stack([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool((np.ptp(edges, axis=1).max(1) <= PLAIN).any())


def without_strips(pixels: np.ndarray) -> np.ndarray:
    """Return an image whose strips of one colour along its edges are filled from beside them.

    A shift or a frame leaves such strips, and the line where they end would count as structure.
    """
    for _ in range(4):  # the upper edge; rotated, each of the others
        plain = int(np.argmax(np.append(np.ptp(pixels, axis=1).max(1) > PLAIN, True)))
        if 0 < plain <= SIDE // 4:  # and the line in which the strip meets the image
            pixels = np.concatenate([pixels[[plain + 1]].repeat(plain + 1, 0), pixels[plain + 1 :]])
        pixels = np.rot90(pixels)
    return pixels
