"""Measure how many wrong labels are found among labels of which 1% are made wrong at random.

Usage:
  python -m benchmarks.label_issues --images cifar-10/database_set --queries cifar-10/query_set

Reads:  the images of both folders, and weights
Writes: tables to the terminal, for all images of both folders matched with each other, and for
        the images of the second folder matched with those of the first
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from benchmarks import measure
from benchmarks.measure import complete, image_paths, say, table
from similar_images.console import script_parser
from similar_images.images.image_files import ImageError, label_of
from similar_images.matching.label_issues import LEAST_MARGIN, LabelIssue, label_issues
from similar_images.matching.pairs import Pair
from similar_images.network.embedding import (
    EmbeddingOptions,
    add_weights_options,
    embed_images,
    make_embedder,
)
from similar_images.network.find_network import find_network

SHARE = 0.01  # of each folder's labels that are made wrong
MATCHES = (5, 10, 20, 50)  # of a query
CHOICE_SEED, SEEDS = 0, (1, 2, 3, 4)  # what the threshold is chosen on, what is reported
MARGINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # thresholds to choose from
FIRST = (50, 100, 200)  # of the list, whose precision is reported


class Images(NamedTuple):
    """Embeddings, (N, dimension) float32 of unit length, and labels, (N,) of text."""

    embeddings: np.ndarray
    labels: np.ndarray


class Figures(NamedTuple):
    """How well a rule does.

    firsts: its precision among the FIRST it lists, NaN if it lists fewer. roc_area: queries that it
    does not rank tie at the end. precision: the share of the listed queries whose label is wrong.
    recall: the share of the wrong labels that it lists.
    """

    firsts: tuple[float, ...]
    roc_area: float
    listed: int
    precision: float
    recall: float


def embed(root: Path, option: str, args: argparse.Namespace) -> Images:
    """Return the embeddings and labels of a folder's images; ImageError if one can't be read."""
    paths = image_paths(root, option)
    if len(set(map(label_of, paths))) < 2:
        raise ImageError(f"{root} has fewer than two labels; choose another folder with {option}")
    say(f"embed {len(paths)}")
    embedder = make_embedder(find_network(args.model, args.weights), EmbeddingOptions(), len(paths))
    batches = list(complete(root, embed_images(embedder, root, paths)))
    labels = np.array([label_of(image.path) for batch in batches for image in batch.images])
    return Images(np.concatenate([batch.embeddings for batch in batches]), labels)


def nearest(images: Images, queries: Images | None) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's matches, nearest first: cosine similarities and rows, both (N, K).

    Without queries, each image's matches are the other images.
    """
    most = min(MATCHES[-1], len(images.labels) - 1)
    search = NearestNeighbors(n_neighbors=most, metric="cosine", algorithm="brute")
    search.fit(images.embeddings)
    distances, rows = search.kneighbors(queries.embeddings if queries else None)
    return 1 - distances, rows


