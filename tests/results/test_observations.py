"""observations.py: the report's numbers and words."""

import itertools
import re
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from helpers import SUMMARY

from similar_images.matching.duplicate_groups import Copy, Group
from similar_images.matching.findings import Findings
from similar_images.matching.label_issues import LabelIssue
from similar_images.matching.near_duplicates import NearDuplicate
from similar_images.matching.pairs import Pair
from similar_images.results.observations import report
from similar_images.results.result_files import title_of
from similar_images.verifying.verdict import PART, SAME, Verdict

EVIL = "a|b](http://x)<script>`'\"``|{{ 7 * 7 }}\u202e\u202f\n# heading\n\n- item"


def full_summary(name: str) -> dict[str, object]:
    """A summary in which nothing is missing, with a name wherever there can be one."""
    names = dict.fromkeys(["model", "index", "device", "recall", "filter"], name)
    return {**SUMMARY, **names, "min_similarity": 0.5, "skipped": [name] * 7, "unmatched": 2}


def report_of(
    pairs: Sequence[Pair],
    drawn: Sequence[Pair],
    near: Sequence[NearDuplicate] = (),
    issues: Sequence[LabelIssue] = (),
    summary: dict[str, object] = SUMMARY,
) -> str:
    """The report on pairs, of which those of a query follow each other."""
    rows = [list(row) for _, row in itertools.groupby(pairs, lambda pair: pair.query)]
    summary = {**summary, "pairs": len(pairs)}
    findings = Findings(rows, near=list(near), issues=list(issues))
    return report([pair for pair in drawn if pair.rank == 1], findings, summary)


def checked(text: str) -> str:
    """Check that empty lines separate a Markdown text's blocks, and that tables are whole."""
    assert text.endswith("\n")
    for block in text[:-1].split("\n\n"):
        lines = block.split("\n")
        assert all(lines), "an empty line too many"
        kinds = {re.match(r"(\||- |#+ |)", line)[1] for line in lines}  # type: ignore[index]
        assert len(kinds) == 1, block
        if kinds == {"|"}:
            assert len(lines) > 2, block
            assert re.fullmatch(r"(\|-+:?)+\|", lines[1])
            # A backslash and what it escapes count for nothing.
            columns = {re.sub(r"\\.", "", line).count("|") for line in lines}
            assert len(columns) == 1, block
        else:
            assert "\\|" not in block.replace("\\\\", "")
    return text


def test_observations_count_right() -> None:
    pairs = [
        Pair("q/cat/1", "d/cat/1", 0.995, 1, "cat", "cat"),
        Pair("q/cat/2", "d/dog/1", 0.7, 1, "cat", "dog"),
        Pair("q/dog/1", "d/dog/2", 0.9, 1, "dog", "dog"),
        Pair("q/dog/1", "d/cat/9", 0.8, 2, "dog", "cat"),
    ]
    text = report_of(pairs, pairs[:3], [NearDuplicate(pairs[0], Verdict(SAME, ("mirrored",)))])
    assert "**2 of 3 pairs share a label: 66.7%**" in text
    assert "| cat | 2 | 1 | 50.0% | dog (1) |" in text
    assert "| dog | 1 | 1 | 100.0% | none |" in text
    assert "- 1 pair: cat → dog" in text
    assert "Of all 4 matches up to rank 2, 50.0% share the query's label." in text
    assert "The least similar of them is B, at 0.7000." in text
    assert "Pairs with different labels: B." in text
    assert "Similarity rank 3 of 3." in text
    assert "For **1 of 3 queries**, the nearest match is the same image as a whole" in text
    assert "66.7% with them, **50.0% without**" in text
    assert "mirrored (1)" in text


def test_shares_are_rounded_to_none_or_all_only_where_they_are() -> None:
    labels = ["0", "1", "10", "11", "2"]
    pairs = [Pair(f"q/{x}/1", f"d/{x}/1", 0.9, 1, x, "other") for x in labels]
    text = report_of(pairs, pairs, [NearDuplicate(p, Verdict(SAME, ("a", "b"))) for p in pairs[:2]])
    assert "share a label: 0.0%** (95% confidence interval 0.0% to 43.4%)" in text
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == ["0", "1", "2", "10", "11"]
    pairs = [Pair(f"q/a/{n}", "d/a/1", 0.9, 1, "a", "a" if n else "b") for n in range(5000)]
    near = [NearDuplicate(p, Verdict(SAME, ("a", "b") if p.query[-1] > "1" else ())) for p in pairs]
    text = report_of(pairs, pairs[:1], near)
    assert "**4,999 of 5,000 pairs share a label: 99.98%**" in text
    assert "The most frequent changes: a, b (4,000); the same pixels (1,000).\n" in text


def test_every_copy_with_another_label_is_named() -> None:
    copies = [Copy(f"{n}.png", 9, 9, 5, 1, "", "copy" if n else "keep") for n in range(102)]
    labels = {copy.path: copy.keep for copy in copies}
    findings = Findings([], groups=[Group(copies)], labels=labels)
    text = report([], findings, {**SUMMARY, "unlisted": 0})
    assert text.count("`: labelled copy; `0.png`: labelled keep\n") == 101


