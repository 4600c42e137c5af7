"""observations.py: the report's numbers and words."""

import re

from similar_images.matching.near_duplicates import NearDuplicate
from similar_images.matching.pairs import Pair, Summary
from similar_images.results.observations import report

SUMMARY = Summary(queries=3, images=9, model="m", index="exact", device="cpu")


def test_observations_count_right() -> None:
    pairs = [
        Pair("q/cat/1", "d/cat/1", 0.995, 1, "cat", "cat"),
        Pair("q/cat/2", "d/dog/1", 0.7, 1, "cat", "dog"),
        Pair("q/dog/1", "d/dog/2", 0.9, 1, "dog", "dog"),
        Pair("q/dog/1", "d/cat/9", 0.8, 2, "dog", "cat"),
    ]
    text = report(pairs, pairs[:3], [NearDuplicate(pairs[0], ("mirrored",))], [], SUMMARY)
    assert "**2 of 3 pairs share a label: 66.7%**" in text
    assert "| cat | 2 | 1 | 50.0% | dog (1) |" in text
    assert "| dog | 1 | 1 | 100.0% | none |" in text
    assert "- cat → dog: 1 pair" in text
    assert "The weakest of them is B, at 0.7000." in text
    assert "Pairs with different labels: B." in text
    assert "rank 3 of 3" in text
    assert "1 query of 3 have as their nearest match their own picture" in text
    assert "66.7% with them, **50.0% without**" in text
    assert "mirrored (1)" in text


def test_labels_cannot_break_out_of_the_report() -> None:
    evil = "a|b](http://x)<script>`\n# heading"
    pair = Pair(evil, evil, 0.5, 1, evil, "b")
    text = report([pair], [pair], [], [], SUMMARY)
    assert "\n# heading" not in text
    assert "<script>" not in re.sub(r"(`+).*?\1", "", text), "only ever in a code span"
    for line in text.splitlines():
        if line.startswith("| a"):
            assert line.replace("\\|", "").count("|") == 6


def test_the_original_report_would_have_named_both_of_its_wrong_pairs() -> None:
    labels = [
        "horse",
        "ship",
        "airplane",
        "frog",
        "automobile",
        "frog",
        "ship",
        "airplane",
        "frog",
        "dog",
    ]
    found = [
        "horse",
        "ship",
        "airplane",
        "deer",
        "automobile",
        "frog",
        "ship",
        "airplane",
        "frog",
        "horse",
    ]
    pairs = [
        Pair(f"q/{label}/{n}", f"d/{match}/{n}", 0.95 - n / 100, 1, label, match)
        for n, (label, match) in enumerate(zip(labels, found, strict=True))
    ]
    text = report(pairs, pairs, [], [], SUMMARY)
    assert "Pairs with different labels: D, J." in text
    assert "**8 of 10 pairs share a label: 80.0%**" in text
    lines = [line for line in text.splitlines() if "**Different labels**" in line]
    assert ["frog → deer" in lines[0], "dog → horse" in lines[1], len(lines)] == [True, True, 2]


def test_what_was_run_is_said() -> None:
    summary = Summary(
        queries=3,
        images=9,
        model="resnet18, weights x",
        index="approximate (HNSW)",
        device="cpu, bfloat16",
        recall="97.50% recall@1",
        filter="width > 3",
        skipped=["q/broken.png"],
    )
    text = report([Pair("q", "d", 0.5)], [Pair("q", "d", 0.5)], [], [], summary)
    for words in ("resnet18, weights x", "HNSW", "bfloat16", "97.50% recall@1", "`width > 3`"):
        assert words in text
    assert "could not be read: 1 (`q/broken.png`)" in text
    assert "No pair has two labels" in text
    assert "comparison.png" in text


def test_the_nearest_few_are_rated_together() -> None:
    pairs = [
        Pair("q/a/1", f"d/{label}/1", 0.9, 1 + n, "a", label) for n, label in enumerate("abaa")
    ]
    text = report(pairs, pairs, [], [], SUMMARY)
    assert "Of all 4 matches of the 4 nearest, 75.0% share the query's label." in text
