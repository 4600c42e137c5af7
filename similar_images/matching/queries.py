"""Find the query images and embed them; of a collection's own images the vectors are read."""

import contextlib
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from similar_images.console import Console, warn
from similar_images.images.decode_workers import Batch
from similar_images.images.decoding import DecodedImage
from similar_images.images.image_files import (
    ImageError,
    Listing,
    Skipped,
    check_images,
    excluded_names,
    is_excluded,
    iter_images,
    label_of,
    left_out_in_words,
    modified_at,
)
from similar_images.images.labels import Labels
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.collection_folder import CollectionFolder, may_open
from similar_images.milvus.collection import LABELS, PRECISION, ImageCollection
from similar_images.network.eight_bits import as_in_collection
from similar_images.network.embedding import (
    Embedder,
    EmbeddingOptions,
    embed_images,
    warn_if_random,
)
from similar_images.network.find_network import network_of_collection
from similar_images.network.model_description import NAMED_WEIGHTS, Model
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.rounding import measured_embedder
from similar_images.text import counted, printable

if typing.TYPE_CHECKING:
    from similar_images.network.torch_network import Network


@dataclass(frozen=True)
class QueryImages:
    """The images to match: paths under a root; with labels if the root is a folder of them.

    listing: what else the folder has. labels: of a folder's images.
    """

    root: Path
    paths: list[str]
    labelled: bool
    listing: Listing = field(default_factory=Listing)
    labels: Labels = field(default_factory=Labels)

    @property
    def words(self) -> str:
        """How many images there are, and in which folder."""
        return counted(len(self.paths), "image") + (f" from {self.root}" if self.labelled else "")


@dataclass(frozen=True)
class Queries:
    """Embedded queries: paths that can be opened, labels, embeddings (N, dimension) float32.

    rows: the paths that each query has in the collection itself, most often none. model, device:
    how they were embedded; the device is in words, '' if none was. left_out: of their folder, in
    words.
    """

    paths: list[str]
    labels: list[str]
    embeddings: np.ndarray
    rows: list[set[str]]
    skipped: list[Skipped]
    model: Model
    device: str
    left_out: str = ""

    def some(self, places: Sequence[int]) -> "Queries":
        """Return those queries that are at these places."""
        return replace(
            self,
            paths=[self.paths[place] for place in places],
            labels=[self.labels[place] for place in places],
            rows=[self.rows[place] for place in places],
            embeddings=self.embeddings[places],
        )


def find_queries(
    images: list[str],
    folder: Path,
    exclude: Sequence[str] | None,
    collection: ImageCollection,
    labels: Labels,
) -> QueryImages:
    """Return the named images, each once, else all of the folder's, sorted.

    exclude: names beside the usual ones; if None, the collection's are left out. labels: of the
    folder's. ImageError if there are no images.
    """
    if images:
        return QueryImages(Path(), list(dict.fromkeys(images)), labelled=False)
    excluded = collection.excluded if exclude is None else excluded_names(exclude)
    check_images(folder, "--queries", excluded)
    listing = Listing()
    paths = sorted(image.path for image in iter_images(folder, listing, excluded=excluded))
    return QueryImages(folder, paths, labelled=True, listing=listing, labels=labels)


def network_for_queries(
    collection: ImageCollection, named: str | None, precision: str
) -> "ConvertedNetwork | Network":
    """Return the network that made a collection's vectors; ModelError if it is not available.

    Its weights are where the user says, else where the collection says if that may be read; it
    computes in 8 bits if the collection's did and precision is 'auto'.
    """
    stored: str = collection.properties.get("weights", "")
    allowed = stored in NAMED_WEIGHTS or may_open(collection, Path(stored))
    network = network_of_collection(collection.properties, named or (stored if allowed else None))
    warn_if_random(network.model)
    return as_in_collection(network, precision, collection.properties.get(PRECISION, ""))


