"""decoding.py: images decoded and preprocessed, against Pillow and torchvision."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from similar_images.images import decoding
from similar_images.images.decoding import MAX_ASPECT, TILE, Preprocessing, decode, to_rgb
from similar_images.images.image_files import ImageError

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


def test_a_very_long_image_costs_little() -> None:
    assert preprocess(noise(20_000, 1)).shape == preprocess.shape == (224, 224, 3)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "YCbCr", "HSV", "LAB"])
def test_modes_decode_as_pillow_converts_them(mode: str, own_folder: Path) -> None:
    image = noise(40, 30).convert(mode)
    image.save("x.tif") if mode != "HSV" else noise(40, 30).save("x.tif")
    expected = Image.open("x.tif").convert("RGB")
    info, rgb = decode(own_folder, "x.tif")[:2]
    np.testing.assert_array_equal(np.asarray(rgb), np.asarray(expected))
    assert (info.width, info.height) == (40, 30)
    assert info.file_size == Path("x.tif").stat().st_size


def with_palette(mode: str, pixel: object, transparency: object = None) -> Image.Image:
    image = Image.new(mode, (1, 1), pixel)  # type: ignore[arg-type]
    image.putpalette([0, 0, 0, 10, 20, 30])
    return with_transparent(image, transparency) if transparency is not None else image


def with_transparent(image: Image.Image, colour: object) -> Image.Image:
    image.info["transparency"] = colour  # as the decoders of PNG and GIF note it
    return image


def pixel(mode: str, value: object) -> Image.Image:
    return Image.new(mode, (1, 1), value)  # type: ignore[arg-type]


SHOWN = [  # an image of one pixel, and its colour over white, computed by hand
    (pixel("1", 1), (255, 255, 255)),
    (pixel("L", 100), (100, 100, 100)),
    (with_transparent(pixel("L", 100), 100), (255, 255, 255)),
    (with_transparent(pixel("L", 100), 99), (100, 100, 100)),
    (pixel("LA", (100, 128)), (177, 177, 177)),  # 100 * 128/255 + 127
    (pixel("La", (50, 128)), (177, 177, 177)),  # the grey value is multiplied already
    (pixel("RGB", (1, 2, 3)), (1, 2, 3)),
    (with_transparent(pixel("RGB", (1, 2, 3)), (1, 2, 3)), (255, 255, 255)),
    (pixel("RGBA", (255, 0, 0, 255)), (255, 0, 0)),
    (pixel("RGBA", (255, 0, 0, 128)), (255, 127, 127)),
    (pixel("RGBA", (255, 0, 0, 0)), (255, 255, 255)),
    (pixel("RGBa", (128, 0, 0, 128)), (255, 127, 127)),
    (pixel("RGBX", (9, 8, 7, 6)), (9, 8, 7)),
    (with_palette("P", 1), (10, 20, 30)),
    (with_palette("P", 1, 1), (255, 255, 255)),
    (with_palette("P", 1, bytes([255, 128])), (132, 137, 142)),  # 10 * 128/255 + 127, and so on
    (with_palette("PA", (1, 128)), (132, 137, 142)),
    (pixel("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
    (pixel("CMYK", (0, 0, 0, 100)), (155, 155, 155)),
    (pixel("YCbCr", (76, 85, 255)), (254, 0, 0)),  # red, rounded
    (pixel("HSV", (85, 255, 255)), (0, 255, 0)),
    (pixel("I;16", 25_700), (100, 100, 100)),
    (pixel("I;16B", 25_700), (100, 100, 100)),
    (pixel("I;16", 100), (100, 100, 100)),
    (pixel("I", 100), (100, 100, 100)),
    (pixel("F", 0.2), (51, 51, 51)),
]


@pytest.mark.parametrize(("image", "colour"), SHOWN, ids=lambda x: getattr(x, "mode", ""))
def test_every_mode_is_shown_in_its_colours(
    image: Image.Image, colour: tuple[int, int, int]
) -> None:
    rgb = to_rgb(image.copy())
    assert (rgb.mode, rgb.size, rgb.getpixel((0, 0))) == ("RGB", (1, 1), colour)


def test_transparency_is_shown_over_white(own_folder: Path) -> None:
    """In an image larger than the squares that are converted at a time."""
    size = (TILE + 20, 2 * TILE + 3)
    image = noise(*size).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(size))
    image.save("x.tif")
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(own_folder, "x.tif").rgb), np.asarray(expected))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.int32([[0, 100, 200, 255]]), [0, 100, 200, 255]),
        (np.uint16([[0, 1, 2, 20]]), [0, 1, 2, 20]),  # a mask, as its version of 8 bits
        (np.int32([[200, 200, 200, 200]]), [200] * 4),
        (np.uint16([[0, 257, 65535, 32896]]), [0, 1, 255, 128]),
        (np.uint16([[0, 16, 4080, 2048]]), [0, 1, 255, 128]),  # 12 bits
        (np.int32([[-50, 0, 100, 150]]), [0, 64, 191, 255]),
        (np.float32([[0, 0.2, 0.8, 1]]), [0, 51, 204, 255]),
        (np.float32([[0.8, 0.8, 0.8, 0.8]]), [204] * 4),
        (np.float32([[0, 51, 204, 255]]), [0, 51, 204, 255]),
        (np.float32([[-0.5, 0, 1, 1.5]]), [0, 64, 191, 255]),
        (np.float32([[0, 0.2, 0.8, 1.003]]), [0, 51, 203, 255]),
        (np.float32([[np.nan, 0.2, np.inf, 1.2]]), [0, 0, 255, 255]),
        (np.float32([[-3.4028235e38, 200, 500, 800]]), [0, 0, 128, 255]),  # elevation
        (np.float32([[-np.inf, np.nan, np.nan, np.nan]]), [0] * 4),
    ],
)
def test_numbers_are_scaled_by_what_they_hold(
    values: np.ndarray, expected: list[int], own_folder: Path
) -> None:
    Image.fromarray(np.repeat(values, 3, axis=0)).save("x.tif")
    shown = np.asarray(decode(own_folder, "x.tif").rgb)
    assert shown[1, :, 2].tolist() == expected


def test_sixteen_bits_show_the_same_as_eight(own_folder: Path) -> None:
    """Whatever range of the 16 bits is used, beside a few hot pixels; elevation beside no value."""
    eight = np.asarray(Image.linear_gradient("L").resize((TILE + 5, 2 * TILE + 5))).astype(int)
    for factor, offset in ((257, 0), (16, 0), (1, 300), (4, 1000)):
        sixteen = (eight * factor + offset).astype(np.uint16)
        sixteen[::5, 7] = 65535
        Image.fromarray(sixteen).save("x.png")
        wrong = np.abs(np.asarray(decode(own_folder, "x.png").rgb)[..., 1] - eight.astype(float))
        assert (wrong <= 4).mean() > 0.999
    elevation = np.where(eight < 60, -9999, eight * 3.5).astype(np.float32)
    Image.fromarray(elevation).save("x.tif", tiffinfo={decoding.GDAL_NODATA: "-9999"})
    shown = np.asarray(decode(own_folder, "x.tif").rgb)[..., 0]
    np.testing.assert_allclose(shown, (eight - 60).clip(0) * 255 / 195, atol=3)


# Kinds of images, and what Pillow's own image takes: bytes a pixel.
KINDS = {"F": 4, "I": 4, "I;16": 2, "RGBA": 4, "LA": 4, "CMYK": 4, "P": 1, "RGB": 4}
SIDE = 3000
MEMORY = """
import sys
from pathlib import Path
from similar_images.images.decoding import Preprocessing, decode

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

