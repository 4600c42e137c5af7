"""Draw queries beside their matches: comparison.png."""

import io
import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from similar_images.console import QUIET, Console
from similar_images.images.reduction_store import ReductionStore, Thumbnail
from similar_images.matching.pairs import Pair, paths_to_show
from similar_images.results.rendering import letters
from similar_images.text import printable

CELL = 192  # pixels: the square in which an image is shown; 6 × CIFAR-10's 32
GAP = 10
PAIRS_IN_ROW = 5
MARGIN = 36
LEAST_WIDTH = 4 * CELL  # of what a page shows: a single pair's title and legend want room too
MATCHES_IN_ROW = 10  # of a query's matches; the pairings have all
MAX_PIXELS = 40_000_000  # of a page: 120 MB while it is drawn
TITLE_SIZE, TEXT_SIZE = 44, 32  # pixels: readable where the whole image is 1,000 wide
INK, PALE, PAPER = "#1b1b1b", "#5f5f5f", "#ffffff"
BACKDROP = "#ececec"
SAME, DIFFERENT = "#1a7f37", "#c1121f"
# Looked for in this order for letters that Pillow's own font lacks.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
    "msyh.ttc",
    "PingFang.ttc",
)


def picture_bytes(
    rows: Sequence[Sequence[Pair]], title: str, reductions: ReductionStore, console: Console = QUIET
) -> bytes:
    """Return queries with their matches, nearest first, drawn as PNG."""
    if all(len(row) == 1 for row in rows):
        picture = draw_pairs([row[0] for row in rows], title, reductions, console)
    else:
        picture = draw_rows(rows, title, reductions, console)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def draw_pairs(
    pairs: Sequence[Pair], title: str, reductions: ReductionStore, console: Console = QUIET
) -> Image.Image:
    """Draw lettered pairs, five in a row, query left and match right."""
    columns = min(PAIRS_IN_ROW, len(pairs))
    cell_width, cell_height = 2 * CELL + GAP, CELL + 4 * TEXT_SIZE + GAP
    page = _Page(columns, -(-len(pairs) // columns), cell_width, cell_height, title)
    page.thumbnails = reductions.thumbnails(paths_to_show(pairs), console)
    with console.progress("images drawn", 2 * len(pairs)) as progress:
        for (x, y), letter, pair in zip(page.places(), letters(), pairs, strict=False):
            page.text(x, y, letter, TEXT_SIZE, INK, 2 * CELL)
            page.mark(x + CELL + GAP, y, pair)
            top = y + TEXT_SIZE + GAP
            page.picture(x, top, pair.query, pair.query_label)
            page.picture(x + CELL + GAP, top, pair.match, pair.match_label, pair)
            progress.update(2)
    return page.finish("query left, nearest match right, cosine similarity below the match")


def draw_rows(
    rows: Sequence[Sequence[Pair]], title: str, reductions: ReductionStore, console: Console = QUIET
) -> Image.Image:
    """Draw a row for each query: the query, then its matches, nearest first.

    The page has bounds: of many queries the first are shown, of many matches the nearest.
    """
    columns = min(max(map(len, rows)), MATCHES_IN_ROW) + 1
    cell_height = CELL + 4 * TEXT_SIZE
    most = MAX_PIXELS // (columns * (CELL + 3 * GAP) * (cell_height + 2 * GAP))
    shown = [row[:MATCHES_IN_ROW] for row in rows[:most]]
    page = _Page(columns, len(shown), CELL, cell_height, title)
    on_page = [pair for row in shown for pair in row]
    page.thumbnails = reductions.thumbnails(paths_to_show(on_page), console)
    with console.progress("images drawn", len(shown) + sum(map(len, shown))) as progress:
        for number, (row, letter) in enumerate(zip(shown, letters(), strict=False)):
            x, y = page.place(number, 0)
            page.text(x, y, letter, TEXT_SIZE, INK, CELL)
            top = y + TEXT_SIZE + GAP
            page.picture(x, top, row[0].query, row[0].query_label)
            for column, pair in enumerate(row, start=1):
                x, y = page.place(number, column)
                page.mark(x, y, pair)
                page.picture(x, top, pair.match, pair.match_label, pair)
            progress.update(1 + len(row))
    legend = "query first, then its matches, nearest first; cosine similarity below"
    matches = max(map(len, rows))
    if matches > MATCHES_IN_ROW:
        legend += f"; the {MATCHES_IN_ROW} nearest of {matches:,}"
    if len(shown) < len(rows):
        legend += f"; the first {len(shown)} of {len(rows)} queries"
    return page.finish(legend)


class _Page:
    """A sheet of equal cells under a title."""

    def __init__(self, columns: int, rows: int, width: int, height: int, title: str) -> None:
        self.columns, self.rows = columns, rows
        self.step_x, self.step_y = width + 3 * GAP, height + 2 * GAP
        self.left = MARGIN
        inner = max(columns * self.step_x - 3 * GAP, LEAST_WIDTH)
        self.inner = inner
        lines = _wrapped(title, TITLE_SIZE, inner)
        self.top = MARGIN + len(lines) * (TITLE_SIZE + GAP) + 2 * GAP
        self.bottom = self.top + rows * self.step_y
        self.image = Image.new("RGB", (inner + 2 * MARGIN, self.bottom + 4 * TEXT_SIZE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.marked = False
        self.thumbnails: dict[str, Thumbnail] = {}
        for number, line in enumerate(lines):
            self.text(self.left, MARGIN + number * (TITLE_SIZE + GAP), line, TITLE_SIZE, INK, inner)

    def place(self, row: int, column: int) -> tuple[int, int]:
        return self.left + column * self.step_x, self.top + row * self.step_y

    def places(self) -> Iterator[tuple[int, int]]:
        for row, column in itertools.product(range(self.rows), range(self.columns)):
            yield self.place(row, column)

    def text(self, x: int, y: int, text: str, size: int, colour: str, width: int) -> None:
        """Write one line, cut with an ellipsis where it is too long."""
        text, font = _fitting(text, size, width)
        self.draw.text((x, y), text, fill=colour, font=font)

    def picture(self, x: int, y: int, path: str, label: str, pair: Pair | None = None) -> None:
        """Show an image in its square, below it its label or name, and the pair's similarity."""
        self.draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=BACKDROP)
        hidden = pair and not pair.may_open_match
        thumbnail = Thumbnail(problem="not opened") if hidden else self.thumbnails[path]
        if thumbnail.problem:
            problem = printable(thumbnail.problem)
            self.text(x + GAP, y + CELL // 2, problem, TEXT_SIZE, PALE, CELL - 2 * GAP)
        else:
            shown = fit(Image.open(io.BytesIO(thumbnail.data)))
            offset = (CELL - shown.width) // 2, (CELL - shown.height) // 2
            self.image.paste(shown, (x + offset[0], y + offset[1]))
        below = y + CELL + GAP // 2
        self.text(x, below, printable(label or Path(path).name), TEXT_SIZE, INK, CELL)
        if pair:
            self.text(x, below + TEXT_SIZE + 4, f"{pair.similarity:.4f}", TEXT_SIZE, PALE, CELL)
            if pair.same_label is False:
                frame = (x - 5, y - 5, x + CELL + 4, y + CELL + 4)
                self.draw.rectangle(frame, outline=DIFFERENT, width=5)

    def mark(self, x: int, y: int, pair: Pair) -> None:
        """Say above a match whether the labels differ: in words, with a cross, in red."""
        if pair.same_label is False:
            self.marked = True
            self.cross(x, y)
            self.text(x + TEXT_SIZE, y, "other label", TEXT_SIZE, DIFFERENT, CELL - TEXT_SIZE)

    def cross(self, x: int, y: int) -> None:
        near, far = 6, TEXT_SIZE - 6
        self.draw.line((x + near, y + near, x + far, y + far), fill=DIFFERENT, width=5)
        self.draw.line((x + near, y + far, x + far, y + near), fill=DIFFERENT, width=5)

    def finish(self, legend: str) -> Image.Image:
        y = self.bottom + GAP
        lines = _wrapped(
            f"{legend}; a cross and a red frame: their labels differ" if self.marked else legend,
            TEXT_SIZE,
            self.inner,
        )
        lacking = y + len(lines) * (TEXT_SIZE + 6) + GAP - self.image.height
        if lacking > 0:
            self.image = ImageOps.expand(self.image, (0, 0, 0, lacking), PAPER)
            self.draw = ImageDraw.Draw(self.image)
        for number, line in enumerate(lines):
            self.text(self.left, y + number * (TEXT_SIZE + 6), line, TEXT_SIZE, PALE, self.inner)
        return self.image


def fit(image: Image.Image) -> Image.Image:
    """Return an image in the size that fits its square: aspect ratio kept, pixels crisp.

    Small images are enlarged by a whole number, each pixel becoming a square of equal ones;
    large ones are reduced.
    """
    longest = max(image.size)
    if longest <= CELL:
        factor = CELL // longest
        size = image.width * factor, image.height * factor
        return image.resize(size, Image.Resampling.NEAREST)
    size = max(1, image.width * CELL // longest), max(1, image.height * CELL // longest)
    return image.resize(size, Image.Resampling.LANCZOS)


@cache
def _fonts(size: int) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, ...]:
    fonts = [ImageFont.load_default(size)]
    for name in SYSTEM_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(fonts)


def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont | None:
    """Return the first font that has every letter of text; None if there is none."""
    for font in _fonts(size):
        unknown = bytes(font.getmask("\U0010ffff"))
        if all(char == " " or bytes(font.getmask(char)) != unknown for char in set(text)):
            return font
    return None


def _fitting(
    text: str, size: int, width: int
) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Return text, shortened to the width in pixels, and a font that can show it."""
    font = _font_for(text, size)
    if font is None:  # better code points than empty boxes
        text = text.encode("ascii", "backslashreplace").decode()
        font = _fonts(size)[0]
    if font.getlength(text) <= width:
        return text, font
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…", font


def _wrapped(text: str, size: int, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _fonts(size)[0].getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
