"""Draw queries beside their matches: comparison.png."""

import contextlib
import io
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from similar_images.console import QUIET, Console
from similar_images.images.reduction_store import ReductionStore, Thumbnail
from similar_images.matching.pairs import Pair, paths_to_show
from similar_images.results.rendering import letters
from similar_images.text import printable
from similar_images.verifying.verdict import Verdict

CELL = 192  # pixels: the square in which an image is shown; 6 × CIFAR-10's 32
GAP = 10
PAIRS_IN_ROW = 5
MARGIN = 36
LEAST_WIDTH = 4 * CELL  # of what a page shows: a single pair's title and legend want room too
MATCHES_IN_ROW = 10  # of a query's matches; the pairings have all
TITLE_SIZE, TEXT_SIZE = 44, 32  # pixels: readable where the whole image is 1,000 wide
INK, PALE, PAPER, BACKDROP, DIFFERENT = "#1b1b1b", "#5f5f5f", "#ffffff", "#ececec", "#c1121f"
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
MADE_BY = ("Software", "similar-images")  # a PNG text chunk
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def picture_bytes(
    rows: Sequence[Sequence[Pair]],
    title: str,
    reductions: ReductionStore,
    console: Console = QUIET,
    verdicts: Mapping[Pair, Verdict] | None = None,
) -> bytes:
    """Return queries with their matches, nearest first, drawn as PNG.

    Each query has a letter, and its nearest matches to the right of it. Queries with a single
    match stand side by side, five in a row.
    """
    matches = max(map(len, rows))
    shown = [row[:MATCHES_IN_ROW] for row in rows]
    pairs = [pair for row in shown for pair in row]
    step, columns = CELL + 3 * GAP, 1
    if matches == 1:
        step, columns = CELL + GAP, min(PAIRS_IN_ROW, len(rows))
    page = _Page(
        columns,
        -(-len(rows) // columns),
        CELL + step * min(matches, MATCHES_IN_ROW),
        reductions.thumbnails(paths_to_show(pairs), console),
        title,
        _legend(pairs, matches),
    )
    for number, (row, letter) in enumerate(zip(shown, letters(), strict=False)):
        x, y = page.place(*divmod(number, columns))
        page.query(x, y, letter, row[0])
        for place, pair in enumerate(row, start=1):
            page.match(x + place * step, y, pair, (verdicts or {}).get(pair))
    out = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text(*MADE_BY)
    page.image.save(out, "PNG", pnginfo=text)
    return out.getvalue()


def _legend(pairs: Sequence[Pair], matches: int) -> str:
    legend = "query left, nearest match right"
    if matches > 1:
        legend = "query first, then its nearest matches"
    if matches > MATCHES_IN_ROW:
        legend += f" ({MATCHES_IN_ROW} of {matches:,})"
    legend += ", cosine similarity below the match"
    if any(pair.same_label is False for pair in pairs):
        legend += "; a cross and a red frame: their labels differ"
    return legend


class _Page:
    """A sheet of equal cells between a title and a legend."""

    def __init__(
        self,
        columns: int,
        rows: int,
        width: int,
        thumbnails: Mapping[str, Thumbnail],
        title: str,
        legend: str,
    ) -> None:
        """width: of a cell, in pixels. thumbnails: by path."""
        self.thumbnails = thumbnails
        self.step_x, self.step_y = width + 3 * GAP, CELL + 4 * TEXT_SIZE + 3 * GAP
        inner = max(columns * self.step_x - 3 * GAP, LEAST_WIDTH)
        above, below = _wrapped(title, TITLE_SIZE, inner), _wrapped(legend, TEXT_SIZE, inner)
        self.top = MARGIN + len(above) * (TITLE_SIZE + GAP) + 2 * GAP
        bottom = self.top + rows * self.step_y
        room = max(4 * TEXT_SIZE, len(below) * (TEXT_SIZE + GAP) + 2 * GAP)
        self.image = Image.new("RGB", (inner + 2 * MARGIN, bottom + room), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        for y, lines, size, colour in (
            (MARGIN, above, TITLE_SIZE, INK),
            (bottom + GAP, below, TEXT_SIZE, PALE),
        ):
            for number, line in enumerate(lines):
                self.text(MARGIN, y + number * (size + GAP), line, size, colour, inner)

    def place(self, row: int, column: int) -> tuple[int, int]:
        return MARGIN + column * self.step_x, self.top + row * self.step_y

    def text(
        self, x: int, y: int, text: str, size: int, colour: str = INK, width: int = CELL
    ) -> None:
        """Write one line, cut with an ellipsis where it is too long."""
        text, font = _fitting(text, size, width)
        self.draw.text((x, y), text, fill=colour, font=font)

    def query(self, x: int, y: int, letter: str, pair: Pair) -> None:
        """Show a pair's query, and its letter above."""
        self.text(x, y, letter, TEXT_SIZE)
        self.show(x, y + TEXT_SIZE + GAP, self.thumbnails[pair.query], pair.query_label, pair.query)

    def match(self, x: int, y: int, pair: Pair, verdict: Verdict | None) -> None:
        """Show a pair's match, with similarity and verdict; a cross and a frame: labels differ."""
        top = y + TEXT_SIZE + GAP
        hidden = Thumbnail(problem="not opened")
        thumbnail = self.thumbnails[pair.match] if pair.may_open_match else hidden
        self.show(x, top, thumbnail, pair.match_label, pair.match)
        below = top + CELL + GAP // 2 + TEXT_SIZE + 4
        near = f" {verdict.kind}" if verdict else ""
        self.text(x, below, f"{pair.similarity:.4f}{near}", TEXT_SIZE, PALE)
        if pair.same_label is False:
            start, end = 6, TEXT_SIZE - 6
            self.draw.line((x + start, y + start, x + end, y + end), fill=DIFFERENT, width=5)
            self.draw.line((x + start, y + end, x + end, y + start), fill=DIFFERENT, width=5)
            self.text(x + TEXT_SIZE, y, "other label", TEXT_SIZE, DIFFERENT, CELL - TEXT_SIZE)
            frame = (x - 5, top - 5, x + CELL + 4, top + CELL + 4)
            self.draw.rectangle(frame, outline=DIFFERENT, width=5)

    def show(self, x: int, y: int, thumbnail: Thumbnail, label: str, path: str) -> None:
        """Show an image in its square, and below it its label or name."""
        self.draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=BACKDROP)
        if thumbnail.problem:
            problem = printable(thumbnail.problem)
            self.text(x + GAP, y + CELL // 2, problem, TEXT_SIZE, PALE, CELL - 2 * GAP)
        else:
            image = Image.open(io.BytesIO(thumbnail.data))
            image.thumbnail((CELL, CELL))
            factor = max(1, CELL // max(image.size))  # crisp: each pixel becomes a square
            shown = ImageOps.scale(image, factor, Image.Resampling.NEAREST)
            offset = (CELL - shown.width) // 2, (CELL - shown.height) // 2
            self.image.paste(shown, (x + offset[0], y + offset[1]))
        self.text(x, y + CELL + GAP // 2, printable(label or Path(path).name), TEXT_SIZE)


@cache
def _fonts(size: int) -> list[_Font]:
    fonts = [ImageFont.load_default(size)]
    for name in SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, size))
    return fonts


def _has_letters(font: _Font, text: str) -> bool:
    unknown = bytes(font.getmask("\U0010ffff"))
    return all(char == " " or bytes(font.getmask(char)) != unknown for char in set(text))


def _fitting(text: str, size: int, width: int) -> tuple[str, _Font]:
    """Return text, shortened to the width in pixels, and a font that can show it."""
    font = next((font for font in _fonts(size) if _has_letters(font, text)), None)
    if font is None:  # better code points than empty boxes
        text = text.encode("ascii", "backslashreplace").decode()
        font = _fonts(size)[0]
    shown = text
    while text and font.getlength(shown) > width:
        text = text[:-1]
        shown = text + "…"
    return shown, font


def _wrapped(text: str, size: int, width: int) -> list[str]:
    letter = _fonts(size)[0].getlength(text) / len(text)  # on average
    return textwrap.wrap(text, int(0.95 * width / letter))
