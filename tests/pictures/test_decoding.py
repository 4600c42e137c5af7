"""decoding.py: pictures decoded and preprocessed, against Pillow and torchvision."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from similar_images.pictures.decoding import MAX_ASPECT, Preprocessing, decode, to_bytes
from similar_images.pictures.image_files import ImageError

preprocess = Preprocessing(256, 224)


def reference(image: Image.Image, ours: Preprocessing = preprocess) -> np.ndarray:
    """What the published transforms do before they normalise."""
    how = InterpolationMode(ours.interpolation)
    resized = vision.resize(image, [ours.resize], how, antialias=True)
    return np.asarray(vision.center_crop(resized, [ours.crop]))


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(1, 700))
def test_preprocessing_equals_torchvision(width: int, height: int) -> None:
    image = noise(width, height)
    long = max(width, height) > MAX_ASPECT * min(width, height)
    if long and max(width, height) > 100 * min(width, height):
        return  # torchvision would need gigabytes
    difference = np.abs(reference(image).astype(int) - preprocess(image))
    assert difference.max() <= (1 if long else 0)


PUBLISHED = [(256, 224, "bilinear"), (232, 224, "bicubic"), (384, 384, "bilinear")]


@pytest.mark.parametrize("side", [1, 7, 32, 96, 224, 255, 256, 257, 500, 1000])
@pytest.mark.parametrize("how", PUBLISHED)
def test_preprocessing_of_squares_equals_torchvision(side: int, how: tuple[int, int, str]) -> None:
    ours = Preprocessing(*how)
    np.testing.assert_array_equal(ours(noise(side, side)), reference(noise(side, side), ours))


def test_a_very_long_picture_costs_little() -> None:
    assert preprocess(noise(20_000, 1)).shape == preprocess.shape == (224, 224, 3)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "YCbCr", "HSV", "LAB"])
def test_modes_decode_as_pillow_converts_them(mode: str, own_folder: Path) -> None:
    image = noise(40, 30).convert(mode)
    image.save("x.tif") if mode != "HSV" else noise(40, 30).save("x.tif")
    expected = Image.open("x.tif").convert("RGB")
    info, rgb = decode(own_folder, "x.tif")
    np.testing.assert_array_equal(np.asarray(rgb), np.asarray(expected))
    assert (info.width, info.height) == (40, 30)
    assert info.file_size == Path("x.tif").stat().st_size


def test_transparency_is_shown_over_white(own_folder: Path) -> None:
    image = noise(20, 20).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((20, 20)))
    image.save("x.png")
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(own_folder, "x.png")[1]), np.asarray(expected))


def test_sixteen_bits_keep_the_higher_eight(own_folder: Path) -> None:
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save("x.png")
    shown = np.asarray(decode(own_folder, "x.png")[1])
    np.testing.assert_array_equal(shown[..., 0], values >> 8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.int32([[0, 100, 200, 255]]), [0, 100, 200, 255]),
        (np.int32([[200, 200, 200, 200]]), [200] * 4),
        (np.int32([[0, 257, 65535, 32896]]), [0, 1, 255, 128]),
        (np.int32([[-50, 0, 100, 150]]), [0, 64, 191, 255]),
        (np.float32([[0, 0.2, 0.8, 1]]), [0, 51, 204, 255]),
        (np.float32([[0.8, 0.8, 0.8, 0.8]]), [204] * 4),
        (np.float32([[0, 51, 204, 255]]), [0, 51, 204, 255]),
        (np.float32([[-0.5, 0, 1, 1.5]]), [0, 64, 191, 255]),
        (np.float32([[np.nan, 0.2, np.inf, 0.8]]), [0, 51, 255, 204]),
    ],
)
def test_numbers_are_scaled_by_what_they_hold(
    values: np.ndarray, expected: list[int], own_folder: Path
) -> None:
    assert to_bytes(values).tolist() == [expected]
    Image.fromarray(np.repeat(values, 3, axis=0)).save("x.tif")
    shown = np.asarray(decode(own_folder, "x.tif")[1])
    assert shown[1, :, 2].tolist() == expected


def test_exif_orientation_is_honoured(own_folder: Path) -> None:
    image = noise(30, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save("x.png", exif=exif)
    info, rgb = decode(own_folder, "x.png")
    assert (info.width, info.height) == (20, 30)
    turned = image.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(rgb), np.asarray(turned))


def test_a_gif_named_png_decodes_and_shows_its_first_frame(own_folder: Path) -> None:
    frames = [noise(16, 16).convert("P"), noise(16, 17).resize((16, 16)).convert("P")]
    frames[0].save("x.gif", save_all=True, append_images=frames[1:])
    os.rename("x.gif", "x.png")
    _, rgb = decode(own_folder, "x.png")
    np.testing.assert_array_equal(np.asarray(rgb), np.asarray(frames[0].convert("RGB")))


# Formats that Pillow writes and reads, without those that it reads by another program.
WRITTEN = ["blp", "bmp", "dds", "dib", "gif", "icns", "ico", "im", "jp2", "jpg", "mpo", "msp"]
WRITTEN += ["pcx", "pgm", "png", "ppm", "qoi", "sgi", "tga", "tif", "webp", "xbm", "avif"]


@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_pillow_opens_is_decoded(suffix: str, own_folder: Path) -> None:
    mode = {"msp": "1", "xbm": "1", "blp": "P", "pgm": "L"}.get(suffix, "RGB")
    try:
        noise(64, 64).convert(mode).save(f"x.{suffix}")
    except (OSError, ValueError, KeyError) as error:
        pytest.skip(f"this Pillow can't write it: {error}")
    expected = Image.open(f"x.{suffix}").convert("RGB")
    np.testing.assert_array_equal(
        np.asarray(decode(own_folder, f"x.{suffix}")[1]), np.asarray(expected)
    )


def ftex(pixels: np.ndarray) -> bytes:
    """An uncompressed texture of Independence War 2: its decoder closes the file it is given."""
    import struct

    height, width, _ = pixels.shape
    header = b"FTEX" + struct.pack("<i2i2i", 1, width, height, 1, 1)
    where = struct.pack("<2i", 1, len(header) + 8)
    return header + where + struct.pack("<i", pixels.nbytes) + pixels.tobytes()


@pytest.mark.parametrize("suffix", ["ftc", "ftu"])
def test_decoders_that_close_their_file_are_no_trouble(suffix: str, own_folder: Path) -> None:
    pixels = np.asarray(noise(8, 4))
    Path(f"x.{suffix}").write_bytes(ftex(pixels))
    np.testing.assert_array_equal(np.asarray(Image.open(f"x.{suffix}")), pixels)
    np.testing.assert_array_equal(np.asarray(decode(own_folder, f"x.{suffix}")[1]), pixels)


@pytest.mark.parametrize(
    "what", ["empty", "text", "truncated", "missing", "folder", "pipe", "bomb"]
)
def test_what_cannot_be_decoded_raises(what: str, own_folder: Path) -> None:
    path = Path("x.png")
    noise(64, 64).save(path)
    if what == "empty":
        path.write_bytes(b"")
    elif what == "text":
        path.write_text("hello")
    elif what == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif what == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    else:
        path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    with pytest.raises(ImageError, match=r"\w"):
        decode(own_folder, "x.png")
