"""Match pictures: find the queries, embed them, search, and pair each with its matches."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from similar_images.console import Console, number_between, warn, whole_number
from similar_images.matching.pairs import Pair, Summary
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import MAX_TOP_K, ROWS, ImageCollection
from similar_images.milvus.schema import Match
from similar_images.milvus.vector_index import parameters_for, search_parameters
from similar_images.network.embedding import Embedder, embed_images
from similar_images.network.model_description import NAMED_WEIGHTS
from similar_images.pictures.image_files import (
    ImageError,
    Listing,
    Skipped,
    check_folder,
    iter_images,
    label_of,
)
from similar_images.text import counted, printable

ROUNDING = 1e-6  # of a cosine in float32: two that differ by no more are equal


@dataclass(frozen=True)
class SearchOptions:
    """The options that say what counts as a match."""

    top_k: int = 1
    min_similarity: float | None = None
    filter: str = ""
    parameters: dict[str, int] = field(default_factory=dict)  # of an approximate index
    recall_sample: int = 0  # queries that are also searched exactly


@dataclass(frozen=True)
class QueryImages:
    """The pictures to match: paths under a root; with labels if the root is a folder of them."""

    root: Path
    paths: list[str]
    labelled: bool
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class Queries:
    """Embedded queries: paths that can be opened, labels, embeddings (N, dimension) float32."""

    paths: list[str]
    labels: list[str]
    embeddings: np.ndarray
    skipped: list[Skipped]


def find_queries(images: list[str], folder: Path) -> QueryImages:
    """Return the named pictures, else all of the folder's, sorted; ImageError if there are none."""
    if images:
        return QueryImages(Path(), images, labelled=False)
    check_folder(folder, "--queries")
    listing = Listing()
    paths = sorted(image.path for image in iter_images(folder, listing))
    if not paths:
        raise ImageError(f"{folder} holds no images; choose another folder with --queries")
    return QueryImages(folder, paths, labelled=True, skipped=listing.skipped)


def embed_queries(
    embedder: Embedder, images: QueryImages, workers: int | None, console: Console
) -> Queries:
    """Embed the query images; ImageError if none of them can be read."""
    paths: list[str] = []
    labels: list[str] = []
    embeddings: list[np.ndarray] = []
    skipped = list(images.skipped)
    console.say(f"{counted(len(images.paths), 'image')} to embed: {embedder.words}")
    with console.progress("images", len(images.paths)) as progress:
        for batch in embed_images(embedder, images.root, images.paths, workers):
            paths += [str(images.root / image.path) for image in batch.images]
            labels += [label_of(i.path) if images.labelled else "" for i in batch.images]
            skipped += batch.skipped
            embeddings.append(batch.embeddings)
            progress.update(len(batch.images) + len(batch.skipped))
    if not paths:
        first = skipped[0]
        raise ImageError(f"{printable(first.path)} can't be read ({first.reason}); give a picture")
    return Queries(paths, labels, np.concatenate(embeddings), skipped)


def index_parameters(collection: ImageCollection, options: SearchOptions) -> dict[str, int]:
    """Return the parameters to search the index with; CollectionError if it has no such."""
    index_type = collection.index.current().get("index_type", "")
    return parameters_for(index_type, options.top_k, options.parameters)


def search(
    collection: ImageCollection,
    queries: Queries,
    options: SearchOptions,
    parameters: dict[str, int],
    console: Console,
) -> list[list[Match]]:
    """Return each query's matches, nearest first."""
    matches: list[list[Match]] = []
    answers = collection.search(queries.embeddings, options.top_k, options.filter, parameters)
    with console.progress("queries", len(queries.paths)) as progress:
        for some in answers:
            matches += some
            progress.update(len(some))
    return matches


def strong_enough(matches: Sequence[list[Match]], least: float | None) -> list[list[Match]]:
    """Return the matches of at least this similarity, up to rounding; all of them if it is None."""
    if least is None:
        return list(matches)
    lowest = least - ROUNDING
    return [[match for match in found if match.similarity >= lowest] for found in matches]


def make_rows(
    collection: ImageCollection,
    folder: Path | None,
    queries: Queries,
    matches: Sequence[Sequence[Match]],
) -> list[list[Pair]]:
    """Return each query's pairs, nearest first; queries without a match are left out.

    folder: where the collection's pictures are, if the user names it.
    """
    root = folder or collection.root
    trusted = folder is not None or may_open(collection, root)
    rows = [
        [
            Pair(
                query=query,
                match=as_opened(root / match.path),
                similarity=match.similarity,
                rank=rank,
                query_label=label,
                match_label=label_of(match.path),
                may_open_match=trusted and _stays_inside(match.path),
            )
            for rank, match in enumerate(found, start=1)
        ]
        for query, label, found in zip(queries.paths, queries.labels, matches, strict=True)
    ]
    return [row for row in rows if row]


def may_open(collection: ImageCollection, path: Path) -> bool:
    """Return whether a path that the collection names may be opened.

    On a server anybody may have written it: it has to be below the current folder.
    """
    return collection.client.is_own or path.resolve().is_relative_to(Path.cwd())


def _stays_inside(path: str, system: type[PurePath] = PurePath) -> bool:
    r"""Return whether a row's path leads nowhere but into the collection's folder.

    system: whose rules apply, by default this system's: a backslash separates folders on Windows
    alone, elsewhere it is a character of a name.

    >>> _stays_inside("frog/1.png"), _stays_inside("../x.png"), _stays_inside("/etc/x.png")
    (True, False, False)
    """
    pure = system(path)
    return bool(pure.parts) and not pure.anchor and ".." not in pure.parts and "\0" not in path


def as_opened(path: Path) -> str:
    """Return a path that can be opened from the current folder: relative if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


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


def report_problems(queries: Queries, rows: Sequence[list[Pair]], summary: Summary) -> None:
    """Name on stderr what could not be read or matched; CollectionError if nothing was matched."""
    for problem in queries.skipped:
        print(f"skipped {printable(problem.path)}: {printable(problem.reason)}", file=sys.stderr)
    if not rows:
        raise CollectionError(
            "no image matches; check --filter and --min-similarity, or run python embed_and_load.py"
        )
    if summary.unmatched:
        without = counted(summary.unmatched, "query", "queries")
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
