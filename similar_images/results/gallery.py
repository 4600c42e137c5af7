"""Write gallery.html: the pairs to look through, in one file that opens anywhere."""

import base64
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from similar_images.console import QUIET, Console
from similar_images.images.reduction_store import ReductionStore, Thumbnail
from similar_images.matching.findings import Findings
from similar_images.matching.label_issues import LEAST_MARGIN
from similar_images.matching.pairs import Pair, nearest, paths_to_show
from similar_images.results.rendering import letters, render
from similar_images.text import natural

SIDE, SMALL = 96, 64  # pixels: the squares that show the images of a pair, and its other matches
MAX_SECTION = 48  # pairs of a section
MAX_GROUPS = 24  # of duplicates
MAX_COPIES = 6  # that are shown of a group
MAX_CELL = 3  # pairs that a cell of the confusion matrix links to
MAX_LABELS = 16  # labels of the confusion matrix: the most frequent
MAX_BYTES = 5_000_000  # of all thumbnails
MAX_FURTHER, ALL_FURTHER = 20, 6000  # other matches: of a pair, and of all: 200 bytes each
BINS = 40  # of the distribution


class Shown(NamedTuple):
    """An image as it stands in the page, or why it is not shown."""

    problem: str = ""
    name: str = ""  # of the CSS class that has the image, which many places of the page use
    url: str = ""  # data:, with the image itself
    width: float = 0  # percent of the square
    height: float = 0
    crisp: bool = False  # enlarged by the browser, each pixel becoming a square


def gallery(
    drawn: Sequence[Pair],
    findings: Findings,
    summary: Mapping[str, object],
    title: str,
    reductions: ReductionStore,
    console: Console = QUIET,
) -> str:
    """Return the page as HTML: no script, nothing from elsewhere, at most some hundreds of pairs.

    drawn: the pairs of the comparison picture, whose letters they keep.
    """
    ordered = sorted(nearest(findings.rows), key=lambda pair: pair.similarity)
    labelled = [pair for pair in reversed(ordered) if pair.same_label is not None]
    sections = {
        "drawn": drawn,
        "same": _of_every_label(one.pair for one in findings.near if one.is_same),
        "part": _of_every_label(one.pair for one in findings.near if not one.is_same),
        "conflicts": [one.pair for one in findings.conflicts],
        "different": [pair for pair in labelled if not pair.same_label],
        "issues": [issue.pair for issue in findings.issues],
        "weakest": ordered,
    }
    label_counts = Counter(x for pair in labelled for x in (pair.query_label, pair.match_label))
    confusion = _confusion(labelled, [x for x, _ in label_counts.most_common(MAX_LABELS)])
    cells = [some[:MAX_CELL] for row in confusion for _, _, some in row]
    on_page = [*itertools.chain(*(some[:MAX_SECTION] for some in sections.values()), *cells)]
    groups = findings.groups[:MAX_GROUPS]
    copies = [copy.path for group in groups for copy in group.copies[:MAX_COPIES]]
    matches = {row[0].query: row for row in findings.rows}
    most = min(MAX_FURTHER, ALL_FURTHER // max(1, len(on_page)))
    queries = dict.fromkeys(pair.query for pair in on_page)
    further = [pair for query in queries for pair in matches.get(query, [])[: most + 1]]
    return render(
        "gallery.html",
        title=title,
        summary=summary,
        sections=sections,
        max_section=MAX_SECTION,
        thumbnails=_thumbnails(on_page, further, copies, reductions, console),
        matches=matches,
        most=most,
        groups=groups,
        least_margin=LEAST_MARGIN,
        all_groups=findings.groups,
        max_copies=MAX_COPIES,
        letters=dict(zip(sections["drawn"], letters(), strict=False)),
        verdicts={one.pair: one.verdict for one in [*findings.near, *findings.conflicts]},
        distribution=_distribution(labelled) if labelled else None,
        confusion=confusion,
        max_cell=MAX_CELL,
        label_count=len(label_counts),
    )


def _of_every_label(pairs: Iterable[Pair]) -> list[Pair]:
    """Return pairs, those of the same two images once; the first have as many labels as possible.

    A folder that is matched with itself has each pair twice.
    """
    seen: Counter[str] = Counter()

    def turn(pair: Pair) -> int:
        seen[pair.query_label] += 1
        return seen[pair.query_label]

    return sorted({frozenset(pair[:2]): pair for pair in pairs}.values(), key=turn)


def _thumbnails(
    pairs: Sequence[Pair],
    further: Sequence[Pair],
    copies: Sequence[str],
    reductions: ReductionStore,
    console: Console,
) -> dict[str, Shown]:
    """Return how each image is shown, up to MAX_BYTES in all; the copies come first.

    From a sixth of that on, they are smaller files, so that three times as many have room, and
    those of other matches, which come last, always are.
    """
    all_pairs = [*pairs, *further]
    shown = {pair.match: Shown("not opened") for pair in all_pairs if not pair.may_open_match}
    large = {*copies, *paths_to_show(pairs)}
    paths = list(dict.fromkeys([*copies, *paths_to_show(all_pairs)]))
    size = 0
    for number, (path, thumbnail) in enumerate(reductions.thumbnails(paths, console).items()):
        problem = thumbnail.problem or ("not shown" if size >= MAX_BYTES else "")
        side = SMALL if path not in large else SIDE if size > MAX_BYTES / 6 else 2 * SIDE
        name = f"i{number}"
        shown[path] = Shown(problem) if problem else _shown(thumbnail, side, name)
        size += len(shown[path].url)
    return shown


def _shown(thumbnail: Thumbnail, side: int, name: str) -> Shown:
    """side: pixels; twice as large as shown for screens of high resolution."""
    image, data = Image.open(io.BytesIO(thumbnail.data)), thumbnail.data
    crisp = max(image.size) <= SIDE
    if not crisp:
        out = io.BytesIO()
        image.thumbnail((side, side))
        image.save(out, "JPEG", quality=80)
        data = out.getvalue()
    scale = SIDE // max(image.size) if crisp else SIDE / max(image.size)
    width, height = (round(100 * side * scale / SIDE, 1) for side in image.size)
    text = base64.b64encode(data).decode()
    url = f"data:image/{'png' if crisp else 'jpeg'};base64,{text}"
    return Shown("", name, url, width, height, crisp)


def _distribution(labelled: Sequence[Pair]) -> tuple[float, list[int], list[int]]:
    """Return where the first of BINS similarity ranges begins (the last one ends at 1), and the
    number of pairs in each: with equal labels, and with different ones.
    """
    low = min(0.999, *(pair.similarity for pair in labelled))
    equal, different = (
        np.histogram([p.similarity for p in labelled if p.same_label == same], BINS, (low, 1))[0]
        for same in (True, False)
    )
    return low, equal.tolist(), different.tolist()


def _confusion(
    labelled: Sequence[Pair], labels: Iterable[str]
) -> list[list[tuple[str, str, list[Pair]]]]:
    """Return the confusion matrix: labels and pairs of each cell, the most similar first."""
    cells: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in labelled:
        cells[pair.query_label, pair.match_label].append(pair)
    labels = sorted(labels, key=natural)
    return [[(query, match, cells[query, match]) for match in labels] for query in labels]
