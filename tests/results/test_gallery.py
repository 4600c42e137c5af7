"""gallery.py: a page that opens anywhere, whatever the images, their number and their names."""

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import SUMMARY
from PIL import Image

from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.duplicate_groups import Copy, Group
from similar_images.matching.findings import Findings
from similar_images.matching.label_issues import LabelIssue
from similar_images.matching.near_duplicates import NearDuplicate
from similar_images.matching.pairs import Pair
from similar_images.results import gallery as module
from similar_images.results.gallery import gallery
from similar_images.verifying.features import examine
from similar_images.verifying.verdict import PART, SAME, Verdict

EVIL = "a\"><script>alert(1)</script>&'`|{{ 7 * 7 }}\u202e\u202f\n"
VOID = {"meta", "img", "br"}
KINDS = (SAME, PART)


class Checker(html.parser.HTMLParser):
    """Notes what a page holds, and that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def attributes(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker


def paint(count: int, size: tuple[int, int] = (32, 32)) -> list[str]:
    names = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        names.append(f"{number}.png")
        Image.fromarray(pixels).save(names[-1])
    return names


def sample(count: int, labels: int, size: tuple[int, int] = (32, 32)) -> list[Pair]:
    """Pairs of which every third has two different labels."""
    names = paint(20, size)
    return [
        Pair(
            names[n % 20],
            names[(n + 7) % 20],
            0.5 + n / count / 2,
            1,
            f"label {n % labels}",
            f"label {(n + (n % 3 == 0)) % labels}",
        )
        for n in range(count)
    ]


def page_of(pairs: list[Pair], shown: int = 10, top_k: int = 1) -> str:
    near = [NearDuplicate(pair, Verdict(SAME, ("mirrored",))) for pair in pairs[::50]]
    near += [NearDuplicate(pair, Verdict(PART, ("recoloured",))) for pair in pairs[1::50]]
    issues = [LabelIssue(pairs[0], 5, 0, 5)]
    rows = [[pair._replace(rank=rank + 1) for rank in range(top_k)] for pair in pairs]
    findings = Findings(rows, near=near, issues=issues)
    return gallery(pairs[:shown], findings, SUMMARY, "a title", ReductionStore(examine))


def test_all_parts_are_there_with_letters_paths_and_similarities() -> None:
    pairs = sample(200, 5)
    page = page_of(pairs)
    checker = checked(page)
    assert page.startswith("<!DOCTYPE html>\n<html")
    ids = {a["id"] for _, a in checker.tags if "id" in a}
    wanted = {
        "drawn",
        "same",
        "part",
        "different",
        "issues",
        "weakest",
        "distribution",
        "confusion",
    }
    assert wanted <= ids
    assert "<b>A</b> · 0.5000" in page
    assert "<b>J</b> · " in page
    assert "✗ other label: label 0 → label 1" in page
    sections = [page.split(f'<section id="{kind}"')[1].split("</section")[0] for kind in KINDS]
    assert ["mirrored" in section for section in sections] == [True, False]
    assert ["recoloured" in section for section in sections] == [False, True]
    images = [a for a in checker.attributes("div") if a.get("role") == "img"]
    assert len(images) > 100
    assert all(image["aria-label"] for image in images)
    assert page.count("url(data:image/png;base64,") == page.count("url(") == 20, "each image once"
    for link in checker.attributes("a"):
        assert str(link["href"]).startswith("#")
        assert str(link["href"])[1:] in ids
    assert "script" not in {tag for tag, _ in checker.tags}
    assert len(checker.attributes("table")) == len(checker.attributes("caption")) == 1
    assert not re.search(r"https?:", page)


@pytest.mark.parametrize("labels", [5, module.MAX_LABELS])
def test_each_cell_of_the_confusion_table_leads_to_its_pairs(labels: int) -> None:
    pairs = sample(200, labels)
    page = page_of(pairs)
    order = [f"label {number}" for number in range(labels)]
    assert re.findall('<th scope="row">(.+?)</th>', page) == order
    for query in range(labels):
        for match in range(labels):
            both = (order[query], order[match])
            some = [p for p in pairs if (p.query_label, p.match_label) == both]
            link = re.search(
                rf'<a href="#(cell-\d+)" aria-label="{len(some)} pairs?: {" → ".join(both)}">',
                page,
            )
            assert bool(link) == bool(some)
            if link:
                shown = page.split(f'id="{link[1]}"')[1].split("<h3")[0]
                best = sorted(some, key=lambda pair: -pair.similarity)[:3]
                assert [f"{p.similarity:.4f}" in shown for p in best] == [True] * len(best)
                assert shown.count("<figure>") == len(best)


@pytest.mark.parametrize(
    ("count", "labels", "top_k"), [(1, 1, 1), (5000, 3, 1), (5000, 400, 1), (1000, 16, 100)]
)
def test_the_page_is_small_however_large_the_run(count: int, labels: int, top_k: int) -> None:
    page = page_of(sample(count, labels, (300, 200)), shown=1, top_k=top_k)
    checker = checked(page)
    assert len(checker.attributes("figure")) <= 1100
    assert len(page) <= 8_000_000
    assert page.count("<th scope=") <= 2 * module.MAX_LABELS


def test_each_pair_opens_to_the_other_matches_of_its_query() -> None:
    """Without a script; each says what it is. Where there are very many, the first are shown."""
    names = paint(20)
    rows = [
        [Pair(query, names[n - r], 1 - r / 50, r, "a", "ab"[r % 2]) for r in range(1, top_k + 1)]
        for n, (query, top_k) in enumerate(zip(names, [19, 3, 1], strict=False))
    ]
    near = [NearDuplicate(rows[1][1], Verdict(SAME, ("mirrored",)))]
    near.append(NearDuplicate(rows[1][2], Verdict(PART, ("recoloured",))))
    findings = Findings(rows, near=near)
    page = gallery([row[0] for row in rows], findings, SUMMARY, "t", ReductionStore(examine))
    checked(page)
    drawn = page.split('<section id="drawn">')[1].split("</section")[0]
    many, few, one = drawn.split("<figure>")[1:]
    assert "<summary>18 other matches</summary>" in many
    assert re.findall(r"<p>(\d+) ·", many) == [str(rank) for rank in range(2, 20)]
    assert "<details" not in one
    opened = few.split("<summary>2 other matches</summary>")[1]
    assert '<li class="same">' in opened
    assert '2 · 0.9600 · a · <b class="same">same</b>: mirrored<br>' in opened
    assert '<li class="part other">' in opened
    assert '<b class="part">part</b>: recoloured<br>' in opened


def test_a_pair_opens_to_no_more_matches_however_many_there_are() -> None:
    names = paint(55)
    rows = [
        [Pair(query, match, 0.9, rank, "a", "a") for rank, match in enumerate(names[25:], 1)]
        for query in names[:25]
    ]
    page = gallery([], Findings(rows), SUMMARY, "t", ReductionStore(examine))
    for figure in page.split("<figure>")[1:]:
        assert re.findall(r"<p>(\d+) ·", figure) == [str(rank) for rank in range(2, 22)]
        assert "pairings.txt has the others." in figure


def test_thumbnails_stop_before_the_page_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies are shown first: a user looks at them before deleting any."""
    monkeypatch.setattr(module, "MAX_BYTES", 20_000)
    pairs = sample(200, 3, (300, 200))
    assert page_of(pairs).count("not shown") > 10
    copies = [Copy(f"{n}.png", 300, 200, 2300, 1, "", "") for n in (18, 19)]
    findings = Findings([[pair] for pair in pairs], groups=[Group(copies)])
    page = gallery(pairs[:5], findings, SUMMARY, "a title", ReductionStore(examine))
    groups = page.split('<section id="groups">')[1].split("</section")[0]
    assert len(re.findall(r'class="frame i\d+"', groups)) == 2
    assert "300×200 · 2.3 kB" in groups
    assert "not shown" in page
    assert len(page) < 700_000