def embed_queries(
    images: QueryImages,
    network: "ConvertedNetwork | Network",
    options: EmbeddingOptions,
    folder: CollectionFolder,
    reductions: ReductionStore | None,
    console: Console,
) -> Queries:
    """Embed the query images, or read the stored vectors of unchanged ones from the collection.

    reductions: keeps those of the embedded images. ImageError if none can be read.
    """
    own = {path: folder.rows_of(str(images.root / path)) for path in images.paths}
    names = dict.fromkeys(name for some in own.values() for name in some)
    stored = {row.path: (row, vector) for row, vector in folder.collection.embeddings_of([*names])}
    rows = {path: [name for name in some if name in stored] for path, some in own.items()}
    first = ((path, *stored[some[0]]) for path, some in rows.items() if some)
    embeddings = {
        path: vector for path, row, vector in first if is_unchanged(images.root / path, row)
    }
    labels = {path: images.labels.of(path) for path in images.paths}
    if not images.labels.file:
        labels |= labels_of_collection(images.root, own, stored, folder)
    if embeddings:
        console.say(
            f"{counted(len(embeddings), 'embedding')} read from the collection: "
            "these files have not changed since they were loaded"
        )
    new = [path for path in images.paths if path not in embeddings]
    skipped, device = list(images.listing.skipped), ""
    if new:
        embedder = measured_embedder(network, options, images.root, new, console.say)
        device = "; ".join(filter(None, (embedder.words, embedder.rounding)))
        console.say(f"{counted(len(new), 'image')} to embed: {device}")
        for batch in batches_of(images, new, embedder, options, reductions, console):
            for image, embedding in zip(batch.images, batch.embeddings, strict=True):
                embeddings[image.path] = embedding
            skipped += batch.skipped
    if not embeddings:
        raise ImageError(f"cannot read {printable(skipped[0].path)}: {skipped[0].reason}")
    readable = [path for path in images.paths if path in embeddings]
    return Queries(
        paths=[str(images.root / path) for path in readable],
        labels=[labels[path] if images.labelled else "" for path in readable],
        embeddings=np.stack([embeddings[path] for path in readable]),
        rows=[set(rows[path]) for path in readable],
        skipped=skipped,
        model=network.model,
        device=device,
        left_out=left_out_in_words(images.listing),
    )


def batches_of(
    images: QueryImages,
    paths: list[str],
    embedder: Embedder,
    options: EmbeddingOptions,
    reductions: ReductionStore | None,
    console: Console,
) -> Iterator[Batch]:
    """Yield the embeddings of these of the images, in batches; warn of damaged ones."""
    with console.progress("images", len(paths)) as progress:
        for batch in embed_images(
            embedder,
            images.root,
            paths,
            options.workers,
            max_megapixels=options.max_megapixels,
            # A worker takes half a second to start, for a folder's images, which may kill it.
            for_few=int(images.labelled),
            examine=reductions.reduce if reductions else None,
        ):
            if reductions:
                for image, reduction in zip(batch.images, batch.examined, strict=True):
                    reductions.add(str(images.root / image.path), reduction)
            for damaged in batch.damaged:
                warn(f"{printable(damaged.path)}: {damaged.reason}")
            progress.update(len(batch.images) + len(batch.skipped))
            yield batch


def labels_of_collection(
    root: Path,
    own: Mapping[str, Sequence[str]],
    stored: Mapping[str, tuple[DecodedImage, np.ndarray]],
    folder: CollectionFolder,
) -> dict[str, str]:
    """Return the labels of those images root/path that stand in the collection's folder.

    own: as of CollectionFolder.rows_of(). An image without a row gets the label that a load would
    give it, unless the collection leaves it out.
    """
    labels, by_file = {}, LABELS in folder.collection.properties
    for path, names in own.items():
        here = next((name for name in names if folder.is_here(str(root / path), name)), "")
        if here in stored:
            labels[path] = stored[here][0].label
        elif here and not is_excluded(here, folder.collection.excluded):
            labels[path] = "" if by_file else label_of(here)
    return labels


def is_unchanged(path: Path, row: DecodedImage) -> bool:
    """Return whether a file is as it was when its row was written."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return (status.st_size, modified_at(status)) == (row.file_size, row.modified_at)
    return False
