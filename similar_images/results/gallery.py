"""A page to look through the pairs: gallery.html, one file that opens anywhere."""

import base64
import collections
import html
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from similar_images.matching.near_duplicates import NearDuplicate
from similar_images.matching.pairs import Pair, Summary, letters, nearest
from similar_images.matching.second_look import SecondLook
from similar_images.pictures.decoding import decode
from similar_images.pictures.image_files import ImageError
from similar_images.text import counted, printable

SIDE = 96  # pixels: the square that shows a picture
MAX_SECTION = 48  # pairs of a section
MAX_CELL = 3  # pairs that a cell of the confusion table leads to
MAX_CELLS = 120  # cells that lead to pairs: the fullest
MAX_LABELS = 24  # labels of the confusion table: the most frequent
MAX_BYTES = 8_000_000  # of all thumbnails
BINS = 40  # of the distribution

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --pale: #5c5c5c; --paper: #fff; --cell: #efefef;
  --same: 26, 127, 55; --other: 193, 18, 31; --line: #c9c9c9; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --pale: #a9a9a9; --paper: #161616;
  --cell: #262626; --same: 74, 190, 106; --other: 255, 105, 110; --line: #454545; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; } h2 { margin: 2.5rem 0 .5rem; } h3 { margin: 1.5rem 0 .5rem; }
