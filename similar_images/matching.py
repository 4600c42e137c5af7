"""From query pictures to pairs: embedded, searched, held against an exact search beside Milvus."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from similar_images.console import Console, warn
from similar_images.embedding import Embedder, embed_images
from similar_images.image_collection import ROWS, ImageCollection, Match
from similar_images.image_files import (
    ImageError,
    Listing,
    Skipped,
    check_folder,
    iter_images,
    label_of,
)
from similar_images.pairs import Pair
from similar_images.text import counted, printable
from similar_images.vector_index import parameters_for

TIE = 1e-6  # float32's rounding: matches so near the last one of the exact are as good


@dataclass(frozen=True)
class SearchOptions:
    """What counts as a match, as the command line says it."""

    top_k: int = 1
    filter: str = ""
    parameters: dict[str, int] = field(default_factory=dict)  # of an approximate index
    min_similarity: float | None = None


@dataclass(frozen=True)
class QueryImages:
    """Pictures to find matches of: paths under a root; with labels if it is a folder of them."""

    root: Path
    paths: list[str]
    labelled: bool
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class Queries:
    """Embedded queries: paths as a reader can open them, labels, (N, dimension) float32."""

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
    """Return what the collection's index is searched with; CollectionError if it has no such."""
    index_type = collection.index().get("index_type", "")
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
    """Return the matches of at least this similarity; all of them if it is None."""
    if least is None:
        return list(matches)
    return [[match for match in found if match.similarity >= least] for found in matches]


def make_rows(
    collection: ImageCollection,
    folder: Path | None,
    queries: Queries,
    matches: Sequence[Sequence[Match]],
) -> list[list[Pair]]:
    """Return each query's pairs, nearest first; queries without a match are left out.

    folder: where the collection's pictures are, if the user says so.
    """
    root = folder or collection.root
    trusted = folder is not None or may_open(collection, root)
    rows = [
        [
            Pair(
                query,
                as_opened(root / match.path),
                match.similarity,
                rank,
                label,
                label_of(match.path),
                trusted and _stays_inside(match.path),
            )
            for rank, match in enumerate(found, start=1)
        ]
        for query, label, found in zip(queries.paths, queries.labels, matches, strict=True)
    ]
    return [row for row in rows if row]


def may_open(collection: ImageCollection, path: Path) -> bool:
    """Return whether a path that the collection names may be opened.

    On a server it is somebody else's word: it has to lie under the current folder.
    """
    return collection.client.is_own or path.resolve().is_relative_to(Path.cwd())


def _stays_inside(path: str) -> bool:
    """Return whether a row's path leads nowhere but into the collection's folder.

    >>> _stays_inside("frog/1.png"), _stays_inside("../x.png"), _stays_inside("/etc/x.png")
    (True, False, False)
    """
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not Path(path).is_absolute()


def as_opened(path: Path) -> str:
    """Return a path as a reader can open it: relative if it lies under this folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def warn_if_incomplete(collection: ImageCollection, images: int) -> None:
    """Say on stderr that a load has not ended, or that rows were lost since it had."""
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


# --- Held against an exact search -------------------------------------------------------------


def measured_recall(
    collection: ImageCollection,
    queries: Queries,
    matches: Sequence[list[Match]],
    options: SearchOptions,
    sample: int,
    seed: int,
) -> str:
    """Search exactly for some of the queries; return in words how much of that was found."""
    chosen = sorted(random.Random(seed).sample(range(len(matches)), min(sample, len(matches))))
    exact = exact_search(collection, queries.embeddings[chosen], options.top_k, options.filter)
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