def test_numbers_and_nouns_agree() -> None:
    page = page_of(sample(1, 1))
    assert 'aria-label="1 pair: label 0 → label 0"' in page
    assert not re.search(r"\b1 (pair|image)s\b", page)


def test_no_name_can_break_out_of_the_page() -> None:
    (name,) = paint(1)
    pair = Pair(EVIL, name, 0.5, 1, EVIL, "b")
    gone = Pair(name, EVIL, 0.4, 1, "b", EVIL)
    summary = {**SUMMARY, "model": EVIL, "index": EVIL, "device": EVIL}
    near = [NearDuplicate(gone, Verdict(SAME, (EVIL,)))]
    copies = [Copy(name, 9, 9, 5, 1, "", "keep"), Copy(EVIL, 9, 9, 5, 0.5, EVIL, "copy")]
    issues = [LabelIssue(pair, 5, 0, 5)]
    findings = Findings([[pair], [gone]], near=near, groups=[Group(copies)], issues=issues)
    page = gallery([pair], findings, summary, EVIL, ReductionStore(examine))
    checker = checked(page)
    assert "script" not in {tag for tag, _ in checker.tags}
    assert "\u202e" not in page
    assert "{{ 7 * 7 }}" in page, "no name is read as a template"
    assert all(not name.startswith("on") for _, a in checker.tags for name in a)


