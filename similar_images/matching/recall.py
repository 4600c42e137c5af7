"""Measure the recall of an index against an exact search, a matrix product outside Milvus."""

import random
from collections.abc import Sequence

import numpy as np

from similar_images.console import QUIET, Console
from similar_images.matching.queries import Queries
from similar_images.matching.search import ROUNDING, Search
from similar_images.milvus.schema import Match
from similar_images.text import counted, interval, share


def measured_recall(
    search: Search,
    queries: Queries,
    matches: Sequence[list[Match]],
    seed: int,
    console: Console = QUIET,
) -> str:
    """Search exactly for --recall-sample of the queries; say and return the recall in words.

    Its interval counts queries and not matches: those of one query are found or missed together.
    """
    options = search.options
    sample = min(options.recall_sample, len(matches))
    if not sample:
        return ""
    chosen = sorted(random.Random(seed).sample(range(len(matches)), sample))
    some = [matches[i] for i in chosen]
    exact, found = compare_exactly(search, queries.some(chosen), some, console)
    if not any(exact):  # no row, or none for which the filter is true
        return ""
    value = recall(found, exact)
    words = (
        f"{share(value, 1)} recall@{options.top_k} against exact search, "
        f"on {counted(sample, 'query', 'queries')} drawn at random "
        f"({interval(value * sample, sample)}); ties count as found"
    )
    console.say(f"Recall: {words}")
    return words


def compare_exactly(
    search: Search, queries: Queries, found: Sequence[Sequence[Match]], console: Console = QUIET
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the exact similarities of each query's nearest images, and of those found.

    found: the index's matches, whose own similarities may be those of compressed vectors; rows
    that are gone are left out. Reads the whole collection once, a page at a time, and compares
    all queries with it at once.
    """
    top_k, expression = search.options.top_k, search.options.filter
    nearest = np.full((len(queries.paths), top_k), -np.inf, np.float32)
    exact: list[list[float]] = [[] for _ in found]
    total = None if expression else search.collection.count()
    with console.progress("rows compared", total) as progress:
        for paths, page in search.collection.stored_embeddings(expression):
            places = {path: place for place, path in enumerate(paths)}
            similarities = queries.embeddings @ page.T
            for query, matches in enumerate(found):
                there = [places[match.path] for match in matches if match.path in places]
                exact[query] += similarities[query, there].tolist()
                own = places.keys() & queries.rows[query]
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
