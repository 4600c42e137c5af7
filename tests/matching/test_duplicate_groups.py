"""duplicate_groups.py: which image of a group is kept, and which may be called a copy of it."""

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from drawings import WHOLE, cropped, photograph, sticker, write
from helpers import saved_at
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.duplicate_groups import Grouping
from similar_images.matching.near_duplicates import find_near_duplicates
from similar_images.matching.pairs import Pair
from similar_images.verifying.features import examine


def roles(
    paths: Iterable[str], queries: Iterable[str] = (), keep_in: Iterable[Path] = ()
) -> dict[str, str]:
    """The roles of images in groups; queries: those that the collection does not have."""
    with ReductionStore(examine, workers=0) as reductions:
        pairs = [Pair(*pair, 0.9) for pair in itertools.combinations(sorted(paths), 2)]
        near = find_near_duplicates([pairs], reductions).near
        grouping = Grouping(
            in_collection=dict.fromkeys(queries, False),
            keep_in=list(keep_in),
            search_again=lambda paths, top_k: [],
            embeddings_of=lambda paths: dict.fromkeys(paths, np.ones(1)),
            reductions=reductions,
        )
        return {copy.path: copy.keep for group in grouping.groups(near) for copy in group.copies}


def enlarged(image: Image.Image) -> Image.Image:
    size = 2 * image.width, 2 * image.height
    return image.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


WORSE = {
    "cropped": cropped,
    "bordered": lambda image: ImageOps.expand(image, 60, "black"),
    "grey": WHOLE["grey"][0],
    "enlarged": enlarged,
    "half": WHOLE["half"][0],
}


def pixelated(image: Image.Image) -> Image.Image:
    small = image.resize((213, 142), Image.Resampling.LANCZOS)
    return small.resize((1280, 854), Image.Resampling.NEAREST)


def captioned(image: Image.Image) -> Image.Image:
    bordered = ImageOps.expand(image, 30, "white")
    write(bordered, 250, 464, "Grandfather, 1943", 18, fill="black")
    return bordered


@pytest.mark.parametrize("name", WORSE)
def test_the_better_image_is_kept_though_its_file_is_smaller(name: str, own_folder: Path) -> None:
    photograph().save("b.jpg", quality=80)
    WORSE[name](photograph()).save("a.bmp")
    assert os.path.getsize("b.jpg") < os.path.getsize("a.bmp")
    assert roles(["a.bmp", "b.jpg"]) == {"b.jpg": "keep", "a.bmp": "copy"}


def test_an_image_with_repeated_pixels_is_not_kept(own_folder: Path) -> None:
    photograph().save("b.jpg", quality=80)
    pixelated(photograph()).save("a.bmp")
    assert roles(["a.bmp", "b.jpg"]) == {"b.jpg": "keep", "a.bmp": "copy"}


def test_what_stands_in_a_border_is_not_lost(own_folder: Path) -> None:
    photograph().save("a.jpg", quality=90)
    captioned(photograph()).save("b.png")
    assert "copy" not in roles(["a.jpg", "b.png"]).values()


def test_a_strip_with_writing_is_not_lost(own_folder: Path) -> None:
    image = photograph()
    image.crop((0, 0, 640, 415)).save("cut.png")
    ImageDraw.Draw(image).rectangle((0, 415, 640, 427), "black")
    write(image, 5, 414, "CAM 3  2021-04-01 12:41:11", 11, fill="white")
    image.save("strip.jpg", quality=90)
    assert roles(["cut.png", "strip.jpg"]).get("strip.jpg") != "copy"


def test_what_is_out_of_focus_around_a_crop_is_not_lost(own_folder: Path) -> None:
    y, x = np.mgrid[0:400, 0:800]
    light = 205 + 25 * np.sin(x / 400) * np.cos(y / 500)
    whole = Image.fromarray(light.astype(np.uint8)).convert("RGB")
    ImageDraw.Draw(whole).ellipse((600, 130, 750, 280), "darkolivegreen")
    whole = whole.filter(ImageFilter.GaussianBlur(14))
    whole.paste(photograph().resize((480, 320)), (20, 40))
    whole.save("whole.jpg", quality=90)
    whole.crop((0, 0, 520, 400)).save("crop.png")
    assert roles(["whole.jpg", "crop.png"]).get("whole.jpg") != "copy"


def test_a_lossless_drawing_is_kept_before_a_larger_jpeg(own_folder: Path) -> None:
    drawing = Image.new("RGB", (900, 650), "white")
    ImageDraw.Draw(drawing).ellipse((100, 100, 400, 400), "teal")
    drawing.save("a.png")
    drawing.save("b.jpg", quality=80)
    assert os.path.getsize("a.png") < os.path.getsize("b.jpg")
    assert roles(["a.png", "b.jpg"]) == {"a.png": "keep", "b.jpg": "copy"}