p { max-width: 46rem; } a { color: inherit; } nav a { margin-right: 1rem; white-space: nowrap; }
h1 { font-size: clamp(1.3rem, 4vw, 2rem); }
.pairs { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
.pairs li { width: 212px; min-width: 0; }
figure { margin: 0; } .two { display: flex; gap: 12px; }
.frame { width: 100px; height: 100px; border: 2px solid transparent; background: var(--cell);
  display: grid; place-items: center; overflow: hidden; font-size: .7rem; color: var(--pale); }
.other .frame:last-child { border: 2px dashed rgb(var(--other)); }
.crisp { image-rendering: pixelated; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; } figcaption span { color: var(--pale); }
b.other { color: rgb(var(--other)); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .5rem; text-align: right; border: 1px solid var(--line); }
thead th { vertical-align: bottom; } td a { display: block; }
svg { width: 100%; max-width: 46rem; height: auto; }
svg text { fill: var(--pale); font-size: 11px; }
.equal { fill: rgb(var(--same)); } .unequal { fill: rgb(var(--other)); fill-opacity: .75; }
@media print { body { max-width: none; } nav { display: none; }
  li, tr, svg { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""


@dataclass
class _Thumbnails:
    """Pictures as they stand inside the page, each read once; none once the page is full."""

    made: dict[str, str] = field(default_factory=dict)
    bytes: int = 0

    def image(self, path: str, alt: str, may_open: bool = True) -> str:
        """Return a picture in its frame, or in its place why it is not shown."""
        if path not in self.made:
            self.made[path] = self._make(path) if may_open else "not opened"
        made, alt = self.made[path], html.escape(printable(alt))
        if made.startswith("src="):
            return f'<div class="frame"><img {made} alt="{alt}"></div>'
        return f'<div class="frame" role="img" aria-label="{alt}">{html.escape(made)}</div>'

    def _make(self, path: str) -> str:
        if self.bytes >= MAX_BYTES:
            return "not shown"
        try:
            image = decode(Path(), path)[1]
        except ImageError as error:
            return printable(str(error))
        out, kind = io.BytesIO(), "png"
        crisp = max(image.size) <= SIDE
        scale = SIDE // max(image.size) if crisp else SIDE / max(image.size)
        size = [max(1, round(side * scale)) for side in image.size]
        if crisp:  # enlarged by the browser, each pixel a square
            image.save(out, "PNG", optimize=True)
        else:
            image.thumbnail((2 * SIDE, 2 * SIDE))
            image.save(out, "JPEG", quality=80)
            kind = "jpeg"
        data = base64.b64encode(out.getvalue()).decode()
        self.bytes += len(data)
        look = ' class="crisp"' if crisp else ""
        return f'src="data:image/{kind};base64,{data}" width="{size[0]}" height="{size[1]}"{look}'


class _Page:
    """The parts of the page, which share thumbnails and letters."""

    def __init__(self, shown: Sequence[Pair], near: Sequence[NearDuplicate]) -> None:
        self.thumbnails = _Thumbnails()
        self.shown = [pair for pair in shown if pair.rank == 1]
        self.letters = {id(p): x for p, x in zip(self.shown, letters(), strict=False)}
        self.changes = {id(one.pair): one.words for one in near}

    def section(self, name: str, title: str, text: str, pairs: Sequence[Pair]) -> str:
        """Return a section of pairs under a heading; of many the first."""
        some = pairs[:MAX_SECTION]
        if len(some) < len(pairs):
            text += f" The first {len(some):,} of {len(pairs):,}."
        return f'<section id="{name}"><h2>{title}</h2><p>{text}</p>{self.pairs(some)}</section>'

    def pairs(self, pairs: Sequence[Pair]) -> str:
        """Return pairs side by side."""
        return f'<ul class="pairs">{"".join(map(self.pair, pairs))}</ul>' if pairs else ""

    def pair(self, pair: Pair) -> str:
        """Return a query beside its match, with paths, labels and similarity."""
        query, match = (html.escape(printable(path)) for path in (pair.query, pair.match))
        labels = [html.escape(printable(x)) for x in (pair.query_label, pair.match_label)]
        notes = [f"<b>{self.letters[id(pair)]}</b>"] if id(pair) in self.letters else []
        notes.append(f"{pair.similarity:.4f}")
        if pair.same_label is False:
            notes.append(f'<b class="other">✗ other label: {labels[0]} → {labels[1]}</b>')
        elif labels[1]:
            notes.append(labels[1])
        if id(pair) in self.changes:
            notes.append(html.escape(self.changes[id(pair)]))
        two = self.thumbnails.image(pair.query, f"query {pair.query}") + self.thumbnails.image(
            pair.match, f"match {pair.match}", pair.may_open_match
        )
        kind = ' class="other"' if pair.same_label is False else ""
        return (
            f'<li{kind}><figure><div class="two">{two}</div><figcaption>{" · ".join(notes)}<br>'
            f"<span>{query} →<br>{match}</span></figcaption></figure></li>"
        )


def gallery(
    pairs: Sequence[Pair],
    shown: Sequence[Pair],
    near: Sequence[NearDuplicate],
    second: Sequence[SecondLook],
    summary: Summary,
    title: str,
) -> str:
    """Return the page as HTML: no script, nothing from elsewhere, at most some hundreds of pairs.

    shown: the pairs of the comparison picture, whose letters they keep.
    """
    first = nearest(pairs)
    page = _Page(shown, near)
    different = sorted((p for p in first if p.same_label is False), key=lambda p: -p.similarity)
    weakest = sorted(first, key=lambda p: p.similarity)
    parts = [
        page.section("drawn", "Drawn at random", "The pairs of comparison.png.", page.shown),
        page.section(
            "near",
            "The same picture twice",
            f"{counted(len(near), 'pair')} whose pictures are one, changed: found on the pixels. "
            "Queries that the database already holds make any score look better than it is.",
            [one.pair for one in near],
        ),
        page.section(
            "different",
            "Different labels, most alike first",
            "Confusing pictures, or wrong labels."
            if different
            else "No pair has two different labels.",
            different,
        ),
    ]
    if second:
        text = "All matches of these queries agree on another label than the query's own."
        looks = [look.pair for look in second]
        parts.append(page.section("second", "Labels worth a second look", text, looks))
    parts.append(page.section("weakest", "Weakest matches", "The least alike first.", weakest))
    labelled = [pair for pair in first if pair.same_label is not None]
    if labelled:
        parts += [_distribution(labelled), _confusion(labelled, page)]
    links = {"drawn": "at random", "near": "near-duplicates", "different": "different labels"}
    links |= {"second": "second look"} if second else {}
    links |= {"weakest": "weakest"}
    links |= {"distribution": "similarities", "confusion": "label by label"} if labelled else {}
    return _document(title, summary, links, parts)


def _document(title: str, summary: Summary, links: Mapping[str, str], parts: Sequence[str]) -> str:
    name = html.escape(printable(title))
    nav = " ".join(f'<a href="#{anchor}">{words}</a>' for anchor, words in links.items())
    run = f"{summary.images:,} images. Model: {summary.model}. Search: {summary.index}."
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{name}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{name}</h1><p>Against {html.escape(printable(run))} Query left, match right, "
        "cosine similarity below; a cross and a dashed frame: their labels differ.</p>"
        f"<nav>{nav}</nav>"
        f"{''.join(parts)}</main></body></html>\n"
    )


def _distribution(labelled: Sequence[Pair]) -> str:
    """Return the distribution of similarity, for equal and for different labels, as a picture."""
    low = min(pair.similarity for pair in labelled)
    width = max(1 - low, 1e-3)
    bars: dict[bool, list[int]] = {True: [0] * BINS, False: [0] * BINS}
    for pair in labelled:
        place = min(BINS - 1, int((pair.similarity - low) / width * BINS))
        bars[bool(pair.same_label)][place] += 1
    most = max(itertools.chain(*bars.values()))
    boxes = []
    for same, up in ((True, True), (False, False)):  # equal labels upwards, the others downwards
        for place, count in enumerate(bars[same]):
            if count:
                height = 90 * count / most
                x, y = 20 + 14 * place, 110 - height if up else 110
                kind = "equal" if same else "unequal"
                words = f"{low + width * place / BINS:.3f} and more: {counted(count, 'pair')}"
                boxes.append(
                    f'<rect class="{kind}" x="{x}" y="{y:.1f}" width="12" height="{height:.1f}">'
                    f"<title>{words} with {kind} labels</title></rect>"
                )
    right = 20 + 14 * BINS
    same_count = sum(bars[True])
    summary = (
        f"{counted(same_count, 'pair')} with equal labels upwards, "
        f"{counted(sum(bars[False]), 'pair')} with different labels downwards."
    )
    return (
        '<section id="distribution"><h2>Similarity of the nearest matches</h2>'
        f"<p>{summary}</p>"
        f'<svg viewBox="0 0 {right + 20} 230" role="img" aria-label="{summary}">'
        f'{"".join(boxes)}<line x1="20" x2="{right}" y1="110" y2="110" stroke="currentColor"/>'
        f'<text x="20" y="222">{low:.2f}</text>'
        f'<text x="{right}" y="222" text-anchor="end">{low + width:.2f}</text>'
        '<text x="24" y="14">equal labels</text><text x="24" y="206">different labels</text>'
        "</svg></section>"
    )


def _confusion(labelled: Sequence[Pair], page: _Page) -> str:
    """Return the confusion table; each cell leads to the most alike of its pairs."""
    cells: dict[tuple[str, str], list[Pair]] = collections.defaultdict(list)
    for pair in labelled:
        cells[pair.query_label, pair.match_label].append(pair)
    counts = collections.Counter(pair.query_label for pair in labelled)
    counts.update(pair.match_label for pair in labelled)
    labels = sorted(label for label, _ in counts.most_common(MAX_LABELS))
    there = [cell for cell in itertools.product(labels, labels) if cell in cells]
    linked = sorted(there, key=lambda cell: -len(cells[cell]))[:MAX_CELLS]
    anchors = {cell: f"cell-{number}" for number, cell in enumerate(sorted(linked))}
    names = [html.escape(printable(label)) for label in labels]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for label, name in zip(labels, names, strict=True):
        total = sum(len(cells.get((label, other), ())) for other in labels)
        row = "".join(_cell((label, other), cells, total, anchors) for other in labels)
        rows.append(f'<tr><th scope="row">{name}</th>{row}</tr>')
    text = "Rows: the query's label; columns: its match's. A number leads to its pairs."
    if len(counts) > len(labels):
        text += f" The {len(labels)} most frequent of {len(counts):,} labels."
    return (
        f'<section id="confusion"><h2>Label by label</h2><p>{text}</p><div class="scroll"><table>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{''.join(_cells_pairs(cells, anchors, page))}</section>"
    )


def _cell(
    cell: tuple[str, str],
    cells: Mapping[tuple[str, str], Sequence[Pair]],
    total: int,
    anchors: Mapping[tuple[str, str], str],
) -> str:
    count = len(cells.get(cell, ()))
    if not count:
        return "<td></td>"
    colour = "--same" if cell[0] == cell[1] else "--other"
    number = f"{count:,}"
    if cell in anchors:
        words = html.escape(printable(f"{number} pairs: {cell[0]} → {cell[1]}"))
        number = f'<a href="#{anchors[cell]}" aria-label="{words}">{number}</a>'
    strength = 0.12 + 0.5 * count / total
    return f'<td style="background: rgba(var({colour}), {strength:.2f})">{number}</td>'


def _cells_pairs(
    cells: Mapping[tuple[str, str], Sequence[Pair]],
    anchors: Mapping[tuple[str, str], str],
    page: _Page,
) -> Iterator[str]:
    for cell, anchor in anchors.items():
        pairs = sorted(cells[cell], key=lambda pair: -pair.similarity)
        query, match = (html.escape(printable(label)) for label in cell)
        shown = f"the {MAX_CELL} most alike of " if len(pairs) > MAX_CELL else ""
        yield (
            f'<h3 id="{anchor}">{query} → {match}: {shown}{counted(len(pairs), "pair")}</h3>'
            f"{page.pairs(pairs[:MAX_CELL])}"
        )
