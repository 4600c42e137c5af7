"""Images drawn by a program: different ones that look alike once they are small.

None is another one mirrored or turned. Flags, plain colours and gradients may differ from others in
their colours alone.
"""

import itertools
import random
import string
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

COLOURS = ("black", "blue", "gold", "green", "red", "white")
CHARACTERS = "ABCDEFGHIJKLMOPQRSTUVXYZ012345678abeghrtfm&@#%?!$§"  # none is another turned
LETTERS = string.ascii_lowercase
SHAPES: list[tuple[str, list[tuple[int, ...]]]] = [  # of flags of 1200×800 pixels
    ("rectangle", [(360, 0, 480, 800), (0, 340, 1200, 460)]),  # a cross near the mast
    ("rectangle", [(520, 0, 680, 800), (0, 320, 1200, 480)]),  # a cross in the middle
    ("line", [(0, 0, 1200, 800), (0, 800, 1200, 0)]),  # a diagonal cross
    ("ellipse", [(360, 160, 840, 640)]),
]


def barcode(number: str, guards: bool) -> Image.Image:
    """Return the EAN-13 of 12 digits and their check digit, with longer guard bars if so wanted.

    Source: the GS1 General Specifications, section 5.2.
    """
    odd = [f"{code:07b}" for code in (13, 25, 19, 61, 35, 49, 47, 59, 55, 11)]
    parities = [f"{code:06b}" for code in (0, 11, 13, 14, 19, 25, 28, 21, 22, 26)]  # 1: even
    digits = list(map(int, number))
    digits.append(-sum(digit * (1, 3)[place % 2] for place, digit in enumerate(digits)) % 10)
    swap = str.maketrans("01", "10")
    right = [odd[digit].translate(swap) for digit in digits]
    left = (
        odd[digit] if parity == "0" else right[place + 1][::-1]
        for place, (digit, parity) in enumerate(zip(digits[1:7], parities[digits[0]], strict=True))
    )
    bars = np.array([*map(int, f"101{''.join(left)}01010{''.join(right[7:])}101")])
    lines = np.tile(bars, (60, 1))
    if guards:
        guard = np.isin(np.arange(95), [0, 2, 46, 48, 92, 94])
        lines = np.concatenate([lines, np.tile(bars * guard, (7, 1))])
    lines = np.pad(lines, 9).repeat(2, axis=0).repeat(2, axis=1)
    return Image.fromarray((255 * (1 - lines)).astype(np.uint8)).convert("RGB")


def barcodes(count: int, guards: bool) -> list[Image.Image]:
    """Return the barcodes of numbers drawn at random."""
    numbers = np.random.default_rng(0).integers(0, 10, (count, 12))
    return [barcode("".join(map(str, digits)), guards) for digits in numbers]


def shaped(ground: str, kind: str, places: list[tuple[int, ...]], colour: str) -> Image.Image:
    """Return a flag with one of the SHAPES in a colour."""
    image = Image.new("RGB", (1200, 800), ground)
    for place in places:
        getattr(ImageDraw.Draw(image), kind)(place, fill=colour, width=120)
    return image.resize((300, 200), Image.Resampling.BOX)


def striped(colours: Sequence[str]) -> Image.Image:
    """Return a flag of horizontal stripes."""
    column = np.array([[ImageColor.getrgb(colour)] for colour in colours], np.uint8)
    return Image.fromarray(column).resize((300, 200), Image.Resampling.NEAREST)


def flags() -> list[Image.Image]:
    """Return flags of two and of three stripes, and with each of the SHAPES, in several colours."""
    stripes = itertools.chain(*(itertools.permutations(COLOURS, count) for count in (2, 3)))
    return [
        *(striped(colours) for colours in stripes if colours[0] < colours[-1]),  # none turned
        *(
            shaped(ground, *shape, colour)
            for shape in SHAPES
            for ground, colour in itertools.permutations(COLOURS, 2)
        ),
    ]


def icons(framed: bool) -> list[Image.Image]:
    """Return characters, black on white, or white in a blue square with round corners."""
    font, reductions = ImageFont.load_default(192), []
    for character in CHARACTERS:
        image = Image.new("RGB", (256, 256), "white")
        draw = ImageDraw.Draw(image)
        if framed:
            draw.rounded_rectangle((8, 8, 248, 248), 48, "royalblue")
        draw.text((128, 128), character, "white" if framed else "black", font, anchor="mm")
        reductions.append(image.resize((64, 64), Image.Resampling.BOX))
    return reductions


def screenshots(count: int, size: int) -> list[Image.Image]:
    """Return windows of text in the same layout, `size` pixels high: words drawn at random."""
    rng, font = random.Random(0), ImageFont.load_default(size)
    reductions = []
    for _ in range(count):
        image = Image.new("RGB", (640, 480), "white")
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 640, 28), "lightgrey")
        words = ["".join(rng.choices(LETTERS, k=rng.randint(1, 8))) for _ in range(800)]
        lines = textwrap.wrap(" ".join(words), 1120 // size)
        draw.multiline_text((24, 44), "\n".join(lines[: 400 // (size + 6)]), "black", font)
        reductions.append(image)
    return reductions


def plain_colours(count: int) -> list[Image.Image]:
    """Return images of one colour each."""
    colours = np.random.default_rng(0).choice(256**3, count, replace=False)
    return [Image.new("RGB", (64, 64), f"#{colour:06x}") for colour in colours]


def gradients(count: int) -> list[Image.Image]:
    """Return gradual changes from one colour to another, in several directions."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1:1:200j, -1:1:200j][..., None]
    reductions = []
    colours, angles = rng.uniform(0, 255, (count, 2, 3)), rng.uniform(0, 2 * np.pi, count)
    for (start, end), angle in zip(colours, angles, strict=True):
        place = (rows * np.sin(angle) + columns * np.cos(angle)) / 8**0.5 + 0.5  # 0 to 1
        reductions.append(Image.fromarray((start + (end - start) * place).round().astype(np.uint8)))
    return reductions


GRAPHICS: dict[str, Callable[[], list[Image.Image]]] = {
    "barcodes": lambda: barcodes(80, guards=False),
    "barcodes with longer guard bars": lambda: barcodes(80, guards=True),
    "flags": flags,
    "icons: characters": lambda: icons(framed=False),
    "icons: characters in the same frame": lambda: icons(framed=True),
    "screenshots of text, 8 pixels high": lambda: screenshots(80, 8),
    "screenshots of text, 14 pixels high": lambda: screenshots(80, 14),
    "screenshots of text, 40 pixels high": lambda: screenshots(80, 40),
    "plain colours": lambda: plain_colours(80),
    "gradients": lambda: gradients(80),
}