def test_near_duplicates_of_lower_rank_are_counted_by_themselves() -> None:
    pairs = [
        Pair("q/cat/1", "d/cat/1", 0.9, 1, "cat", "cat"),
        Pair("q/cat/1", "d/cat/2", 0.8, 2, "cat", "cat"),
        Pair("q/dog/1", "d/dog/1", 0.9, 1, "dog", "dog"),
        Pair("q/dog/1", "d/dog/2", 0.8, 2, "dog", "dog"),
    ]
    verdicts = [
        Verdict(SAME, ("mirrored",)),
        Verdict(SAME, ("toned",)),
        Verdict(PART, ("recoloured",)),
        Verdict(SAME, ("toned",)),
    ]
    near = [NearDuplicate(*both) for both in zip(pairs, verdicts, strict=True)]
    text = report_of(pairs, pairs[:1], near)
    assert "For **1 of 2 queries**, the nearest match is the same image as a whole" in text
    assert "For 1 more, it is the same in part" in text
    assert "The most frequent changes: mirrored (1).\n" in text
    assert "toned (" not in text
    assert "Matches of lower rank that are the same image: 2." in text
    without = report_of(pairs, pairs[:1], near[1:])
    assert "For **0 of 2 queries**, the nearest match" in without
    assert "with them" not in without, "only what is the same as a whole counts as a leak"


@pytest.mark.parametrize("name", ["plain", EVIL])
def test_every_combination_of_sections_is_sound_markdown(name: str) -> None:
    full = full_summary(name)
    for labelled, wrong, ranks, changes, looks, summary in itertools.product(
        (True, False), (True, False), (1, 2), ((), (1,), (2,), (1, 2)), (0, 7), (SUMMARY, full)
    ):
        label, other = (name, name + "x" * wrong) if labelled else ("", "")
        pairs = [Pair(name, name, 0.9 / rank, rank, label, other) for rank in range(1, ranks + 1)]
        pairs.append(pairs[0]._replace(query="unlabelled", match_label=""))
        near = [
            NearDuplicate(pair, Verdict(SAME, (name,)))
            for pair in pairs[:-1]
            if pair.rank in changes
        ]
        issues = [LabelIssue(pairs[0], 5, 0, 5)] * looks
        text = checked(report_of(pairs, pairs, near, issues, summary))
        assert ("## Possible label errors" in text) == bool(looks)
        assert ("- Recall: " in text) == (summary is full)
        assert ("confusions" in text) == (labelled and wrong)
        assert ("up to rank 2" in text) == (labelled and ranks == 2)


def test_labels_cannot_break_out_of_the_report() -> None:
    pair = Pair(EVIL, EVIL, 0.5, 1, EVIL, "b")
    near, issues = [NearDuplicate(pair, Verdict(SAME, (EVIL,)))], [LabelIssue(pair, 5, 0, 5)]
    text = checked(report_of([pair], [pair], near, issues, full_summary(EVIL)))
    assert "\n# heading" not in text
    assert "\u202e" not in text
    outside = re.sub(r"(?<![`\\])(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    assert "<script>" not in outside, "only ever in a code span"
    assert not re.search(r"(?<!\\)\]\(http", outside)
    assert "{{ 7 * 7 }}" in text, "no name is read as a template"


def test_a_backslash_before_a_bar_does_not_split_a_cell() -> None:
    pair = Pair(r"a\|<b>", "b", 0.5)
    text = checked(report_of([pair], [pair]))
    assert r"| A | a\\\|\<b\> | `b` |" in text


def test_what_was_run_is_said() -> None:
    summary = {
        **SUMMARY,
        "model": "resnet18, weights x",
        "index": "approximate (HNSW)",
        "device": "cpu, bfloat16",
        "recall": "97.50% recall@1",
        "filter": "width > 3",
        "skipped": ["q/broken.png"],
    }
    text = report_of([Pair("q", "d", 0.5)], [Pair("q", "d", 0.5)], summary=summary)
    for words in ("resnet18, weights x", "HNSW", "bfloat16", "97.50% recall@1", "`width > 3`"):
        assert words in text
    assert "could not be read: 1 (`q/broken.png`)" in text
    assert "No pair has two labels" in text
    assert "comparison.png" in text


@pytest.mark.parametrize("label", ["1. Holiday", "-", "2)", "    spaces"])
def test_a_label_that_reads_as_a_list_item_stays_text(label: str) -> None:
    pair = Pair(f"{label}/a.png", "b/b.png", 0.5, 1, label, "b")
    items = [line for line in report_of([pair], [pair]).splitlines() if label in line]
    assert any(line == f"- 1 pair: {label} → b" for line in items), items
    assert not any(line.startswith(f"- {label}") for line in items)


def test_no_share_is_given_where_every_match_is_a_near_duplicate() -> None:
    pair = Pair("cat/a.png", "cat/b.png", 0.5, 1, "cat", "cat")
    text = report_of([pair], [pair], [NearDuplicate(pair, Verdict(SAME))])
    assert "100.0% with them. Queries" in text
    assert "n/a" not in text


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((("a", "a"), ("a", "b")), ": 50.0% share the label"),
        ((("a", "a"), ("a", "b"), ("", "b")), ": 50.0% of 2 with labels share the label"),
        ((("", "b"),), ""),
    ],
)
def test_the_title_has_the_share_of_the_pairs_with_two_labels(
    labels: tuple[tuple[str, str], ...], words: str
) -> None:
    rows = [[Pair("q.png", "d.png", 0.9, 1, *both)] for both in labels]
    model = SimpleNamespace(architecture="resnet18", weights="random")
    assert title_of(rows, model).partition(" weights)")[2] == words


def test_a_control_character_is_escaped_once() -> None:
    text = report_of([], [], summary={**SUMMARY, "filter": "a\tb", "device": "c\td"})
    assert "- Filter: `a\\u0009b`\n" in text
    assert "- Device: c\\\\u0009d\n" in text  # Markdown shows one backslash
