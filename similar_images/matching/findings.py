"""Find the pairs of a run, and examine them: near-duplicates, groups, possible label errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from similar_images.console import Console
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.duplicate_groups import Copy, Group, Grouping
from similar_images.matching.label_conflicts import label_conflicts, pairs_with_other_labels
from similar_images.matching.label_issues import LabelIssue, label_issues
from similar_images.matching.near_duplicates import NearDuplicate, find_near_duplicates, leaks
from similar_images.matching.pairs import Pair, RowNames
from similar_images.matching.queries import Queries
from similar_images.matching.recall import measured_recall
from similar_images.matching.search import Search, report_problems
from similar_images.milvus.collection import warn_if_incomplete


@dataclass(frozen=True)
class Findings:
    """The pairs of each query that has a match, nearest first, and the statements about them.

    recall: of an approximate index, in words, if it was measured. compared: of how many pairs the
    images were compared. conflicts: the same images with different labels, also beyond the rows.
    leaks: queries from elsewhere that are the same as an image of the collection. labels: of the
    groups' images.
    """

    rows: list[list[Pair]]
    recall: str = ""
    near: list[NearDuplicate] = field(default_factory=list)
    compared: int = 0
    groups: list[Group] = field(default_factory=list)
    issues: list[LabelIssue] = field(default_factory=list)
    conflicts: list[NearDuplicate] = field(default_factory=list)
    leaks: list[NearDuplicate] = field(default_factory=list)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def relabelled_copies(self) -> list[tuple[Copy, Copy]]:
        """The copies whose label is not that of the image to keep, with that image."""
        pairs = ((copy, group.copies[0]) for group in self.groups for copy in group.spare)
        known = ((c, k, self.labels.get(c.path), self.labels.get(k.path)) for c, k in pairs)
        return [(copy, kept) for copy, kept, own, other in known if own and other and own != other]


def find_all(
    search: Search,
    queries: Queries,
    reductions: ReductionStore | None,
    seed: int,
    console: Console,
) -> Findings:
    """Search for the queries, and examine their pairs.

    reductions: of the images, None if these are not compared. seed: of the sample for the recall.
    """
    matches = search.matches(queries, console=console)
    recall = measured_recall(search, queries, matches, seed, console)
    names = RowNames(queries, search.folder)
    rows = search.pairs(queries, matches, names)
    warn_if_incomplete(search.collection)
    report_problems(queries, rows, search.options)
    findings = Findings(rows, recall, issues=label_issues(rows))
    return (
        _compared(findings, search, queries, names, reductions, console) if reductions else findings
    )


def _compared(
    findings: Findings,
    search: Search,
    queries: Queries,
    names: RowNames,
    reductions: ReductionStore,
    console: Console,
) -> Findings:
    """Return findings with near-duplicates and groups of them."""
    ignored = search.ignored
    comparison = find_near_duplicates(findings.rows, reductions, console, ignored)
    others = pairs_with_other_labels(search, queries, names, findings.rows, console)
    own_labels = dict(zip(queries.paths, queries.labels, strict=True))
    links = ((path, names[row][0], label) for (path, row), label in search.own_rows.items())
    others += [Pair(a, b, 1.0, 1, own_labels[a], label) for a, b, label in links if a != b]
    further = find_near_duplicates([others], reductions, console, ignored).near
    places = {path: place for place, path in enumerate(queries.paths)}
    named = {path for path, _ in names.values()}
    in_collection = {path: path in named for path in queries.paths}

    def search_again(paths: Sequence[str], top_k: int) -> list[list[Pair]]:
        some = queries.some([places[path] for path in paths])
        return search.pairs(some, search.matches(some, top_k), names)

    def embeddings_of(paths: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the embeddings of queries and of their matches."""
        found = {path: queries.embeddings[places[path]] for path in paths if path in places}
        named = {path: row for row, (path, _) in names.items()}
        others = {named[path]: path for path in paths if path not in found}
        stored = search.collection.embeddings_of(list(others))
        return found | {others[image.path]: embedding for image, embedding in stored}

    grouping = Grouping(
        in_collection=in_collection,
        keep_in=[folder.resolve() for folder in search.options.keep_in],
        search_again=search_again,
        embeddings_of=embeddings_of,
        reductions=reductions,
        ignored=ignored,
    )
    groups = grouping.groups(comparison.near, console)
    labels = {pair.match: pair.match_label for row in [*findings.rows, others] for pair in row}
    return replace(
        findings,
        near=comparison.near,
        compared=comparison.compared,
        groups=groups,
        conflicts=label_conflicts([*comparison.near, *further]),
        leaks=leaks([*comparison.near, *further], in_collection),
        labels=labels | own_labels,
    )
