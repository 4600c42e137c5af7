"""What an index finds of what an exact search finds, beside Milvus, as a matrix product."""

import random
from collections.abc import Sequence

import numpy as np

from similar_images.matching.match import SearchOptions
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.schema import Match
from similar_images.text import counted

TIE = 1e-6  # float32's rounding: matches so near the last one of the exact are as good


def measured_recall(
    collection: ImageCollection,
    queries: np.ndarray,
    matches: Sequence[list[Match]],
    options: SearchOptions,
    seed: int,
) -> str:
    """Search exactly for as many queries as asked for; return in words how much was found."""
    sample = options.recall_sample
    if not sample:
        return ""
    chosen = sorted(random.Random(seed).sample(range(len(matches)), min(sample, len(matches))))
    exact = exact_search(collection, queries[chosen], options.top_k, options.filter)
    found = recall([matches[i] for i in chosen], exact)
    drawn = counted(len(chosen), "query", "queries")
    return (
        f"{100 * found:.2f}% recall@{options.top_k} against exact search, "
        f"on {drawn} drawn at random"
    )


def exact_search(
    collection: ImageCollection, embeddings: np.ndarray, top_k: int, expression: str = ""
) -> list[list[Match]]:
    """Return each query's top_k nearest images, nearest first, as a matrix product finds them.

    embeddings: (N, dimension) float32, unit length. Reads the whole collection once, a page at a
    time; `expression` is a Milvus filter.
    """
    best = np.full((len(embeddings), 0), 0, np.float32)
    paths = np.empty((len(embeddings), 0), object)
    for page_paths, page in collection.stored_embeddings(expression):
        names = np.broadcast_to(np.array(page_paths, object), (len(embeddings), len(page_paths)))
        best = np.concatenate([best, embeddings @ page.T], axis=1)
        paths = np.concatenate([paths, names], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :top_k]
        best = np.take_along_axis(best, order, axis=1)
        paths = np.take_along_axis(paths, order, axis=1)
    return [
        [Match(path, float(similarity)) for path, similarity in zip(*row, strict=True)]
        for row in zip(paths, best, strict=True)
    ]


def recall(found: Sequence[Sequence[Match]], exact: Sequence[Sequence[Match]]) -> float:
    """Return which share of the exact matches an index found, 0 to 1; ties count as found.

    >>> exact = [[Match("a.png", 0.9), Match("b.png", 0.8)]]
    >>> recall([[Match("a.png", 0.9), Match("c.png", 0.7)]], exact)
    0.5
    """
    hits = total = 0
    for ours, theirs in zip(found, exact, strict=True):
        if theirs:
            wanted = {match.path for match in theirs}
            least = theirs[-1].similarity - TIE
            hits += sum(match.path in wanted or match.similarity >= least for match in ours)
            total += len(theirs)
    return hits / total if total else 1.0
