"""image_files.py: pictures found, decoded, preprocessed; against Pillow and torchvision."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

import image_files
from image_files import Decoder, ImageError, Skipped, decode, iter_images, preprocess, printable


def reference(image: Image.Image) -> np.ndarray:
    """What the published transforms do before they normalise."""
    resized = vision.resize(image, [256], InterpolationMode.BILINEAR, antialias=True)
    return np.asarray(vision.center_crop(resized, [224]))


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(1, 700))
def test_preprocessing_equals_torchvision(width: int, height: int) -> None:
    image = noise(width, height)
    long = max(width, height) > image_files.MAX_ASPECT * min(width, height)
    if long and max(width, height) > 100 * min(width, height):
        return  # torchvision would need gigabytes
    difference = np.abs(reference(image).astype(int) - preprocess(image))
    assert difference.max() <= (1 if long else 0)


@pytest.mark.parametrize("side", [1, 7, 32, 96, 224, 255, 256, 257, 500, 1000])
def test_preprocessing_of_squares_equals_torchvision(side: int) -> None:
    np.testing.assert_array_equal(preprocess(noise(side, side)), reference(noise(side, side)))


def test_a_very_long_picture_costs_little() -> None:
    assert preprocess(noise(20_000, 1)).shape == (224, 224, 3)


def test_pictures_are_found_by_suffix_in_all_folders(photos: Path) -> None:
    for name in ("a b.png", "a/1.png", "a.png", "a-b/x.png", "Z.PNG"):
        (photos / name).parent.mkdir(exist_ok=True)
        noise(8, 8).save(photos / name)
    (photos / "notes.txt").write_text("not a picture")
    (photos / ".hidden.png").write_bytes(b"")
    skipped: list[Skipped] = []
    found = [image.path for image in iter_images(photos, skipped)]
    assert len(found) == len(set(found))
    names = {p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.is_file()}
    assert set(found) == names - {"notes.txt", ".hidden.png"}
    assert not skipped


def test_a_large_folder_is_listed_in_flat_memory(own_folder: Path) -> None:
    def peak(folder: str, count: int) -> int:
        Path(folder).mkdir()
        noise(8, 8).save(f"{folder}/0.png")
        for number in range(1, count):
            os.link(f"{folder}/0.png", f"{folder}/{number}.png")
        tracemalloc.start()
        assert sum(1 for _ in iter_images(Path(folder), [])) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak("warm-up", 10)
    assert peak("large", 20_000) < peak("small", 500) + 20_000


def test_links_are_followed_but_never_in_a_circle(photos: Path, own_folder: Path) -> None:
    (own_folder / "other").mkdir()
    noise(8, 8).save(own_folder / "other/x.png")
    (photos / "linked").symlink_to(own_folder / "other")
    (photos / "deep/loop").symlink_to(photos)
    (photos / "dangling.png").symlink_to(photos / "nothing")
    os.mkfifo(photos / "pipe.png")
    skipped: list[Skipped] = []
    found = [image.path for image in iter_images(photos, skipped)]
    assert "linked/x.png" in found
    assert len(found) == 10
    assert {item.path for item in skipped} == {"deep/loop", "dangling.png", "pipe.png"}


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


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_costs_no_other_of_its_batch(workers: int, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"nothing")
    paths = [image.path for image in iter_images(photos, [])]
    with Decoder(photos, batch_size=4, workers=workers, ahead=1) as decoder:
        seen, skipped = {}, []
        for batch in decoder.batches(paths):
            for info, pixels in zip(batch.images, batch.pixels, strict=True):
                seen[info.path] = pixels.copy()
            skipped += [item.path for item in batch.skipped]
            decoder.release(batch)
    assert skipped == ["broken.jpg"]
    assert list(seen) == [path for path in paths if path != "broken.jpg"]
    for path, pixels in seen.items():
        np.testing.assert_array_equal(pixels, preprocess(decode(photos, path)[1]))


def test_a_batch_of_bad_pictures_is_empty(own_folder: Path) -> None:
    for name in "abc":
        Path(f"{name}.png").write_bytes(b"bad")
    with Decoder(own_folder, 3, workers=0) as decoder:
        (batch,) = decoder.batches(["a.png", "b.png", "c.png"])
    assert not batch.images
    assert len(batch.skipped) == 3


@given(st.text())
def test_printable_text_stays_on_its_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
