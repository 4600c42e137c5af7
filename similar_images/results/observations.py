"""Write what the pairs show: observations.md."""

import collections
import datetime
import re
import statistics
from collections.abc import Sequence

from similar_images.matching.near_duplicates import NearDuplicate
from similar_images.matching.pairs import Pair, Summary, letters, nearest
from similar_images.matching.second_look import SecondLook
from similar_images.text import counted, printable, share

LISTED = 5  # rows of each list in the observations


def wilson_interval(part: int, whole: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share, both ends from 0 to 1.

    >>> [round(end, 4) for end in wilson_interval(3741, 5000)]
    [0.736, 0.76]
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    centre = (part + z * z / 2) / (whole + z * z)
    half = z / (whole + z * z) * (part * (whole - part) / whole + z * z / 4) ** 0.5
    return centre - half, centre + half


def report(
    pairs: Sequence[Pair],
    shown: Sequence[Pair],
    near: Sequence[NearDuplicate],
    second: Sequence[SecondLook],
    summary: Summary,
) -> str:
    """Return the report in Markdown on all nearest pairs and those in the picture."""
    first = nearest(pairs)
    sections = [
        ["# Observations", ""],
        _what_was_run(summary, len(first)),
        _label_shares(pairs),
        _near_duplicates(first, near),
        _second_looks(second),
        _shown_pairs(shown, first),
        _extremes(first),
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
        f"On {now}, {matched:,} of {counted(summary.queries, 'query image')} were matched with the "
        f"nearest of {counted(summary.images, 'image')}.",
        "",
        f"- Model: {cell(summary.model)}",
        f"- Search: {cell(summary.index)}"
        + (f", filter {code(summary.filter)}" if summary.filter else ""),
        f"- Embedded on: {cell(summary.device)}",
    ]
    if summary.min_similarity is not None:
        lines.append(f"- Least similarity of a match: {summary.min_similarity:g}")
    if summary.recall:
        lines.append(f"- Recall: {cell(summary.recall)}")
    if summary.unmatched:
        lines.append(f"- Queries without a match: {summary.unmatched:,}")
    if summary.skipped:
        names = ", ".join(code(name) for name in summary.skipped[:LISTED])
        lines.append(f"- Queries that could not be read: {len(summary.skipped):,} ({names})")
    return [*lines, ""]


def _label_shares(pairs: Sequence[Pair]) -> list[str]:
    labelled = [pair for pair in pairs if pair.rank == 1 and pair.same_label is not None]
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
    return [*lines, "", *_confusions(labelled), *_all_ranks(pairs)]


def _all_ranks(pairs: Sequence[Pair]) -> list[str]:
    """Say what the farther matches are worth, if more than one was asked for."""
    farthest = max(pair.rank for pair in pairs)
    labelled = [pair for pair in pairs if pair.same_label is not None]
    if farthest == 1 or not labelled:
        return []
    same = sum(pair.same_label is True for pair in labelled)
    return [
        f"Of all {len(labelled):,} matches of the {farthest} nearest, "
        f"{share(same, len(labelled))} share the query's label.",
        "",
    ]


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


def _near_duplicates(first: Sequence[Pair], near: Sequence[NearDuplicate]) -> list[str]:
    """Say how many matches are the query itself, changed, and what the labels are without them."""
    lines = ["## The same picture twice", ""]
    twice = {id(one.pair) for one in near}
    found = sum(id(pair) in twice for pair in first)
    if not near:
        return [*lines, "No match is its query's own picture, as far as the pixels show.", ""]
    lines.append(
        f"{counted(found, 'query', 'queries')} of {len(first):,} have as their nearest match their "
        "own picture, the same or changed, as the pixels show ([all](near_duplicates.txt))."
    )
    labelled = [pair for pair in first if pair.same_label is not None]
    others = [pair for pair in labelled if id(pair) not in twice]
    if labelled:
        with_all, without = (
            share(sum(pair.same_label is True for pair in some), len(some))
            for some in (labelled, others)
        )
        lines.append(
            f"Pairs that share a label: {with_all} with them, **{without} without**. Queries that "
            "the database already holds make any score look better than it is."
        )
    changes = collections.Counter(one.words for one in near)
    words = ", ".join(f"{change} ({count:,})" for change, count in changes.most_common(LISTED))
    return [*lines, f"What was done to them, most often: {words}.", ""]


def _second_looks(second: Sequence[SecondLook]) -> list[str]:
    """List the queries whose matches all have another label."""
    if not second:
        return []
    lines = [
        "## Labels worth a second look",
        "",
        f"All matches of {counted(len(second), 'query', 'queries')} agree on another label than "
        "the query's own. That may be the label or the network.",
        "",
    ]
    for look in second[:LISTED]:
        own, other = cell(look.pair.query_label), cell(look.label)
        lines.append(f"- {code(look.pair.query)}: {own}, its {look.matches} matches {other}")
    return [*lines, ""]


def _shown_pairs(shown: Sequence[Pair], all_first: Sequence[Pair]) -> list[str]:
    first = [pair for pair in shown if pair.rank == 1]
    similarities = [pair.similarity for pair in all_first]
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
        sentence = _sentence(pair, rank, len(all_first), median)
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


def _extremes(first: Sequence[Pair]) -> list[str]:
    ordered = sorted(first, key=lambda pair: pair.similarity)
    lines = ["## The strongest and the weakest of all pairs", ""]
    for title, some in (("Strongest", ordered[::-1][:LISTED]), ("Weakest", ordered[:LISTED])):
        lines += [f"{title}:", ""]
        lines += [f"- {p.similarity:.4f}: {code(p.query)} → {code(p.match)}" for p in some]
        lines.append("")
    return lines
