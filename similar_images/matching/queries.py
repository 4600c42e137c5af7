"""Find the query images and embed them; of a collection's own images the vectors are read."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from similar_images.console import Console
from similar_images.images.image_files import (
    ImageError,
    Listing,
    Skipped,
    check_folder,
    iter_images,
    label_of,
)
from similar_images.images.reduction_store import ReductionStore
from similar_images.images.reductions import examine
from similar_images.matching.collection_folder import CollectionFolder
from similar_images.milvus.collection import ImageCollection
from similar_images.network.embedding import Embedder, embed_images
from similar_images.text import counted, printable


@dataclass(frozen=True)
class QueryImages:
    """The images to match: paths under a root; with labels if the root is a folder of them."""

    root: Path
    paths: list[str]
    labelled: bool
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class Queries:
    """Embedded queries: paths that can be opened, labels, embeddings (N, dimension) float32.

    rows: the paths that each query has in the collection itself, most often none. device: where
    they were embedded, in words.
    """

    paths: list[str]
    labels: list[str]
    embeddings: np.ndarray
    rows: list[set[str]]
    skipped: list[Skipped]
    device: str

    def some(self, places: Sequence[int]) -> "Queries":
        """Return those queries that are at these places."""
        return replace(
            self,
            paths=[self.paths[place] for place in places],
            labels=[self.labels[place] for place in places],
            rows=[self.rows[place] for place in places],
            embeddings=self.embeddings[places],
        )


def find_queries(images: list[str], folder: Path) -> QueryImages:
    """Return the named images, else all of the folder's, sorted; ImageError if there are none."""
    if images:
        return QueryImages(Path(), images, labelled=False)
    check_folder(folder, "--queries")
    listing = Listing()
    paths = sorted(image.path for image in iter_images(folder, listing))
    if not paths:
        raise ImageError(f"{folder} holds no images; choose another folder with --queries")
    return QueryImages(folder, paths, labelled=True, skipped=listing.skipped)


def embed_queries(
    make_embedder: Callable[[int], Embedder],
    images: QueryImages,
    collection: ImageCollection,
    folder: CollectionFolder,
    reductions: ReductionStore | None,
    workers: int | None,
    console: Console,
) -> Queries:
    """Embed the query images, or read the vectors of those that the collection holds unchanged.

    make_embedder: returns the embedder for a number of images; not called for none. images:
    keeps what is compared of each embedded image. Raises ImageError if none can be read.
    """
    opened = [str(images.root / path) for path in images.paths]
    rows = [folder.rows_of(path) for path in opened]
    embeddings: np.ndarray | None = None
    done = np.zeros(len(opened), bool)

    def keep(place: int, embedding: np.ndarray) -> None:
        nonlocal embeddings
        if embeddings is None:
            embeddings = np.empty((len(opened), len(embedding)), np.float32)
        embeddings[place] = embedding
        done[place] = True

    for place, embedding in stored_embeddings(collection, opened, rows):
        keep(place, embedding)
    new = [place for place in range(len(opened)) if not done[place]]
    if len(new) < len(opened):
        console.say(
            f"{counted(len(opened) - len(new), 'embedding')} read from the collection: "
            "these files have not changed since they were loaded"
        )
    skipped = list(images.skipped)
    device = ""
    if new:
        embedder = make_embedder(len(new))
        device = embedder.words
        console.say(f"{counted(len(new), 'image')} to embed: {device}")
        places = iter(new)
        examine_each = examine if reductions else None
        paths = [images.paths[place] for place in new]
        with console.progress("images", len(new)) as progress:
            for batch in embed_images(embedder, images.root, paths, workers, examine=examine_each):
                for number, image in enumerate(batch.images):
                    place = next(i for i in places if images.paths[i] == image.path)
                    keep(place, batch.embeddings[number])
                    if reductions:
                        reductions.add(opened[place], batch.examined[number])
                skipped += batch.skipped
                progress.update(len(batch.images) + len(batch.skipped))
    if embeddings is None:
        first = skipped[0]
        raise ImageError(f"{printable(first.path)} can't be read ({first.reason}); give an image")
    readable = [int(place) for place in np.flatnonzero(done)]
    return Queries(
        paths=[opened[i] for i in readable],
        labels=[label_of(images.paths[i]) if images.labelled else "" for i in readable],
        embeddings=embeddings if done.all() else embeddings[done],
        rows=[rows[i] for i in readable],
        skipped=skipped,
        device=device,
    )


def stored_embeddings(
    collection: ImageCollection, opened: list[str], rows: list[set[str]]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the places and the embeddings of those images whose rows show the same file."""
    places = defaultdict(list)
    for place, names in enumerate(rows):
        for row in names:
            places[row].append(place)
    for stored, embedding in collection.embeddings_of(list(places)):
        for place in places[stored.path]:
            with contextlib.suppress(OSError):
                status = os.stat(opened[place])
                if (status.st_size, status.st_mtime_ns) == (stored.file_size, stored.modified_at):
                    yield place, embedding
