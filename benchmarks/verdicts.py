"""Measure the verdicts on look-alikes, which are no copies, and on altered photographs.

Usage:
  python -m benchmarks.verdicts --photographs DIR

Reads:  photographs, or scikit-learn's two samples; look-alikes and alterations are drawn
Writes: tables, to the terminal

The limits were chosen on photographs at even positions; the odd ones show what they are worth.
"""

import argparse
import itertools
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps
from sklearn.datasets import load_sample_images

from benchmarks import measure
from similar_images.console import script_parser
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.duplicate_groups import Grouping
from similar_images.matching.near_duplicates import find_near_duplicates
from similar_images.matching.pairs import Pair
from similar_images.verifying.features import examine

SIDE = 960  # pixels: the longest of a photograph
Change = Callable[[Image.Image], Image.Image]
FONT = ImageFont.load_default
SAMPLES = "\n\n".join(["SAMPLE    " * 4] * 20)


class LookAlikes:
    """Draws images of 800×600 pixels: each public method a family, of which none is a copy."""

    def __init__(self, family: str, number: int) -> None:
        self.rng, self.number = random.Random(number), number
        self.image = Image.new("RGB", (800, 600), "white")
        self.draw = ImageDraw.Draw(self.image)
        getattr(self, family)()

    def _rows(self, title: str, names: str, words: int) -> None:
        self.draw.rectangle((0, 0, 800, 80), "lightsteelblue")
        self.draw.text((30, 18), title, "black", FONT(40))
        for row, name in enumerate(names.split()):
            made = ("".join(self.rng.choices("abdefgiklmnoprstu", k=6)) for _ in range(words))
            y = 95 + 500 // len(names.split()) * row
            self.draw.text((30, y), name, "black", FONT(22))
            self.draw.text((200, y), " ".join(made), "black", FONT(22))

    def _face(self, left: float) -> None:
        skin, eyes = tuple(self.rng.choices(range(90, 230), k=3)), self.rng.uniform(18, 40)
        self.draw.ellipse((left, 150, left + 120, 300), skin, "black")
        for x in (left + eyes, left + 108 - eyes):
            self.draw.ellipse((x, 200, x + 12, 212), "black")
        mouth = (left + 30, 235, left + 90, self.rng.uniform(245, 280))
        self.draw.arc(mouth, 0, 180, "darkred", 4)

    def forms(self) -> None:
        self._rows("Registration 7-C", "Name Street City Country Born Phone Employer", 3)

    def tickets(self) -> None:
        self._rows("Opera House, The Magic Flute", "Row Seat Number", 1)

    def program_windows(self) -> None:
        self._rows("File  Edit  Search  Help", "Inbox Sent Drafts Spam Bin Work Home Travel", 6)

    def identity_cards(self) -> None:
        self._rows("Residence permit", "Surname Name Born Number", 1)
        self._face(640)

    def invoices_with_one_other_number(self) -> None:
        self.draw.text((640, 560), f"No. {73104 + self.number}", "black", FONT(22))
        self.rng = random.Random(1)
        self._rows("Invoice", "1 2 3 4 5 6 7 8", 5)

    def groups_with_other_faces(self) -> None:
        for place, shirt in enumerate(("navy", "olive", "maroon", "teal")):
            self.draw.rectangle((20 + 195 * place, 290, 195 + 195 * place, 600), shirt)
            self._face(45 + 195 * place)

    def x_rays(self) -> None:
        y, x = np.mgrid[-1:1:600j, -1:1:800j]
        values = 0.7 - 0.2 * x * x
        for side in (-0.4, 0.4):
            across = (x - side * self.rng.gauss(1, 0.08)) / self.rng.gauss(0.25, 0.02)
            values -= 0.5 * np.exp(-((across**2 + (y / self.rng.gauss(0.6, 0.03)) ** 2) ** 2))
        for height in np.linspace(-0.7, 0.7, 9):
            values += 0.08 * np.exp(-(((y - self.rng.gauss(height, 0.02)) / 0.02) ** 2))
        self.image.paste(Image.fromarray((255 * values.clip(0, 1)).astype(np.uint8)))

    def products_in_other_colours(self) -> None:
        paint = tuple(self.rng.choices(range(60, 220), k=3))
        self.draw.rounded_rectangle((200, 80, 520, 540), 30, paint)
        self.draw.arc((460, 180, 660, 420), -90, 90, paint, 40)

    def icons(self) -> None:
        self.draw.rounded_rectangle((120, 20, 680, 580), 80, "deepskyblue")
        self.draw.text((210, 90), str(10 + self.number), "white", FONT(340))

    def chess_diagrams(self) -> None:
        for x, y in itertools.product(range(100, 700, 75), range(0, 600, 75)):
            self.draw.rectangle((x, y, x + 75, y + 75), ("beige", "tan")[(x + y) // 25 % 2])
            if self.rng.random() < 0.3:
                self.draw.text((x + 16, y + 4), self.rng.choice("KQRBNP"), "black", FONT(56))


def drawn(draw: Callable[[ImageDraw.ImageDraw, int, int], object]) -> Change:
    """Return the change that draws on an image; draw: also takes its width and height."""

    def change(image: Image.Image) -> Image.Image:
        image = image.copy()
        draw(ImageDraw.Draw(image, "RGBA"), *image.size)
        return image

    return change


def framed(image: Image.Image, ground: Image.Image) -> Image.Image:
    """Return an image in the middle of a ground."""
    inner = ImageOps.contain(image, ground.size)
    ground.paste(inner, ((ground.width - inner.width) // 2, (ground.height - inner.height) // 2))
    return ground


def _pixelated(image: Image.Image) -> Image.Image:
    box = (image.width // 3, image.height // 3, image.width // 2, image.height // 2)
    area, image = image.crop(box), image.copy()
    image.paste(area.resize((5, 5)).resize(area.size, Image.Resampling.NEAREST), box)
    return image


WHOLE: dict[str, Change] = {
    "re-encoded": lambda image: image,
    "half the size": lambda image: ImageOps.scale(image, 0.5),
    "thumbnail of 160 pixels": lambda image: ImageOps.contain(image, (160, 160)),
    "grey": ImageOps.grayscale,
    "sepia": lambda image: ImageOps.colorize(ImageOps.grayscale(image), "#140c00", "#fff0d0"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "mirrored": ImageOps.mirror,
    "rotated by 2°": lambda image: image.rotate(2, Image.Resampling.BICUBIC, expand=True),
    "rotated by 10°": lambda image: image.rotate(10, Image.Resampling.BICUBIC, expand=True),
    "rotated by 90°": lambda image: image.rotate(90, expand=True),
    "stretched": lambda image: image.resize((image.width, int(0.75 * image.height))),
    "cropped to 0.7 of the height": lambda image: ImageOps.crop(image, image.height * 3 // 20),
    "cropped to 16:9": lambda image: ImageOps.fit(image, (image.width, image.width * 9 // 16)),
    "border of 5%": lambda image: ImageOps.expand(image, image.width // 20, "white"),
    "border of 30%": lambda image: ImageOps.expand(image, image.width * 3 // 10, "navy"),
    "letterbox 9:16": lambda image: ImageOps.pad(image, (720, 1280)),
    "blurred frame": lambda image: framed(
        image, ImageOps.fit(image, (720, 1280)).filter(ImageFilter.GaussianBlur(30))
    ),
    "screenshot of a telephone": lambda image: drawn(
        lambda d, w, h: d.text((30, 14), "12:03", "black", FONT(24))
    )(ImageOps.pad(image, (590, 1280), color="white")),
    "enlarged": lambda image: ImageOps.scale(ImageOps.contain(image, (300, 300)), 4),
}
PART: dict[str, Change] = {
    "sticker": drawn(lambda d, w, h: d.ellipse((w / 2, h / 2, 0.7 * w, 0.8 * h), "gold")),
    "caption over": drawn(lambda d, w, h: d.text((w / 9, h / 9), "IT WORKS", "white", FONT(w / 9))),
    "caption below": lambda image: drawn(
        lambda d, w, h: d.text((9, 0.86 * h), "when it compiles", "black", FONT(w / 20))
    )(ImageOps.expand(image, (0, 0, 0, image.height // 5), "white")),
    "watermark": drawn(lambda d, w, h: d.text((w / 2, 0.9 * h), "© Name", "white", FONT(w / 22))),
    "tiled watermark": drawn(lambda d, w, h: d.text((0, 0), SAMPLES, "#ffffff60", FONT(w / 18))),
    "date": drawn(lambda d, w, h: d.text((w / 2, 0.9 * h), "12/05/2019", "orange", FONT(w / 28))),
    "blacked out": drawn(lambda d, w, h: d.rectangle((w / 3, h / 3, w / 2, h / 2), "black")),
    "pixelated": _pixelated,
    "hue changed": lambda image: Image.fromarray(np.roll(np.asarray(image), 1, axis=2)),
    "collage": lambda image: framed(image, Image.effect_noise((SIDE, 400), 60).convert("RGB")),
}


def photographs(folder: Path | None, count: int) -> Iterator[Image.Image]:
    """Yield photographs: those of a folder in equal steps, or parts of scikit-learn's two."""
    if folder is None:
        for values, top, left in itertools.product(load_sample_images().images, (0, 213), (0, 320)):
            yield Image.fromarray(values[top : top + 213, left : left + 320])
        return
    paths = measure.image_paths(folder, "--photographs")
    for path in paths[:: max(1, len(paths) // count)][:count]:
        image = measure.read(folder, path, SIDE).rgb
        image.thumbnail((SIDE, SIDE))
        yield image


def saved(folder: str, name: str, images: Iterable[Image.Image], quality: int = 80) -> list[str]:
    """Save images as JPEG; return their paths."""
    paths = []
    for number, image in enumerate(images):
        paths.append(f"{folder}/{name.replace(':', '')}, {number}.jpg")
        image.convert("RGB").save(paths[-1], quality=quality)
    return paths


def verified(
    pairs: list[tuple[str, str]], store: ReductionStore
) -> tuple[list[str], set[str], int]:
    """Return how many have each verdict, which are copies, how many verdicts change with order."""
    ways = [[Pair(pair[way], pair[1 - way], 1.0) for pair in pairs] for way in (0, 1)]
    near = {one.pair: one for one in find_near_duplicates(ways, store).near}
    ones = {path: np.ones(1) for pair in pairs for path in pair}
    grouping = Grouping({}, [], lambda *_: [], lambda _: ones, store)
    groups = grouping.groups([near[pair] for pair in ways[0] if pair in near])
    copies = {copy.path for group in groups for copy in group.spare}
    kinds = [[near[pair].verdict.kind if pair in near else "" for pair in way] for way in ways]
    counts = [str(kinds[0].count(kind)) for kind in ("same", "part", "")]
    return counts, copies, sum(map(str.__ne__, *kinds))


def run(args: argparse.Namespace) -> None:
    """Print the tables."""
    header, turned = ["`same`", "`part`", "neither", "wrongly `copy`"], 0
    with tempfile.TemporaryDirectory() as folder, ReductionStore(examine) as store:
        originals = list(photographs(args.photographs, args.count))
        families = {"photographs of different things": saved(folder, "original", originals, 92)}
        for name in [name for name in vars(LookAlikes) if name[0] != "_"]:
            images = (LookAlikes(name, number).image for number in range(args.look_alikes))
            families[name.replace("_", " ")] = saved(folder, name, images)
        paths, lines = next(iter(families.values())), []
        for name, members in families.items():
            both = list(itertools.combinations(members, 2))
            counts, copies, others = verified(both, store)
            lines.append([name, str(len(both)), *counts, str(len(copies))])
            turned += others
        print(measure.table(["different images", "pairs", *header], lines), flush=True)
        for title, changes in (("the whole is kept", WHOLE), ("a part differs", PART)):
            lines = []
            for name, change in changes.items():
                altered, cells = saved(folder, name, map(change, originals)), [name]
                both = list(zip(paths, altered, strict=True))
                for half in (both[::2], both[1::2]):
                    counts, copies, others = verified(half, store)
                    wrong = copies.difference(altered if changes is WHOLE else ())
                    cells += [*counts, str(len(wrong))]
                    turned += others
                lines.append(cells)
            words = f"{title}: {len(both[::2])} even photographs, {len(both[1::2])} odd"
            head = [f"{word}, {half}" for half in ("even", "odd") for word in header]
            print(f"\n{measure.table([words, *head], lines)}", flush=True)
    print(f"\nPairs that have another verdict the other way round: {turned}")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="folder of photographs")
    measure.add_number(parser, "--count", 60, "photographs")
    measure.add_number(parser, "--look-alikes", 20, "images of each family")
    return measure.measured(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