def test_scanned_pages_with_another_line_are_no_copies(own_folder: Path) -> None:
    for name, words in (("a.jpg", "harbour copper meadow"), ("b.jpg", "lantern orchard pencil")):
        page = Image.new("L", (1240, 1754), 235)
        for line in range(40):
            text = words if line == 17 else f"{line * 7919 % 1000} winter ribbon orchard {line}"
            write(page, 150, 150 + 36 * line, text, 22, fill=30)
        noise = Image.effect_noise(page.size, 16)
        Image.blend(page, noise, 0.4).save(name, quality=85)
    assert "copy" not in roles(["a.jpg", "b.jpg"]).values()


def test_of_equally_good_images_the_largest_file_is_kept_then_the_oldest(own_folder: Path) -> None:
    for name in ("a.png", "b.png"):
        photograph().save(name)
    photograph().save("c.bmp")
    os.utime("b.png", ns=(1, 1))
    assert roles(["a.png", "b.png"]) == {"b.png": "keep", "a.png": "copy"}
    assert roles(["a.png", "b.png", "c.bmp"])["c.bmp"] == "keep"


def test_images_below_keep_in_are_kept_first(own_folder: Path) -> None:
    for folder in ("archive", "other"):
        Path(folder).mkdir()
    photograph().save("other/a.png")
    photograph().save("archive/a.jpg", quality=90)
    paths = ["other/a.png", "archive/a.jpg"]
    assert roles(paths)["other/a.png"] == "keep"
    found = roles(paths, keep_in=[own_folder / "archive"])
    assert found == {"archive/a.jpg": "keep", "other/a.png": "copy"}
    WHOLE["half"][0](photograph()).save("archive/a.jpg")
    found = roles(paths, keep_in=[own_folder / "archive"])
    assert found == {"archive/a.jpg": "keep", "other/a.png": ""}, "it has more pixels"


def test_what_is_the_same_in_part_is_in_no_group(own_folder: Path) -> None:
    photograph().save("a.png")
    sticker(photograph()).save("b.png")
    assert roles(["a.png", "b.png"]) == {}


def test_a_copy_is_verified_against_the_image_that_is_kept(own_folder: Path) -> None:
    """Both sides are crops of the whole, and neither is a copy of the other."""
    Path("kept").mkdir()
    photograph().save("whole.png")
    photograph().crop((0, 0, 400, 427)).save("kept/left.png")
    photograph().crop((240, 0, 640, 427)).save("right.png")
    paths = ["whole.png", "kept/left.png", "right.png"]
    assert roles(paths) == {"whole.png": "keep", "kept/left.png": "copy", "right.png": "copy"}
    found = roles(paths, keep_in=[own_folder / "kept"])
    assert found == {"kept/left.png": "keep", "whole.png": "", "right.png": ""}


COLLECTION: Mapping[str, tuple[str, str]] = {
    "original": ("keep", "copy"),
    "thumbnail": ("keep", ""),
    "crop": ("keep", ""),
}


@pytest.mark.parametrize("there", COLLECTION)
def test_a_query_is_a_copy_if_the_collection_has_all_of_it(there: str, own_folder: Path) -> None:
    """The collection's is kept, and never a copy; so the query is none of a lesser one."""
    image = photograph()
    changed = {"original": image, "thumbnail": image.resize((160, 107)), "crop": cropped(image)}
    changed[there].save("collection.jpg", quality=90)
    image.save("query.jpg", quality=90 if there != "original" else 80)
    found = roles(["collection.jpg", "query.jpg"], queries=["query.jpg"])
    assert (found["collection.jpg"], found["query.jpg"]) == COLLECTION[there]


@pytest.mark.parametrize("kind", ["16 bits", "animation"])
def test_files_that_are_not_compared_whole_have_no_role(kind: str, own_folder: Path) -> None:
    grey = np.asarray(photograph().convert("L")).astype(np.uint16) * 256
    names = ["a.png", "b.png"] if kind == "16 bits" else ["a.gif", "b.gif"]
    for number, name in enumerate(names):
        if kind == "16 bits":
            Image.fromarray(grey + np.uint16(99 * number)).save(name)
        else:
            later = Image.effect_noise((640, 427), 20 + 60 * number).convert("P")
            photograph().convert("P").save(name, save_all=True, append_images=[later])
    assert roles(names) == {}
    Path(f"copy of {names[0]}").write_bytes(Path(names[0]).read_bytes())
    found = roles([*names, f"copy of {names[0]}"])
    assert sorted(found.values()) == ["copy", "keep"]
    assert names[1] not in found


def test_photographs_of_other_times_are_no_copies(own_folder: Path) -> None:
    """But copies of the one that is kept, and images with the same pixels."""
    saved_at("05", photograph(), "first.jpg", quality=95)
    saved_at("05", photograph(), "first, sent.jpg", quality=80)
    photograph().save("unknown.jpg", quality=85)
    expected = {"first.jpg": "keep", "first, sent.jpg": "copy", "unknown.jpg": "copy"}
    assert roles(expected) == expected
    saved_at("06", photograph(), "second.jpg", quality=90)
    assert roles([*expected, "second.jpg"]) == expected | {"unknown.jpg": "", "second.jpg": ""}
    saved_at("45", photograph(), "clock.jpg", quality=95)
    os.utime("clock.jpg", ns=(1, 1))
    assert roles(["first.jpg", "clock.jpg"]) == {"first.jpg": "keep", "clock.jpg": "copy"}
