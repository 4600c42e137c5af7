"""Search the collection for each query; what counts as a match."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from similar_images.console import QUIET, Console, number_between, warn, whole_number
from similar_images.matching.collection_folder import CollectionFolder, may_open
from similar_images.matching.matches import Matches
from similar_images.matching.pairs import Pair
from similar_images.matching.queries import Queries
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import MAX_TOP_K, ROWS, ImageCollection
from similar_images.milvus.schema import Match
from similar_images.milvus.vector_index import parameters_for, search_parameters
from similar_images.network.model_description import NAMED_WEIGHTS
from similar_images.text import counted, printable

ROUNDING = 1e-6  # of a cosine in float32: two that differ by no more are equal
OWN = 0.999  # the least similarity that an image can have to itself, embedded twice


@dataclass(frozen=True)
class SearchOptions:
    """The options that say what counts as a match."""

    top_k: int = 1
    min_similarity: float | None = None
    filter: str = ""
    parameters: dict[str, int] = field(default_factory=dict)  # of an approximate index
    recall_sample: int = 0  # queries that are also searched exactly


def index_parameters(collection: ImageCollection, options: SearchOptions) -> dict[str, int]:
    """Return the parameters to search the index with; CollectionError if it has no such."""
    index_type = collection.index.current().get("index_type", "")
    return parameters_for(index_type, options.top_k, options.parameters)


def open_search(collection: ImageCollection, args: argparse.Namespace) -> "Search":
    """Return the search that the command line asks for; CollectionError if it can't be."""
    options = search_options(args)
    return Search(
        collection=collection,
        folder=CollectionFolder(collection, args.collection_images),
        options=options,
        parameters=index_parameters(collection, options),
    )


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search of a collection: what is searched, and how."""

    collection: ImageCollection
    folder: CollectionFolder
    options: SearchOptions
    parameters: dict[str, int]  # of the index

    def matches(
        self, queries: Queries, top_k: int | None = None, console: Console = QUIET
    ) -> Matches:
        """Return each query's matches, nearest first; an image is never its own match.

        top_k: the option's, if None. Where links give a file several paths in the collection, they
        are added to queries.rows.
        """
        matches, top_k = Matches(), top_k or self.options.top_k
        wanted = min(top_k + any(queries.rows), MAX_TOP_K)
        with console.progress("queries", len(queries.paths)) as progress:
            for some in self._answers(queries.embeddings, wanted):
                for found in some:
                    query, asked = len(matches), wanted
                    others = self._without_itself(found, queries, query)
                    while len(others) < top_k and len(found) == asked < MAX_TOP_K:
                        asked = min(2 * asked, MAX_TOP_K)
                        ((found,),) = self._answers(queries.embeddings[[query]], asked)
                        others = self._without_itself(found, queries, query)
                    matches.append(others[:top_k])
                progress.update(len(some))
        return matches

    def _answers(self, embeddings: np.ndarray, top_k: int) -> Iterator[list[list[Match]]]:
        wider = {name: max(n, top_k) for name, n in self.parameters.items() if name == "ef"}
        parameters = {**self.parameters, **wider}
        return self.collection.search(embeddings, top_k, self.options.filter, parameters)

    def _without_itself(self, found: Sequence[Match], queries: Queries, query: int) -> list[Match]:
        """Return a query's matches that are not the same file; note under which paths it is."""
        rows, image = queries.rows[query], queries.paths[query]
        for path, similarity in found:
            if similarity >= OWN and path not in rows and self.folder.is_same_file(path, image):
                rows.add(path)
        return [match for match in found if match.path not in rows]


def strong_enough(matches: Matches, least: float | None) -> Matches:
    """Return the matches of at least this similarity, up to rounding; all of them if it is None."""
    if least is None:
        return matches
    strong = Matches()
    for found in matches:
        strong.append([match for match in found if match.similarity >= least - ROUNDING])
    return strong


def warn_if_incomplete(collection: ImageCollection, images: int) -> None:
    """Warn that the last load has not ended, or that rows were lost since; images: its rows."""
    again = "run python embed_and_load.py"
    loaded = int(collection.properties.get(ROWS, "0"))
    if not collection.is_whole:
        warn(
            f"a load of the collection {collection.name} was interrupted, or is still running: it "
            f"holds {counted(images, 'image')} so far; {again} to load the rest"
        )
    elif images < loaded:
        warn(
            f"the collection {collection.name} holds {images:,} of the {loaded:,} images that "
            f"were loaded; {again} to put the others back"
        )


def weights_to_read(collection: ImageCollection, named: str | None) -> str | None:
    """Return where the weights are: what the user names, else the collection's own if allowed."""
    stored: str = collection.properties.get("weights", "")
    if named or stored in NAMED_WEIGHTS or may_open(collection, Path(stored)):
        return named or stored
    return None


def report_problems(queries: Queries, rows: Sequence[list[Pair]]) -> None:
    """Name on stderr what could not be read or matched; CollectionError if nothing was matched."""
    for problem in queries.skipped:
        print(f"skipped {printable(problem.path)}: {printable(problem.reason)}", file=sys.stderr)
    if not rows:
        raise CollectionError(
            "no image matches; check --filter and --min-similarity, or run python embed_and_load.py"
        )
    unmatched = len(queries.paths) - len(rows)
    if unmatched:
        without = counted(unmatched, "query", "queries")
        print(f"without a match: {without}", file=sys.stderr)


# --- Command line -----------------------------------------------------------------------------


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of SearchOptions."""
    parser.add_argument(
        "--top-k", type=whole_number(1, MAX_TOP_K), default=1, metavar="N", help="default: 1"
    )
    parser.add_argument(
        "--min-similarity",
        type=number_between(-1.1, 1.1),
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
        "--recall-sample",
        type=whole_number(0, 1_000_000),
        default=0,
        metavar="N",
        help="also search exactly for N of the queries, and report the recall of the index",
    )


def search_options(args: argparse.Namespace) -> SearchOptions:
    """Return what add_search_options() has read."""
    return SearchOptions(
        top_k=args.top_k,
        min_similarity=args.min_similarity,
        filter=args.filter,
        parameters=args.search_params,
        recall_sample=args.recall_sample,
    )
