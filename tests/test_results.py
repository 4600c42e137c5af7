"""results.py: the pairings, the picture's pixels, the observations' numbers."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import results
from results import CELL, Pair, Summary, draw_pairs, draw_rows, observations, pairings_text

SUMMARY = Summary(queries=3, images=9, model="m", index="exact", device="cpu")


def pictures(count: int) -> list[str]:
    names = []
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{number}.png")
        names.append(f"{number}.png")
    return names


def find(page: Image.Image, name: str) -> list[tuple[int, int]]:
    """Where a picture stands on the page, enlarged six times, to the pixel."""
    picture = np.asarray(Image.open(name)).repeat(6, axis=0).repeat(6, axis=1)
    sheet = np.asarray(page)
    corner = (sheet == picture[0, 0]).all(axis=2)
    places = []
    for y, x in zip(*np.nonzero(corner), strict=True):
        part = sheet[y : y + CELL, x : x + CELL]
        if part.shape == picture.shape and (part == picture).all():
            places.append((int(x), int(y)))
    return places


def test_each_picture_stands_whole_and_crisp_in_its_cell() -> None:
    names = pictures(20)
    pairs = [Pair(names[2 * i], names[2 * i + 1], 0.9, 1, "a", "a") for i in range(10)]
    page = draw_pairs(pairs, "a title")
    places = [find(page, name) for name in names]
    assert all(len(place) == 1 for place in places)
    flat = [place[0] for place in places]
    queries, matches = flat[::2], flat[1::2]
    for query, match in zip(queries, matches, strict=True):
        assert match[1] == query[1]
        assert 0 < match[0] - query[0] - CELL < 30
    assert [x for x, _ in queries[:5]] == sorted(x for x, _ in queries[:5])
    assert len({y for _, y in queries[:5]}) == 1
    assert queries[5][0] == queries[0][0]
    assert queries[5][1] > queries[0][1]


def test_top_k_gives_a_row_for_each_query() -> None:
    names = pictures(8)
    rows = [[Pair(names[4 * q], names[4 * q + k], 0.9, k) for k in range(1, 4)] for q in range(2)]
    page = draw_rows(rows, "a title")
    places = [find(page, name)[0] for name in names]
    assert len({y for _, y in places[:4]}) == 1
    assert places[4][1] > places[0][1]
    assert (
        [x for x, _ in places[:4]] == [x for x, _ in places[4:]] == sorted(x for x, _ in places[:4])
    )


def test_a_wrong_label_is_marked_by_more_than_colour() -> None:
    names = pictures(2)
    right = draw_pairs([Pair(*names, 0.9, 1, "a", "a")], "t").convert("L")
    wrong = draw_pairs([Pair(*names, 0.9, 1, "a", "b")], "t").convert("L")
    x, y = find(draw_pairs([Pair(*names, 0.9, 1, "a", "b")], "t"), names[1])[0]
    above = (x - 5, y - 40, x + CELL, y - 6)
    difference = np.abs(np.asarray(right.crop(above)).astype(int) - np.asarray(wrong.crop(above)))
    assert (difference > 100).sum() > 200


@pytest.mark.parametrize("size", [(1, 1), (31, 7), (192, 192), (193, 10), (4000, 3000), (3, 2000)])
def test_pictures_keep_their_shape(size: tuple[int, int]) -> None:
    shown = results.fit(Image.new("RGB", size))
    assert max(shown.size) <= CELL
    assert max(shown.size) > CELL // 2
    if min(size) * CELL > max(size):
        ratio = size[0] / size[1]
        assert shown.width / shown.height == pytest.approx(ratio, rel=1.5 / min(shown.size))


def test_odd_labels_and_lost_files_fit() -> None:
    (name,) = pictures(1)
    labels = ["", "猫" * 40, "a very long label indeed that never ends", "evil\nline\u202e"]
    pairs = [Pair(name, "gone.png", -0.5, 1, label, label) for label in labels]
    page = draw_pairs(pairs, "word " * 80)
    assert len(find(page, name)) == 4
    edge = np.asarray(page)[:, -results.MARGIN // 2 :]
    assert (edge == 255).all(), "nothing runs over the edge"


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), max_size=5))
def test_no_path_can_forge_a_line(names: list[tuple[str, str]]) -> None:
    text = pairings_text([Pair(query, match, 0.25) for query, match in names])
    rows = list(csv.reader(io.StringIO(text), delimiter="\t"))
    assert rows[0] == ["query", "rank", "match", "similarity"]
    assert len(text.splitlines()) == len(rows) == len(names) + 1
    for row, (query, match) in zip(rows[1:], names, strict=True):
        assert row == [results.printable(query), "1", results.printable(match), "0.250000"]


def test_observations_count_right() -> None:
    pairs = [
        Pair("q/cat/1", "d/cat/1", 0.995, 1, "cat", "cat"),
        Pair("q/cat/2", "d/dog/1", 0.7, 1, "cat", "dog"),
        Pair("q/dog/1", "d/dog/2", 0.9, 1, "dog", "dog"),
        Pair("q/dog/1", "d/cat/9", 0.8, 2, "dog", "cat"),
    ]
    text = observations(pairs, pairs[:3], SUMMARY)
    assert "**2 of 3 pairs share a label: 66.7%**" in text
    assert "| cat | 2 | 1 | 50.0% | dog (1) |" in text
    assert "| dog | 1 | 1 | 100.0% | none |" in text
    assert "- cat → dog: 1 pair" in text
    assert "The weakest of them is B, at 0.7000." in text
    assert "Pairs with different labels: B." in text
    assert "rank 3 of 3" in text
    assert "1 pair has a similarity above 0.99" in text


def test_labels_cannot_break_out_of_the_report() -> None:
    evil = "a|b](http://x)<script>`\n# heading"
    pair = Pair(evil, evil, 0.5, 1, evil, "b")
    text = observations([pair], [pair], SUMMARY)
    assert "\n# heading" not in text
    assert "<script>" not in text.replace("`", "") or "\\<script" in text
    for line in text.splitlines():
        if line.startswith("| a"):
            assert line.replace("\\|", "").count("|") == 6


def test_a_file_appears_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    results.write_whole(Path("out/x.txt"), b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        results.write_whole(Path("out/x.txt"), b"new")
    assert os.listdir("out") == ["x.txt"]
    assert Path("out/x.txt").read_bytes() == b"old"
