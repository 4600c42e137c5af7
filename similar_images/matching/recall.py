"""Measure what an index finds of an exact search, which is a matrix product outside Milvus."""

import random
from collections.abc import Sequence

import numpy as np

from similar_images.console import QUIET, Console
from similar_images.matching.match import ROUNDING, SearchOptions
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.schema import Match
from similar_images.text import counted


def measured_recall(
    collection: ImageCollection,
    queries: np.ndarray,
    matches: Sequence[list[Match]],
    options: SearchOptions,
    seed: int,
    console: Console = QUIET,
) -> str:
    """Search exactly for options.recall_sample of the queries; return the recall in words."""
    sample = min(options.recall_sample, len(matches))
    if not sample:
        return ""
    chosen = sorted(random.Random(seed).sample(range(len(matches)), sample))
    exact, found = compare_exactly(
        collection,
        queries[chosen],
        [matches[i] for i in chosen],
        options.top_k,
        options.filter,
        console,
    )
    if not any(exact):  # no row, or none for which the filter is true
        return ""
    return (
        f"{100 * recall(found, exact):.2f}% recall@{options.top_k} against exact search, "
        f"on {counted(sample, 'query', 'queries')} drawn at random, with exact similarities; "
        "ties count as found"
    )


def compare_exactly(
    collection: ImageCollection,
    embeddings: np.ndarray,
    found: Sequence[Sequence[Match]],
    top_k: int,
    expression: str = "",
    console: Console = QUIET,
) -> tuple[list[list[Match]], list[list[Match]]]:
    """Return each query's top_k nearest images, and what an index found, by exact similarities.

    embeddings: (N, dimension) float32, unit length. found: the index's matches, whose own
    similarities may be those of compressed vectors; rows that are gone are left out. Reads the
    whole collection once, a page at a time; `expression` is a Milvus filter.
    """
    best = np.empty((len(embeddings), 0), np.float32)
    paths = np.empty((len(embeddings), 0), object)
    found_by: dict[str, list[int]] = {}
    for query, matches in enumerate(found):
        for match in matches:
            found_by.setdefault(match.path, []).append(query)
    exact: list[dict[str, float]] = [{} for _ in found]
    total = None if expression else collection.count()
    with console.progress("rows compared", total) as progress:
        for page_paths, page in collection.stored_embeddings(expression):
            similarities = embeddings @ page.T
            for row, path in enumerate(page_paths):
                for query in found_by.get(path, ()):
                    exact[query][path] = float(similarities[query, row])
            names = np.broadcast_to(np.array(page_paths, object), similarities.shape)
            best = np.concatenate([best, similarities], axis=1)
            paths = np.concatenate([paths, names], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :top_k]
            best = np.take_along_axis(best, order, axis=1)
            paths = np.take_along_axis(paths, order, axis=1)
            progress.update(len(page_paths))
    nearest = [
        [Match(path, float(similarity)) for path, similarity in zip(*row, strict=True)]
        for row in zip(paths, best, strict=True)
    ]
    rescored = [
        [Match(match.path, of[match.path]) for match in matches if match.path in of]
        for matches, of in zip(found, exact, strict=True)
    ]
    return nearest, rescored


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
