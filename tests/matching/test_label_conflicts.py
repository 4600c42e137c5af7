"""label_conflicts.py: images that are the same and have different labels, whatever --top-k."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from drawings import photograph
from helpers import load, pairings
from PIL import Image, ImageFilter

import query_code


def table(name: str) -> list[dict[str, str]]:
    with open(Path("results", name), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def both(row: dict[str, str]) -> frozenset[str]:
    return frozenset((row["query"], row["match"]))


@pytest.fixture
def planted(own_folder: Path) -> set[frozenset[str]]:
    """49 images of 5 labels; 5 are also there under another label, and one of them twice in each.

    Returns the pairs of the others.
    """
    for label in "abcde":
        Path("images", label).mkdir(parents=True)
    drawn = 0
    rng = np.random.default_rng(0)
    for drawn in range(41):
        noise = rng.normal(128, 90, (150, 200)).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(noise).convert("RGB")
        hue = Image.new("RGB", image.size, f"hsl({29 * drawn}, 90%, 50%)")
        image = Image.blend(image.filter(ImageFilter.GaussianBlur(3)), hue, 0.3)
        image.save(f"images/{'abcde'[drawn % 5]}/{drawn}.png")
    pairs = []
    for number in range(4):
        here, there = Path("images", "abcd"[number], f"{number}.png"), "bcde"[number]
        changed = Image.open(here).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        other = Path("images", there, f"planted {number}.jpg")
        changed.save(other, quality=90)
        pairs.append((here, other))
    for name in ("1", "2"):  # each is nearest to the one with its own label
        photograph().save(f"images/a/right {name}.png")
        photograph().save(f"images/b/wrong {name}.jpg", quality=30)
    assert len(list(Path("images").rglob("*.*"))) == 49
    assert load("--images", "images") == 0
    return {frozenset(map(str, pair)) for pair in pairs}


@pytest.mark.parametrize("top_k", [1, 5, 48])
def test_images_under_two_labels_are_found_whatever_top_k(
    top_k: int, planted: set[frozenset[str]]
) -> None:
    assert query_code.main(["--queries", "images", "--top-k", str(top_k)]) == 0
    found = table("label_conflicts.txt")
    assert {both(row) for row in found} >= planted
    assert len(found) == len({both(row) for row in found})
    assert 5 <= len(found) <= 4 + 2 * 2, [sorted(both(row)) for row in found]
    for row in found:
        labels = row["query"].split("/")[1], row["match"].split("/")[1]
        assert labels == (row["label"], row["match_label"])
        assert labels[0] != labels[1]
    assert {row["change"] for row in found} == {"mirrored", "re-encoded"}
    assert [row for row in found if "wrong" in str(both(row)) and "right" in str(both(row))]
    nearest = [str(both(row)) for row in pairings() if row["rank"] == "1"]
    assert not [pair for pair in nearest if "wrong" in pair and "right" in pair]
    report = Path("results/observations.md").read_text()
    labels = report.split("## Labels")[1].split("##")[0]
    assert labels.startswith(f"\n\n**{len(found)} pairs of the same image have different labels**")
    page = Path("results/gallery.html").read_text()
    assert "if folders are labels" in labels
    assert "(if folders are labels)" in page
    section = page.split('<section id="conflicts">')[1].split("</section")[0]
    assert section.count("<figure>") == len(found)
    assert page.index('id="conflicts"') < page.index('id="different"')


def test_pairs_are_ignored_and_counted_wherever_they_are_found(
    planted: set[frozenset[str]],
) -> None:
    assert query_code.main(["--queries", "images"]) == 0
    lines = [f"{row['query']}\t1\t{row['match']}" for row in table("label_conflicts.txt")]
    Path("ignored.txt").write_text("\n".join(lines))
    assert query_code.main(["--queries", "images", "--ignore-pairs", "ignored.txt"]) == 0
    report = Path("results/observations.md").read_text()
    assert f"leaves out: {len(lines)} of {len(lines)}.\n" in report
    assert not Path("results/label_conflicts.txt").exists()


def test_copies_with_another_label_are_named_in_the_report(planted: set[frozenset[str]]) -> None:
    assert query_code.main(["--queries", "images"]) == 0
    groups = table("duplicate_groups.txt")
    kept = {row["group"]: row["path"] for row in groups if row["keep"] == "keep"}
    report = Path("results/observations.md").read_text().split("another label than")[1]
    for row in groups:
        ours, other = (path.split("/")[1] for path in (row["path"], kept[row["group"]]))
        line = f"- `{row['path']}`: labelled {ours}; `{kept[row['group']]}`: labelled {other}\n"
        assert (line in report) == (row["keep"] == "copy" and ours != other)


def test_the_same_images_with_one_label_or_none_are_no_conflict(own_folder: Path) -> None:
    Path("images/a").mkdir(parents=True)
    photograph().save("images/a/1.png")
    shutil.copy("images/a/1.png", "images/a/2.png")
    shutil.copy("images/a/1.png", "images/3.png")
    assert load("--images", "images") == 0
    assert query_code.main(["--queries", "images", "--top-k", "2"]) == 0
    assert len(table("duplicate_groups.txt")) == 3
    assert not Path("results/label_conflicts.txt").exists()
    assert "another label" not in Path("results/observations.md").read_text()
