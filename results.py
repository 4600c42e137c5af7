"""What is written of the matches: the pairings, the comparison picture, the observations."""

import collections
import csv
import datetime
import io
import itertools
import os
import re
import statistics
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import image_files
from image_files import ImageError, printable

NEAR_DUPLICATE = 0.99  # similarity from which two pictures are nearly the same one
LISTED = 5  # rows of each list in the observations

CELL = 192  # pixels: the square in which a picture is shown; 6 × CIFAR-10's 32
GAP = 10
PAIRS_IN_ROW = 5
MARGIN = 36
TITLE_SIZE, TEXT_SIZE = 38, 27  # pixels: readable where the whole picture is 1,000 wide
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


@dataclass(frozen=True)
class Pair:
    """A query and one of its matches; rank 1 is the nearest."""

    query: str  # as a reader can open it
    match: str
    similarity: float  # cosine, -1 to 1
    rank: int = 1
    query_label: str = ""  # '' where there is none
    match_label: str = ""

    @property
    def same_label(self) -> bool | None:
        """Whether both labels are the same; None where one is missing."""
        if not self.query_label or not self.match_label:
            return None
        return self.query_label == self.match_label


@dataclass(frozen=True)
class Summary:
    """What was run, for the title and the observations."""

    queries: int
    images: int
    model: str
    index: str  # how the collection was searched
    device: str
    recall: str = ""  # how much an approximate index found, if that was measured
    filter: str = ""
    skipped: list[str] = field(default_factory=list)
    unmatched: int = 0


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


# --- pairings.txt -----------------------------------------------------------------------------


def pairings_text(pairs: Sequence[Pair]) -> str:
    r"""Return the pairs as tab-separated lines under a header; odd characters are escaped.

    >>> pairings_text([Pair("q/cat/1.png", "d/cat/2.png", 0.5)])
    'query\trank\tmatch\tsimilarity\nq/cat/1.png\t1\td/cat/2.png\t0.500000\n'
    """
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(["query", "rank", "match", "similarity"])
    for pair in pairs:
        row = [printable(pair.query), pair.rank, printable(pair.match), f"{pair.similarity:.6f}"]
        writer.writerow(row)
    return out.getvalue()


# --- comparison.png ---------------------------------------------------------------------------


def letters() -> Iterator[str]:
    """Yield A to Z, then AA, AB and so on."""
    for length in itertools.count(1):
        for chars in itertools.product(string.ascii_uppercase, repeat=length):
            yield "".join(chars)


