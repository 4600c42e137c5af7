"""Measure the recall of an index against an exact search, a matrix product outside Milvus."""

import random
from collections.abc import Collection, Sequence

import numpy as np

from similar_images.console import QUIET, Console
from similar_images.matching.queries import Queries
from similar_images.matching.search import ROUNDING, Search
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.schema import Match
from similar_images.text import counted


def measured_recall(
    search: Search,
    queries: Queries,
    matches: Sequence[list[Match]],
    seed: int,
    console: Console = QUIET,
) -> str:
    """Search exactly for --recall-sample of the queries; say and return the recall in words."""
    options = search.options
    sample = min(options.recall_sample, len(matches))
    if not sample:
        return ""
    chosen = sorted(random.Random(seed).sample(range(len(matches)), sample))
    exact, found = compare_exactly(
        search.collection,
        queries.embeddings[chosen],
        [matches[i] for i in chosen],
        options.top_k,
        expression=options.filter,
        left_out=[queries.rows[i] for i in chosen],
        console=console,
    )
    if not any(exact):  # no row, or none for which the filter is true
        return ""
    words = (
        f"{100 * recall(found, exact):.2f}% recall@{options.top_k} against exact search, "
        f"on {counted(sample, 'query', 'queries')} drawn at random; ties count as found"
    )
    console.say(f"Recall: {words}")
    return words


def compare_exactly(
    collection: ImageCollection,
    embeddings: np.ndarray,
    found: Sequence[Sequence[Match]],
    top_k: int,
    *,
    expression: str = "",
    left_out: Sequence[Collection[str]] | None = None,
    console: Console = QUIET,
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the exact similarities of each query's top_k nearest images, and of those found.

    embeddings: (N, dimension) float32, unit length. found: the index's matches, whose own
    similarities may be those of compressed vectors; rows that are gone are left out. left_out:
    the paths that are no matches of each query. expression: a Milvus filter. Reads the whole
    collection once, a page at a time, and compares all queries with it at once.
    """
    nearest = np.full((len(embeddings), top_k), -np.inf, np.float32)
    exact: list[list[float]] = [[] for _ in found]
    total = None if expression else collection.count()
    with console.progress("rows compared", total) as progress:
        for paths, page in collection.stored_embeddings(expression):
            places = {path: place for place, path in enumerate(paths)}
            similarities = embeddings @ page.T
            for query, matches in enumerate(found):
                there = [places[match.path] for match in matches if match.path in places]
                exact[query] += similarities[query, there].tolist()
                own = places.keys() & (left_out[query] if left_out else ())
                similarities[query, [places[path] for path in own]] = -np.inf
            candidates = np.concatenate([nearest, similarities], axis=1)
            nearest = np.partition(candidates, -top_k, axis=1)[:, -top_k:]
            progress.update(len(paths))
    ordered = np.sort(nearest, axis=1)[:, ::-1].tolist()
    return [[value for value in row if value > -np.inf] for row in ordered], exact


def recall(found: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]) -> float:
    """Return the share of the exact matches that an index found, 0 to 1, by exact similarities.

    A match as near as the last exact one counts as found: which of equally near images a search
    returns is chance.

    >>> recall([[0.9, 0.7]], [[0.9, 0.8]])
    0.5
    """
    both = [(ours, best) for ours, best in zip(found, exact, strict=True) if best]
    hits = sum(value >= best[-1] - ROUNDING for ours, best in both for value in ours)
    total = sum(len(best) for _, best in both)
    return hits / total if total else 1.0
