"""Judged pairs and different images: what the benchmarks of near-duplicates count."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import write_batches
from PIL import Image, ImageOps

from benchmarks import different_images, graphics, judged_pairs
from similar_images.splitting.split import ImageSet, split_positions

Fails = Callable[..., str]


def test_judged_pairs_are_of_the_published_split() -> None:
    judged = judged_pairs.read_judged()
    assert len(set(map(tuple, judged.positions.tolist()))) == len(judged.positions) > 400
    database, queries = split_positions(50_000, 0.1, 42)
    assert set(judged.positions[:, 0]) <= set(queries)
    assert set(judged.positions[:, 1]) <= set(database)
    rows = judged_pairs.JUDGED.read_text().splitlines()[1:]
    words = {tuple(row.split("\t")[2:]) for row in rows}
    assert words == {(x, y) for x in ("same", "different") for y in ("likely", "random")}


def test_scores_count_what_was_judged() -> None:
    """Images 10 to 19 are brighter copies of 0 to 9; two pairs are judged otherwise."""
    few = np.random.default_rng(0).integers(0, 180, (10, 9, 9, 3), dtype=np.uint8)
    cubic = Image.Resampling.BICUBIC
    first = np.stack([np.asarray(Image.fromarray(x).resize((32, 32), cubic)) for x in few])
    images = ImageSet(np.concatenate([first, first + 40]), np.zeros(20, np.int64), ["all"])
    copies = [(i, i + 10) for i in range(10)]
    others = [(0, 13), (1, 14), (2, 15), (3, 16), (4, 17)]
    same = np.array([True] * 9 + [False] + [True] + [False] * 4)
    likely = np.array([True] * 14 + [False])
    judged = judged_pairs.Judged(np.array(copies + others), same, likely)
    assert judged_pairs.scores(images, judged)[0.75] == (10, 9, 10)
    even, odd = judged_pairs.measure(images, judged).split("Queries")[1:]
    assert even.startswith(" at positions that are even, which chose the threshold: 7 pairs, 6 of")
    assert "| **0.50** | 5 | 5 | 100.0% (56.6 to 100.0) | 83.3% (43.6 to 97.0) |" in even
    assert odd.startswith(" at positions that are odd: 7 pairs, 4 of")
    assert "| **0.50** | 5 | 4 | 80.0% (37.6 to 96.4) | 100.0% (51.0 to 100.0) |" in odd
    assert "Of 1 other pairs, drawn at random, 0 are the same photograph; 0 are reported." in odd


def test_the_threshold_decides_what_is_reported() -> None:
    """Half of each match is another image: the correlation is in between."""
    rng, cubic = np.random.default_rng(0), Image.Resampling.BICUBIC
    few = rng.integers(0, 255, (8, 9, 9, 3), dtype=np.uint8)
    first = np.stack([np.asarray(Image.fromarray(x).resize((32, 32), cubic)) for x in few])
    mixed = first.copy()
    mixed[:, :10] = np.roll(first, 1, axis=0)[:, :10]
    images = ImageSet(np.concatenate([first, mixed]), np.zeros(16, np.int64), ["all"])
    positions = np.array([(i, i + 8) for i in range(8)])
    counts = [int(judged_pairs.reported(images, positions, x).sum()) for x in (0.3, 0.95)]
    assert counts[0] >= 6
    assert counts[1] == 0


def test_the_lowest_threshold_that_is_precise_enough_is_chosen() -> None:
    bad, good = judged_pairs.Score(20, 18, 30), judged_pairs.Score(20, 19, 30)
    assert judged_pairs.choose({0.5: bad, 0.6: good, 0.7: bad, 0.8: good}) == 0.6
    assert judged_pairs.choose({0.5: bad, 0.6: bad}) == 0.6


def test_images_that_are_not_those_judged_end_in_one_line(own_folder: Path, fails: Fails) -> None:
    assert "nowhere" in fails(judged_pairs.main, "--cifar", "nowhere")
    write_batches(own_folder / "few", 4)
    assert "20 images" in fails(judged_pairs.main, "--cifar", "few")


@pytest.mark.parametrize("name", graphics.GRAPHICS)
def test_of_drawn_images_none_is_another_one_mirrored_or_turned(name: str) -> None:
    reductions = graphics.GRAPHICS[name]()
    pixels = [image.tobytes() for image in reductions]
    assert len(set(pixels)) == len(reductions) >= 50
    turns = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180
    for own, image in zip(pixels, reductions, strict=True):
        turned = {image.transpose(turn).tobytes() for turn in turns}
        assert not (turned - {own}) & set(pixels)


def test_false_reports_are_counted_and_those_of_a_folder_listed(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles = different_images.tiles()
    assert {tile.size for tile in tiles} == {(106, 106)}
    twice = {"twice": lambda: [*tiles[:3], tiles[2]], "plain": lambda: graphics.plain_colours(4)}
    monkeypatch.setattr(different_images, "GRAPHICS", twice)
    monkeypatch.setattr(different_images, "tiles", lambda: graphics.barcodes(3, guards=True))
    (own_folder / "mine").mkdir()
    mine = [tiles[0], tiles[30], ImageOps.mirror(tiles[0])]
    for number, tile in enumerate([*mine, mine[0].transpose(Image.Transpose.ROTATE_270)]):
        tile.save(own_folder / "mine" / f"{number}.png")
    assert different_images.main(["mine"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| parts of two photographs | 3 | 3 | 0 | 0.00% | 0 |",
        "| twice | 4 | 6 | 1 | 16.67% | 0 |",
        "| plain | 4 | 6 | 0 | 0.00% | 0 |",
        "| mine | 4 | 6 | 3 | 50.00% | 2 |",
        "mine/0.png  mine/2.png  mirrored",
        "mine/0.png  mine/3.png  rotated 90°",
        "mine/2.png  mine/3.png  rotated 270°, mirrored",
    ]


def test_of_many_pairs_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{number:02}.png" for number in range(30)]
    assert len(different_images.pairs_among(paths)) == 30 * 29 / 2
    monkeypatch.setattr(different_images, "MOST_PAIRS", 100)
    drawn = different_images.pairs_among(paths)
    assert len(set(drawn)) == 100
    assert all(first < second for first, second in drawn)
    assert drawn == different_images.pairs_among(paths)
    assert len({path for pair in drawn for path in pair}) > 20