def test_without_labels_there_is_no_table() -> None:
    names = paint(2)
    pair = Pair(*names, 0.9)
    page = gallery([pair], Findings([[pair]]), SUMMARY, "t", ReductionStore(examine))
    checked(page)
    assert "confusion" not in page
    assert "No pair has two different labels" in page


def test_reductions_are_crisp_and_large_ones_reduced() -> None:
    page = page_of(sample(3, 2))
    assert "center / 100.0% 100.0% no-repeat var(--cell); image-rendering: pixelated" in page
    for name in paint(1, (400, 100)):
        wide = Pair(name, name, 0.9)
        assert "center / 100.0% 25.0% no-repeat var(--cell) }" in page_of([wide])


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


# Run in the page: what is shown, what is too wide, and the lowest contrast of a text (WCAG 2).
PROBE = """<script>addEventListener('load', () => {
  const images = [...document.images], all = [...document.querySelectorAll('body *')];
  const wide = all.filter(e => !e.closest('.scroll') &&
    e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
  const rgba = colour => [...colour.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
  const behind = e => e ? over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement))
    : [255, 255, 255];
  const light = rgb => rgb.map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0.05);
  const contrast = e => {
    const [a, b] = [light(rgba(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
    return Math.max(a, b) / Math.min(a, b); };
  const texts = all.filter(e => !e.closest('svg') &&
    [...e.childNodes].some(node => node.nodeType == 3 && node.data.trim()));
  document.title = JSON.stringify({shown: images.filter(i => i.naturalWidth).length,
    of: images.length, wide: wide.map(e => e.tagName), contrast: Math.min(...texts.map(contrast)),
    dark: matchMedia('(prefers-color-scheme: dark)').matches}); });</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_a_browser_shows_the_page(width: int, dark: bool, own_folder: Path) -> None:
    """Images are decoded, texts have contrast, nothing is wider than the window but the table."""
    pairs = [*sample(60, 4), Pair("0.png", "1.png", 0.9, 1, "always right", "always right")]
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_of(pairs))
    urls = re.findall(r"url\((data:.+?)\)", page)
    page = page.replace("</main>", "".join(f'<img src="{url}" alt="">' for url in urls) + "</main>")
    Path("probed.html").write_text(page.replace("</head>", f"{PROBE}</head>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += [f"--window-size={width},900", f"--user-data-dir={own_folder / 'profile'}"]
    options += ["--no-first-run", "--disable-sync", "--disable-component-update", "--disable-quic"]
    options += [f"--blink-settings=preferredColorScheme={int(not dark)}"]
    done = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", (own_folder / "probed.html").as_uri()],
        capture_output=True,
        text=True,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-2000:]
    figures = json.loads(title[1])
    assert figures["shown"] == figures["of"] == 20
    assert figures["wide"] == []
    assert figures["dark"] == dark
    assert figures["contrast"] >= 4.5