def draw_pairs(pairs: Sequence[Pair], title: str) -> Image.Image:
    """Draw lettered pairs, five in a row, query left and match right."""
    columns = min(PAIRS_IN_ROW, len(pairs))
    cell_width, cell_height = 2 * CELL + GAP, CELL + 4 * TEXT_SIZE + GAP
    page = _Page(columns, -(-len(pairs) // columns), cell_width, cell_height, title)
    for (x, y), letter, pair in zip(page.places(), letters(), pairs, strict=False):
        page.text(x, y, letter, TEXT_SIZE, INK, 2 * CELL)
        page.mark(x + CELL + GAP, y, pair)
        top = y + TEXT_SIZE + GAP
        page.picture(x, top, pair.query, pair.query_label, "query")
        page.picture(x + CELL + GAP, top, pair.match, pair.match_label, "match", pair)
    return page.finish("query left, nearest match right, cosine similarity below the match")


def draw_rows(rows: Sequence[Sequence[Pair]], title: str) -> Image.Image:
    """Draw a row for each query: the query, then its matches, nearest first."""
    columns = max(map(len, rows)) + 1
    page = _Page(columns, len(rows), CELL, CELL + 4 * TEXT_SIZE, title)
    for number, (row, letter) in enumerate(zip(rows, letters(), strict=False)):
        x, y = page.place(number, 0)
        page.text(x, y, letter, TEXT_SIZE, INK, CELL)
        top = y + TEXT_SIZE + GAP
        page.picture(x, top, row[0].query, row[0].query_label, "query")
        for pair in row:
            x, y = page.place(number, pair.rank)
            page.mark(x, y, pair)
            page.picture(x, top, pair.match, pair.match_label, "match", pair)
    return page.finish("query first, then its matches, nearest first; cosine similarity below")


class _Page:
    """A sheet of equal cells under a title."""

    def __init__(self, columns: int, rows: int, width: int, height: int, title: str) -> None:
        self.columns, self.rows = columns, rows
        self.step_x, self.step_y = width + 3 * GAP, height + 2 * GAP
        self.left = MARGIN
        inner = max(columns * self.step_x - 3 * GAP, 2 * CELL + GAP)
        self.inner = inner
        lines = _wrapped(title, TITLE_SIZE, inner)
        self.top = MARGIN + len(lines) * (TITLE_SIZE + GAP) + 2 * GAP
        self.bottom = self.top + rows * self.step_y
        self.image = Image.new("RGB", (inner + 2 * MARGIN, self.bottom + 4 * TEXT_SIZE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
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

    def picture(
        self, x: int, y: int, path: str, label: str, what: str, pair: Pair | None = None
    ) -> None:
        """Show a picture in its square, its label below it, and the pair's similarity."""
        self.draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=BACKDROP)
        try:
            shown = fit(image_files.decode(Path(), path)[1])
            offset = (CELL - shown.width) // 2, (CELL - shown.height) // 2
            self.image.paste(shown, (x + offset[0], y + offset[1]))
        except ImageError as error:
            self.text(
                x + GAP, y + CELL // 2, printable(str(error)), TEXT_SIZE, PALE, CELL - 2 * GAP
            )
        below = y + CELL + GAP // 2
        self.text(x, below, printable(label) or f"({what})", TEXT_SIZE, INK, CELL)
        if pair:
            self.text(x, below + TEXT_SIZE + 4, f"{pair.similarity:.4f}", TEXT_SIZE, PALE, CELL)
            if pair.same_label is False:
                frame = (x - 5, y - 5, x + CELL + 4, y + CELL + 4)
                self.draw.rectangle(frame, outline=DIFFERENT, width=5)

    def mark(self, x: int, y: int, pair: Pair) -> None:
        """Say above a match whether the labels differ: in words, with a cross, in red."""
        if pair.same_label is False:
            self.cross(x, y)
            self.text(x + TEXT_SIZE, y, "other label", TEXT_SIZE, DIFFERENT, CELL - TEXT_SIZE)

    def cross(self, x: int, y: int) -> None:
        near, far = 6, TEXT_SIZE - 6
        self.draw.line((x + near, y + near, x + far, y + far), fill=DIFFERENT, width=5)
        self.draw.line((x + near, y + far, x + far, y + near), fill=DIFFERENT, width=5)

    def finish(self, legend: str) -> Image.Image:
        y = self.bottom + GAP
        lines = _wrapped(
            f"{legend}; a cross and a red frame: their labels differ",
            TEXT_SIZE,
            self.inner,
        )
        for number, line in enumerate(lines[:2]):
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


# --- observations.md --------------------------------------------------------------------------


def share(part: int, whole: int) -> str:
    """Return a share in percent with one decimal.

    >>> share(3741, 5000)
    '74.8%'
    """
    return f"{100 * part / whole:.1f}%" if whole else "n/a"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> counted(1, "pair"), counted(2000, "pair"), counted(0, "query", "queries")
    ('1 pair', '2,000 pairs', '0 queries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def wilson_interval(part: int, whole: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share, both ends from 0 to 1.

    >>> [round(end, 4) for end in wilson_interval(3741, 5000)]
    [0.736, 0.76]
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    centre = (part + z * z / 2) / (whole + z * z)
    half = z / (whole + z * z) * (part * (whole - part) / whole + z * z / 4) ** 0.5
    return centre - half, centre + half


def observations(pairs: Sequence[Pair], shown: Sequence[Pair], summary: Summary) -> str:
    """Return the report in Markdown on all nearest pairs and those in the picture."""
    nearest = [pair for pair in pairs if pair.rank == 1]
    sections = [
        ["# Observations", ""],
        _what_was_run(summary, len(nearest)),
        _label_shares(nearest),
        _shown_pairs(shown, nearest),
        _extremes(nearest),
    ]
    return "\n".join(line for section in sections for line in section)


def cell(text: str) -> str:
    """Return text that can't break out of a Markdown table's cell or start markup."""
    return "".join(
        "\\" + char if char in r"\`*_{}[]<>()#+!|~&" else char for char in printable(text)
    )


def code(text: str) -> str:
    """Return text as a code span that it can't end, fit for a table's cell."""
    text = printable(text).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{text}{space}{fence}"


def _what_was_run(summary: Summary, matched: int) -> list[str]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        f"On {now}, {summary.queries:,} query images were each matched with the nearest of "
        f"{summary.images:,} images.",
        "",
        f"- Model: {cell(summary.model)}",
        f"- Search: {cell(summary.index)}"
        + (f", filter {code(summary.filter)}" if summary.filter else ""),
        f"- Embedded on: {cell(summary.device)}",
    ]
    if summary.recall:
        lines.append(f"- Recall: {cell(summary.recall)}")
    if summary.unmatched:
        lines.append(f"- Queries without a match: {summary.unmatched:,}")
    if summary.skipped:
        names = ", ".join(code(name) for name in summary.skipped[:LISTED])
        lines.append(f"- Queries that could not be read: {len(summary.skipped):,} ({names})")
    return [*lines, ""]


def _label_shares(nearest: Sequence[Pair]) -> list[str]:
    labelled = [pair for pair in nearest if pair.same_label is not None]
    if not labelled:
        return ["## Labels", "", "No pair has two labels to compare.", ""]
    same = sum(pair.same_label is True for pair in labelled)
    low, high = wilson_interval(same, len(labelled))
    lines = [
        "## Labels",
        "",
        f"**{same:,} of {len(labelled):,} pairs share a label: {share(same, len(labelled))}** "
        f"(95% interval {100 * low:.1f}% to {100 * high:.1f}%).",
        "",
        "| label | queries | same label | share | most often confused with |",
        "|---|---:|---:|---:|---|",
    ]
    by_label: dict[str, list[Pair]] = collections.defaultdict(list)
    for pair in labelled:
        by_label[pair.query_label].append(pair)
    for label, group in sorted(by_label.items()):
        others = collections.Counter(p.match_label for p in group if not p.same_label)
        worst = ", ".join(f"{cell(name)} ({n:,})" for name, n in others.most_common(1)) or "none"
        right = len(group) - others.total()
        row = (
            f"| {cell(label)} | {len(group):,} | {right:,} | {share(right, len(group))} | {worst} |"
        )
        lines.append(row)
    return [*lines, "", *_confusions(labelled)]


def _confusions(labelled: Sequence[Pair]) -> list[str]:
    wrong = collections.Counter(
        (pair.query_label, pair.match_label) for pair in labelled if not pair.same_label
    )
    if not wrong:
        return []
    lines = ["The most frequent confusions (query → match):", ""]
    for (query, match), count in wrong.most_common(LISTED):
        lines.append(f"- {cell(query)} → {cell(match)}: {counted(count, 'pair')}")
    return [*lines, ""]


def _sentence(pair: Pair, rank: int, total: int, median: float) -> str:
    labels = {
        True: f"The same label, {cell(pair.query_label)}",
        False: f"**Different labels**: {cell(pair.query_label)} → {cell(pair.match_label)}",
        None: "Without two labels to compare",
    }[pair.same_label]
    side = "above" if pair.similarity > median else "not above"
    return (
        f"{labels}; its similarity is {side} the median of all pairs, rank {rank:,} of {total:,}."
    )


def _shown_pairs(shown: Sequence[Pair], nearest: Sequence[Pair]) -> list[str]:
    first = [pair for pair in shown if pair.rank == 1]
    similarities = [pair.similarity for pair in nearest]
    median = statistics.median(similarities)
    lines = [
        f"## {counted(len(first), 'pair')} drawn at random",
        "",
        "![The pairs, query beside match](comparison.png)",
        "",
        f"The median similarity of all pairs is {median:.4f}.",
        "",
        "| pair | query | match | similarity | what can be seen in the data |",
        "|---|---|---|---:|---|",
    ]
    for letter, pair in zip(letters(), first, strict=False):
        rank = sum(value > pair.similarity for value in similarities) + 1
        sentence = _sentence(pair, rank, len(nearest), median)
        files = f"{code(pair.query)} | {code(pair.match)}"
        lines.append(f"| {letter} | {files} | {pair.similarity:.4f} | {sentence} |")
    return [*lines, "", *_verdict(first), ""]


def _verdict(first: Sequence[Pair]) -> list[str]:
    named = dict(zip((id(pair) for pair in first), letters(), strict=False))
    weakest = min(first, key=lambda pair: pair.similarity)
    lines = [f"The weakest of them is {named[id(weakest)]}, at {weakest.similarity:.4f}."]
    wrong = [named[id(pair)] for pair in first if pair.same_label is False]
    if wrong:
        lines.append(f"Pairs with different labels: {', '.join(wrong)}.")
    elif all(pair.same_label for pair in first):
        lines.append("All of them share a label.")
    return lines


def _extremes(nearest: Sequence[Pair]) -> list[str]:
    ordered = sorted(nearest, key=lambda pair: pair.similarity)
    near = [pair for pair in ordered if pair.similarity > NEAR_DUPLICATE]
    lines = ["## The strongest and the weakest of all pairs", ""]
    for title, some in (("Strongest", ordered[::-1][:LISTED]), ("Weakest", ordered[:LISTED])):
        lines += [f"{title}:", ""]
        lines += [f"- {p.similarity:.4f}: {code(p.query)} → {code(p.match)}" for p in some]
        lines.append("")
    have = "has" if len(near) == 1 else "have"
    lines.append(
        f"{counted(len(near), 'pair')} {have} a similarity above {NEAR_DUPLICATE}: "
        "near-duplicates, or pictures that the network can't tell apart."
    )
    return [*lines, ""]
