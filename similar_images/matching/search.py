"""Search the collection for each query, and leave out weak matches and the query itself."""

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from similar_images.console import QUIET, Console, add_number, options_from, path_of, warn
from similar_images.images.image_files import check_folder, skipped_in_lines
from similar_images.matching.collection_folder import CollectionFolder
from similar_images.matching.ignored_pairs import NONE_IGNORED, IgnoredPairs
from similar_images.matching.pairs import Pair, RowNames
from similar_images.matching.queries import Queries
from similar_images.milvus.collection import MAX_TOP_K, ImageCollection
from similar_images.milvus.schema import Match
from similar_images.milvus.vector_index import parameters_for, search_parameters
from similar_images.text import counted, printable

ROUNDING = 1e-6  # of a cosine in float32: two that differ by no more are equal
LISTED = 5  # changed files that a line names


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search."""

    top_k: int
    min_similarity: float | None
    filter: str
    search_params: dict[str, int]  # of an approximate index
    recall_sample: int  # queries that are also searched exactly
    keep_in: list[Path]  # folders whose images are kept first
    ignore_pairs: Path | None = None  # a file of pairs that are no duplicates


def open_search(collection: ImageCollection, args: argparse.Namespace) -> "Search":
    """Return the search that the command line asks for; CollectionError if it can't be."""
    options = options_from(SearchOptions, args)
    ignored = IgnoredPairs(options.ignore_pairs)
    if args.collection_images:
        check_folder(args.collection_images, "--collection-images")
    collection.check_filter(options.filter)
    index_type = collection.index.get("index_type", "")
    return Search(
        collection=collection,
        folder=CollectionFolder(collection, args.collection_images),
        options=options,
        ignored=ignored,
        parameters=parameters_for(index_type, options.top_k, options.search_params),
    )


@dataclass(frozen=True, kw_only=True)
class Search:
    """A collection, and the way to search it."""

    collection: ImageCollection
    folder: CollectionFolder
    options: SearchOptions
    ignored: IgnoredPairs = NONE_IGNORED
    parameters: dict[str, int]  # of the index
    own_rows: dict[tuple[str, str], str] = field(default_factory=dict)  # query, row → row's label

    def matches(
        self, queries: Queries, top_k: int | None = None, console: Console = QUIET
    ) -> list[list[Match]]:
        """Return each query's matches, nearest first; an image is never its own match.

        top_k: the option's, if None. What else turns out to be a row of a query's own file is added
        to queries.rows; those that were found are in own_rows.
        """
        top_k = top_k or self.options.top_k
        wanted = min(top_k + any(queries.rows), MAX_TOP_K)
        matches: list[list[Match]] = [[] for _ in queries.paths]
        left, embeddings = list(range(len(queries.paths))), queries.embeddings
        with console.progress("queries", len(left)) as progress:
            while left:
                answers = itertools.chain.from_iterable(self._answers(embeddings, wanted))
                short = []  # queries that are left too few by the rows of their own file
                for query, found in zip(left, answers, strict=True):
                    matches[query] = self._without_itself(found, queries, query)[:top_k]
                    if len(matches[query]) < top_k and len(found) == wanted < MAX_TOP_K:
                        short.append(query)
                    else:
                        progress.update(1)
                left, embeddings = short, queries.embeddings[short]
                wanted = min(2 * wanted, MAX_TOP_K)
        return matches

    def pairs(
        self, queries: Queries, matches: Sequence[list[Match]], names: RowNames
    ) -> list[list[Pair]]:
        """Return the pairs of each query that has a match of at least the similarity asked for."""
        wanted = self.options.min_similarity
        least = -np.inf if wanted is None else wanted - ROUNDING
        rows = []
        for query, label, found in zip(queries.paths, queries.labels, matches, strict=True):
            row: list[Pair] = []
            for rank, match in enumerate(found, start=1):
                if match.similarity >= least:
                    path, may_open = names[match.path]
                    known = label, match.label, may_open, self.folder.is_changed(match)
                    row.append(Pair(query, path, match.similarity, rank, *known))
            rows.append(row)
        return [row for row in rows if row]

    def _answers(self, embeddings: np.ndarray, top_k: int) -> Iterator[list[list[Match]]]:
        wider = {name: max(n, top_k) for name, n in self.parameters.items() if name == "ef"}
        parameters = {**self.parameters, **wider}
        return self.collection.search(embeddings, top_k, self.options.filter, parameters)

    def _without_itself(self, found: Sequence[Match], queries: Queries, query: int) -> list[Match]:
        """Return a query's matches that are not the same file; note under which paths it is."""
        rows, others = queries.rows[query], (match.path for match in found)
        rows |= self.folder.own_rows(queries.paths[query], others)
        own = (match for match in found if match.path in rows)
        self.own_rows.update({(queries.paths[query], match.path): match.label for match in own})
        return [match for match in found if match.path not in rows]


def changed_matches(rows: Iterable[Sequence[Pair]]) -> list[str]:
    """Return the paths of matches whose files are not those that were loaded, in order."""
    return sorted({pair.match for row in rows for pair in row if pair.match_changed})


def report_problems(queries: Queries, rows: Sequence[list[Pair]], options: SearchOptions) -> None:
    """Name unreadable images on stderr, count unmatched ones; warn if all are.

    Warn of matches whose files have changed.
    """
    for line in skipped_in_lines(queries.skipped):
        print(f"skipped {line}", file=sys.stderr)
    if not rows:
        limited = options.filter or options.min_similarity is not None
        other = "the collection holds no other image"
        warn(f"no query has a match; {'loosen --filter or --min-similarity' if limited else other}")
    unmatched = len(queries.paths) - len(rows)
    changed = changed_matches(rows)
    if changed:
        more = ", …" if len(changed) > LISTED else ""
        warn(
            f"{counted(len(changed), 'matched file')} changed or vanished since the load "
            f"({', '.join(map(printable, changed[:LISTED]))}{more}): the similarities are those of "
            "the former images; run python embed_and_load.py, with --prune for those that vanished"
        )
    if rows and unmatched:
        print(f"without a match: {counted(unmatched, 'query', 'queries')}", file=sys.stderr)


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of SearchOptions."""
    add_number(parser, "--top-k", 1, MAX_TOP_K, 1, "matches of each query")
    parser.add_argument(
        "--min-similarity",
        type=float,
        metavar="S",
        help="leave out matches of a lower cosine similarity (-1 to 1; default: keep all)",
    )
    parser.add_argument(
        "--filter", default="", metavar="EXPR", help="match only rows that satisfy this expression"
    )
    parser.add_argument(
        "--search-params",
        type=search_parameters,
        default={},
        metavar="NAME=N",
        help="parameters of an approximate index: ef=200 (hnsw), nprobe=64 (ivf_flat)",
    )
    parser.add_argument(
        "--keep-in",
        action="append",
        type=path_of,
        default=[],
        metavar="DIR",
        help="of images that are the same, keep first those below this folder (repeatable)",
    )
    parser.add_argument(
        "--ignore-pairs",
        type=path_of,
        metavar="FILE",
        help="pairs that are no duplicates, in lines as in near_duplicates.txt: left out of the "
        "counts, the groups and the copies",
    )
    text = "also search exactly for N of the queries, and report the recall of the index"
    add_number(parser, "--recall-sample", 0, 10_000, 0, text)
