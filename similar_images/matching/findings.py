"""What the pairs of a run show: near-duplicates, groups of duplicates, possible label errors."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from similar_images.console import Console
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.duplicate_groups import Group, duplicate_groups
from similar_images.matching.label_issues import LabelIssue, label_issues
from similar_images.matching.matches import Pairs, RowNames
from similar_images.matching.near_duplicates import NearDuplicate, find_near_duplicates
from similar_images.matching.queries import Queries
from similar_images.matching.search import Search, strong_enough


@dataclass(frozen=True)
class Findings:
    """What was found; compared: of how many pairs the images were compared."""

    near: list[NearDuplicate] = field(default_factory=list)
    compared: int = 0
    groups: list[Group] = field(default_factory=list)
    issues: list[LabelIssue] = field(default_factory=list)


def find_all(
    rows: Pairs,
    queries: Queries,
    names: RowNames,
    search: Search,
    reductions: ReductionStore | None,
    console: Console,
) -> Findings:
    """Return what pairs show; images: where they are kept, None if none are to be compared."""
    issues = label_issues(rows)
    if not reductions:
        return Findings(issues=issues)
    comparison = find_near_duplicates(rows, reductions, console)
    places = {path: place for place, path in enumerate(queries.paths)}

    def search_again(paths: Sequence[str], top_k: int) -> Pairs:
        some = queries.some([places[path] for path in paths])
        matches = strong_enough(search.matches(some, top_k), search.options.min_similarity)
        return Pairs(some, matches, names)

    def embeddings_of(paths: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the embeddings of queries and of their matches."""
        found = {path: queries.embeddings[places[path]] for path in paths if path in places}
        named = names.rows()
        others = {named[path]: path for path in paths if path not in found}
        stored = search.collection.embeddings_of(list(others))
        return found | {others[image.path]: embedding for image, embedding in stored}

    own = {path: bool(rows) for path, rows in zip(queries.paths, queries.rows, strict=True)}
    groups = duplicate_groups(
        comparison.near, own, search_again, embeddings_of, reductions, console
    )
    return Findings(comparison.near, comparison.compared, groups, issues)
