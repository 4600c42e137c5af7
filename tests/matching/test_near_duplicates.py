"""near_duplicates.py: which pairs are compared, and in which order they are returned."""

import shutil
from pathlib import Path

import pytest
from drawings import cropped, photograph, sticker
from helpers import saved_at
from PIL import ImageOps

from similar_images.images.reduction_store import ReductionStore
from similar_images.images.reductions import Reduction
from similar_images.matching import near_duplicates as module
from similar_images.matching.near_duplicates import (
    PAIRS_AT_ONCE,
    Comparison,
    find_near_duplicates,
)
from similar_images.matching.pairs import Pair
from similar_images.results.tables import near_duplicates_text
from similar_images.verifying.features import examine
from similar_images.verifying.verdict import SAME, Verdict, verify


def comparison_of(pairs: list[Pair]) -> Comparison:
    with ReductionStore(examine, workers=0) as reductions:
        return find_near_duplicates([pairs], reductions)


def test_what_cannot_be_read_or_may_not_be_opened_is_not_compared(own_folder: Path) -> None:
    photograph().save("a.png")
    photograph().save("b.png")
    Path("bad.png").write_bytes(b"bad")
    pairs = [
        Pair("a.png", "b.png", 1.0),
        Pair("a.png", "b.png", 1.0, may_open_match=False),
        Pair("a.png", "gone.png", 1.0),
        Pair("bad.png", "b.png", 1.0),
    ]
    comparison = comparison_of(pairs)
    assert comparison.compared == 1
    (found,) = comparison.near
    assert found.pair is pairs[0]
    assert "".join(near_duplicates_text([found])).splitlines() == [
        "query\trank\tmatch\tsimilarity\tverdict\tchange",
        "a.png\t1\tb.png\t1.000000\tsame\tthe same pixels",
    ]


def test_verdicts_stand_with_their_pairs_in_order(own_folder: Path) -> None:
    """Though threads verify many pairs at once, of which some have none."""
    small = photograph().resize((48, 32))
    small.save("a.png")
    ImageOps.mirror(small).save("b.png")
    photograph("flower.jpg").resize((48, 32)).save("c.png")
    pairs = [Pair("a.png", f"{'bc'[n % 2]}.png", 0.9, n + 1) for n in range(5 * PAIRS_AT_ONCE)]
    comparison = comparison_of(pairs)
    assert [one.pair for one in comparison.near] == pairs[::2]
    assert {one.verdict.words for one in comparison.near} == {"mirrored"}
    assert comparison.compared == len(pairs)


def test_two_images_are_compared_once_in_whatever_order_they_stand(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph().save("a.png")
    cropped(photograph()).save("b.png")
    calls = []

    def counted(*both: Reduction) -> Verdict | None:
        calls.append(both)
        return verify(*both)

    monkeypatch.setattr(module, "verify", counted)
    pairs = [Pair("a.png", "b.png", 0.9), Pair("b.png", "a.png", 0.9), Pair("a.png", "no.png", 0)]
    comparison = comparison_of(pairs)
    assert [(one.pair, one.verdict.better) for one in comparison.near] == [
        (pairs[0], 1),
        (pairs[1], -1),
    ]
    assert (len(calls), comparison.compared) == (1, 2)


def test_files_of_equal_bytes_are_the_same_whatever_they_hold(own_folder: Path) -> None:
    """So are animations, of which only the first frame is compared."""
    first, later = photograph().convert("P"), photograph("flower.jpg").convert("P")
    first.save("a.gif", save_all=True, append_images=[later])
    first.save("b.gif", save_all=True, append_images=[later.point(lambda level: 255 - level)])
    shutil.copy("a.gif", "c.gif")
    found = comparison_of([Pair("a.gif", name, 0.9) for name in ("b.gif", "c.gif")]).near
    assert [one.pair.match for one in found if one.is_same] == ["c.gif"]
    assert found[-1].verdict.words == "the same pixels"
    assert found[-1].verdict.kind == SAME


def test_what_was_taken_within_ten_seconds_is_said_to_be(own_folder: Path) -> None:
    saved_at("05", photograph(), "a.jpg", quality=95)
    saved_at("06", photograph(), "b.jpg", quality=80)
    saved_at("08", sticker(photograph()), "c.jpg", quality=95)
    saved_at("05", photograph(), "d.jpg", quality=80)
    saved_at("17", photograph(), "e.jpg", quality=80)
    saved_at("05", photograph(), "f.jpg", quality=80, fraction="55")
    saved_at("06", photograph(), "g.jpg", quality=75, fraction="05")
    pairs = [Pair("a.jpg", f"{name}.jpg", 0.9) for name in "bcdefg"]
    words = [one.verdict.words.partition("taken ")[2] for one in comparison_of(pairs).near]
    assert words == ["1 s apart", "3 s apart", "", "", "", "1 s apart"]
    words = [one.verdict.words for one in comparison_of([Pair("f.jpg", "g.jpg", 0.9)]).near]
    assert words == ["re-encoded, taken 0.5 s apart"], "of an export without it nothing is known"