def make_wrong(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of which SHARE are another one at random, and which they are: (N,) bool."""
    generator = np.random.default_rng(seed)
    names, numbers = np.unique(labels, return_inverse=True)
    count = max(1, round(SHARE * len(labels)))
    changed = generator.choice(len(labels), count, replace=False)
    numbers[changed] = (numbers[changed] + generator.integers(1, len(names), count)) % len(names)
    return names[numbers], np.isin(np.arange(len(labels)), changed)


def pair_rows(
    similarities: np.ndarray, rows: np.ndarray, labels: np.ndarray, query_labels: np.ndarray
) -> Iterator[list[Pair]]:
    """Yield each query's pairs; an image's path is its number."""
    for query, (some, near) in enumerate(zip(similarities, rows, strict=True)):
        yield [
            Pair(f"{query:09}", str(row), float(s), rank, query_labels[query], labels[row])
            for rank, (s, row) in enumerate(zip(some, near, strict=True), start=1)
        ]


def figures_of(ranked: Sequence[LabelIssue], listed: int, wrong: np.ndarray) -> Figures:
    """Return the figures of a rule that ranks these issues, and lists so many of them."""
    order = [int(issue.pair.query) for issue in ranked]
    scores = np.zeros(len(wrong))
    scores[order] = np.arange(len(order), 0, -1)
    hits = wrong[order]
    found = hits[:listed].sum()
    return Figures(
        firsts=tuple(hits[:n].mean() if len(hits) >= n else np.nan for n in FIRST),
        roc_area=roc_auc_score(wrong, scores),
        listed=listed,
        precision=found / max(1, listed),
        recall=found / wrong.sum(),
    )


def of_margin(ranked: Sequence[LabelIssue], least: float) -> int:
    """Return how many of the ranked issues have at least this margin."""
    return sum(issue.margin >= least for issue in ranked)


def thresholds(by_count: dict[int, tuple[list[LabelIssue], np.ndarray]]) -> str:
    """Return a table of what each threshold lists, by the number of matches."""
    lines = []
    for least in MARGINS:
        some = [figures_of(x, of_margin(x, least), wrong) for x, wrong in by_count.values()]
        cells = [f"{x.listed:,}: {x.precision:.1%}, {x.recall:.1%}" for x in some]
        f2 = [5 * x.precision * x.recall / (4 * x.precision + x.recall or 1) for x in some]
        lines.append([f"{least:g}", *cells, f"{np.mean(f2):.3f}"])
    return table(["margin", *(f"{count} matches" for count in by_count), "mean F2"], lines)


def line(name: str, seeds: Sequence[Figures]) -> list[str]:
    """Return the cells of a rule's figures, the means of several seeds."""
    firsts = np.mean([one.firsts for one in seeds], axis=0)
    area, listed, *shares = np.mean([one[1:] for one in seeds], axis=0)
    cells = ["" if np.isnan(x) else f"{x:.1%}" for x in firsts]
    return [name, *cells, f"{area:.3f}", f"{listed:,.0f}", *(f"{x:.1%}" for x in shares)]


def compare(images: Images, queries: Images | None) -> str:
    """Return the tables of all images, or of the queries matched with the images."""
    similarities, rows = nearest(images, queries)
    choice, lines = {}, []
    for count in sorted({min(count, rows.shape[1]) for count in MATCHES}):
        say(f"{len(rows)} queries, {count} matches")
        rules: dict[str, list[Figures]] = {"margin": [], "all agree": []}
        for seed in (CHOICE_SEED, *SEEDS):
            labels, wrong = make_wrong(images.labels, seed)
            query_labels, wrong = make_wrong(queries.labels, seed) if queries else (labels, wrong)
            pairs = pair_rows(similarities[:, :count], rows[:, :count], labels, query_labels)
            ranked = label_issues(pairs, least_margin=-1)
            if seed == CHOICE_SEED:
                choice[count] = ranked, wrong
                continue
            unanimous = of_margin(ranked, 1)
            rules["margin"].append(figures_of(ranked, of_margin(ranked, LEAST_MARGIN), wrong))
            rules["all agree"].append(figures_of(ranked[:unanimous], unanimous, wrong))
        lines += [line(f"{rule}, {count} matches", some) for rule, some in rules.items()]
    firsts = [f"first {n}" for n in FIRST]
    header = ["rule", *firsts, "ROC area", "listed", "of them wrong", "of the wrong labels"]
    return (
        f"Seed {CHOICE_SEED}: the queries of at least a margin, the share of them whose label is "
        "wrong, and the share of the wrong labels that are among them\n\n"
        f"{thresholds(choice)}\n\n"
        f"Mean of the seeds {', '.join(map(str, SEEDS))}; listed from a margin of {LEAST_MARGIN}\n"
        f"\n{table(header, lines)}\n"
    )


def run(args: argparse.Namespace) -> None:
    """Print the tables of both folders together, and of one matched with the other."""
    images, queries = embed(args.images, "--images", args), embed(args.queries, "--queries", args)
    together = Images(*map(np.concatenate, zip(images, queries, strict=True)))
    print(f"{len(together.labels):,} images matched with each other\n\n{compare(together, None)}")
    print(f"{len(queries.labels):,} images matched with {len(images.labels):,} others\n")
    print(compare(images, queries))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    parser = script_parser(__doc__)
    measure.add_folders(parser)
    add_weights_options(parser)
    return measure.measured(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
