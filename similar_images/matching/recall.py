"""Measure what an index finds of an exact search, which is a matrix product outside Milvus."""

import random
from collections.abc import Collection, Sequence

import numpy as np

from similar_images.console import QUIET, Console
from similar_images.matching.queries import Queries
from similar_images.matching.search import ROUNDING, Search
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.schema import Match
from similar_images.text import counted

QUERIES_AT_ONCE = 1000  # compared with a page of rows: 16 MB


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
        f"on {counted(sample, 'query', 'queries')} drawn at random, with exact similarities; "
        "ties count as found"
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
    left_out: Sequence[Collection[str]] = (),
    console: Console = QUIET,
) -> tuple[list[list[Match]], list[list[Match]]]:
    """Return each query's top_k nearest images, and what an index found, by exact similarities.

    embeddings: (N, dimension) float32, unit length. found: the index's matches, whose own
    similarities may be those of compressed vectors; rows that are gone are left out. left_out:
    the paths that are no matches of each query. Reads the whole collection once, a page at a
    time; `expression` is a Milvus filter.
    """
    best = np.full((len(embeddings), top_k), -np.inf, np.float32)
    rows = np.zeros((len(embeddings), top_k), np.int64)
    names: list[str] = []
    wanted, unwanted = _by_path([[m.path for m in row] for row in found]), _by_path(left_out)
    exact: list[dict[str, float]] = [{} for _ in found]
    total = None if expression else collection.count()
    with console.progress("rows compared", total) as progress:
        for page_paths, page in collection.stored_embeddings(expression):
            places = {path: row for row, path in enumerate(page_paths)}
            for path in places.keys() & wanted.keys():
                for query in wanted[path]:
                    exact[query][path] = float(embeddings[query] @ page[places[path]])
            excluded = [
                (query, places[path])
                for path in places.keys() & unwanted.keys()
                for query in unwanted[path]
            ]
            _merge(best, rows, embeddings, page, len(names), excluded)
            names += page_paths
            progress.update(len(page_paths))
    nearest = [
        [Match(names[row], float(value)) for row, value in zip(*both, strict=True) if value > -2]
        for both in zip(rows, best, strict=True)
    ]
    rescored = [
        [Match(match.path, of[match.path]) for match in matches if match.path in of]
        for matches, of in zip(found, exact, strict=True)
    ]
    return nearest, rescored


def _by_path(paths: Sequence[Collection[str]]) -> dict[str, list[int]]:
    """Return, for each path, the queries that have it."""
    queries: dict[str, list[int]] = {}
    for query, some in enumerate(paths):
        for path in some:
            queries.setdefault(path, []).append(query)
    return queries


def _merge(
    best: np.ndarray,
    rows: np.ndarray,
    embeddings: np.ndarray,
    page: np.ndarray,
    first: int,
    excluded: Sequence[tuple[int, int]],
) -> None:
    """Put a page's rows among the nearest of each query, in place.

    best, rows: (N, top_k), similarities in descending order and the numbers of their rows. first:
    the number of the page's first row. excluded: a query and a place in the page.
    """
    for start in range(0, len(embeddings), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        similarities = embeddings[part] @ page.T
        for query, place in excluded:
            if 0 <= query - start < len(similarities):
                similarities[query - start, place] = -np.inf
        numbers = np.broadcast_to(np.arange(len(page)) + first, similarities.shape)
        values = np.concatenate([best[part], similarities], axis=1)
        candidates = np.concatenate([rows[part], numbers], axis=1)
        top_k = best.shape[1]
        chosen = np.argpartition(-values, top_k - 1, axis=1)[:, :top_k]
        some = np.take_along_axis(values, chosen, axis=1)
        order = np.argsort(-some, axis=1, kind="stable")
        best[part] = np.take_along_axis(some, order, axis=1)
        chosen = np.take_along_axis(chosen, order, axis=1)
        rows[part] = np.take_along_axis(candidates, chosen, axis=1)


def recall(found: Sequence[Sequence[Match]], exact: Sequence[Sequence[Match]]) -> float:
    """Return the share of the exact matches that an index found, 0 to 1.

    The similarities of both must be exact ones. A match as near as the last exact one counts as
    found: which of equally near images a search returns is chance.

    >>> exact = [[Match("a.png", 0.9), Match("b.png", 0.8)]]
    >>> recall([[Match("a.png", 0.9), Match("c.png", 0.7)]], exact)
    0.5
    """
    hits = total = 0
    for ours, theirs in zip(found, exact, strict=True):
        if theirs:
            least = theirs[-1].similarity - ROUNDING
            hits += sum(match.similarity >= least for match in ours)
            total += len(theirs)
    return hits / total if total else 1.0