preprocess = Preprocessing(256, 224)
preprocess(decode(Path(), "small.tif").rgb)
before = peak()
preprocess(decode(Path(), "large.tif").rgb)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("mode", KINDS)
def test_a_large_image_takes_little_beside_its_decoded_pixels(mode: str, own_folder: Path) -> None:
    for name, side in (("small.tif", 100), ("large.tif", SIDE)):
        image = Image.linear_gradient("L").resize((side, side))
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image, np.uint16) * 257)
        elif mode in ("RGBA", "LA"):
            image.putalpha(image.copy())
        if mode != "I;16":
            image = image.convert(mode)
        if mode == "P":
            image.info["transparency"] = bytes(range(256))
        image.save(name, "PNG" if mode == "P" else "TIFF")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    printed = subprocess.check_output([sys.executable, "-c", MEMORY], env=environment)
    assert int(printed) / SIDE**2 < KINDS[mode] + 8


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 900), (900, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("name", ["F.tif", "I.tif", "RGBA.png", "P.gif", "RGB.jpg", "1.bmp"])
def test_images_one_pixel_wide_or_high(name: str, size: tuple[int, int], own_folder: Path) -> None:
    Image.new(name.partition(".")[0], size, 1).save(name)
    info, rgb = decode(own_folder, name)[:2]
    assert (info.width, info.height) == rgb.size == size
    assert preprocess(rgb).shape == (224, 224, 3)


def test_embedded_colour_profiles_are_not_applied(own_folder: Path) -> None:
    """As torchvision's loaders don't apply them either; this one would change every colour."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    image = noise(20, 20)
    image.save("x.png", icc_profile=profile.tobytes())
    with Image.open("x.png") as opened:
        assert opened.info["icc_profile"]
        expected = opened.convert("RGB")
    shown = np.asarray(decode(own_folder, "x.png").rgb)
    np.testing.assert_array_equal(shown, np.asarray(expected))
    np.testing.assert_array_equal(shown, np.asarray(image))


def test_a_png_with_long_texts_is_decoded(own_folder: Path) -> None:
    """Pillow refuses a megabyte of compressed text or profile, and 64 of text."""
    image, exif, long = noise(30, 20), Image.Exif(), "workflow " * 200_000
    exif[0x0112] = 6
    for name in ("zTXt.png", "iTXt.png", "after.png", "iCCP.png", "tEXt.png"):
        info = PngInfo()
        if name == "zTXt.png":
            info.add_text("workflow", long, zip=True)
        elif name == "iTXt.png":
            info.add_itxt("XML:com.adobe.xmp", long, zip=True)
        elif name == "after.png":
            info.add(b"zTXt", b"x\0\0" + zlib.compress(long.encode()), after_idat=True)
        elif name == "tEXt.png":
            info.add_text("workflow", 40 * long)
        profile = long.encode() if name == "iCCP.png" else None
        image.save(name, pnginfo=info, exif=exif, icc_profile=profile)
        with pytest.raises(ValueError, match="MAX_TEXT"):
            Image.open(name).load()
        rgb = decode(own_folder, name).rgb
        np.testing.assert_array_equal(np.asarray(rgb), np.asarray(image.transpose(STORED[8])))
    cut = Path("iTXt.png").read_bytes()
    Path("iTXt.png").write_bytes(cut[:-1000])
    with pytest.raises(ImageError, match="truncated"):
        decode(own_folder, "iTXt.png")


# How a camera that was held in each of EXIF's orientations stores an upright image.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation_is_honoured(orientation: int, own_folder: Path) -> None:
    upright = noise(30, 20)
    stored = upright.transpose(STORED[orientation]) if orientation in STORED else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save("x.png", exif=exif)
    info, rgb = decode(own_folder, "x.png")[:2]
    assert (info.width, info.height) == (30, 20)
    np.testing.assert_array_equal(np.asarray(rgb), np.asarray(upright))


def test_a_gif_named_png_decodes_and_shows_its_first_frame(own_folder: Path) -> None:
    frames = [noise(16, 16).convert("P"), noise(16, 17).resize((16, 16)).convert("P")]
    frames[0].save("x.gif", save_all=True, append_images=frames[1:])
    os.rename("x.gif", "x.png")
    _, rgb = decode(own_folder, "x.png")[:2]
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
        np.asarray(decode(own_folder, f"x.{suffix}").rgb), np.asarray(expected)
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
    np.testing.assert_array_equal(np.asarray(decode(own_folder, f"x.{suffix}").rgb), pixels)


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
    with pytest.raises(ImageError, match=r"\w") as caught:
        decode(own_folder, "x.png", megapixels=399)
    assert (what == "bomb") == ("it has more than 399 megapixels; see --max" in str(caught.value))
    assert (what == "folder") == ("takes folders with --queries" in str(caught.value))
    assert caught.value.unseen == (what == "missing")


def test_an_image_that_changes_while_it_is_read_is_refused(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is kept: what the file holds now is not known."""
    noise(8, 8).save("x.png")
    monkeypatch.setattr(decoding, "to_rgb", lambda image: os.utime("x.png", (1, 1)) or image)
    with pytest.raises(ImageError, match="it changed while it was read") as caught:
        decode(own_folder, "x.png")
    assert caught.value.unseen


def test_what_needs_another_package_says_what_to_install(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "readable_formats", lambda: ("PNG", "JPEG"))
    reason = "^not an image format that Pillow supports"
    for start, advice in (
        (b"\0\0\0\x18ftypheic", "; run pip install pillow-heif$"),
        (b"\0\0\0\x18ftypqt  ", "$"),
        (b"\xff\x0a", "; run pip install pillow-jxl-plugin$"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "; run pip install pillow-jxl-plugin$"),
    ):
        Path("x.jpg").write_bytes(start + bytes(99))
        with pytest.raises(ImageError, match=reason + advice):
            decode(own_folder, "x.jpg")


EXIF = {"DateTimeOriginal": "2026:07:04 12:30:05"}
NOON = 1_783_168_205_000  # of which "date --utc --date=@1783168205" makes that time
TIMES = {
    "a": (EXIF, NOON),
    "b": (EXIF | {"OffsetTimeOriginal": "+02:00"}, NOON - 7_200_000),
    "c": (EXIF | {"OffsetTimeOriginal": "-03:30"}, NOON + 12_600_000),
    "d": (EXIF | {"OffsetTimeOriginal": "   :  ", "SubsecTimeOriginal": "12"}, NOON + 120),
    "e": ({"DateTimeOriginal": "1955:11:05 06:00:00"}, -446_752_800_000),
    "f": ({"DateTimeOriginal": "0000:00:00 00:00:00"}, 0),
    "g": ({"DateTimeOriginal": "1970:05:06 07:08:09"}, 0),
    "h": ({"DateTimeOriginal": "2000:01:01 00:03:04"}, 0),
    "i": ({}, 0),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_when_a_photograph_was_taken_is_read(suffix: str, own_folder: Path) -> None:
    for name, (tags, expected) in TIMES.items():
        exif, taken = Image.Exif(), {ExifTags.Base[tag].value: text for tag, text in tags.items()}
        exif[ExifTags.Base.Orientation], path = 6, f"{name}.{suffix}"
        if suffix == "tif":
            options = {"tiffinfo": {**exif, ExifTags.IFD.Exif: taken}}
        else:
            exif.get_ifd(ExifTags.IFD.Exif).update(taken)
            options = {"exif": exif}
        Image.new("RGB", (30, 20)).save(path, **options)
        info = decode(Path(), path, 8).info
        assert (info.taken_at, info.width) == (expected, 20), path
