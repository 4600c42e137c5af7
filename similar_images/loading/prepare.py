"""Before a load: its options, checks of the folder, and the collection to load into."""

from dataclasses import dataclass
from pathlib import Path

from similar_images.console import warn
from similar_images.images.image_files import (
    ImageError,
    Listing,
    check_folder,
    iter_images,
    left_out_in_words,
)
from similar_images.milvus.client import Client, CollectionError
from similar_images.milvus.collection import BEGUN, LOAD, ImageCollection
from similar_images.milvus.vector_index import FLAT
from similar_images.network.model_description import Model

NEW_SUFFIX = "_being_recreated"  # of the collection that --recreate loads


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What is to be loaded, and how, as given on the command line."""

    folder: Path
    collection: str
    index: str | None = None
    recreate: bool = False
    moved: bool = False
    prune: bool = False
    prune_most: bool = False


def check_source(folder: Path) -> None:
    """Raise ImageError if the folder does not exist or holds no images."""
    check_folder(folder, "--images")
    listing = Listing()
    if next(iter_images(folder, listing), None) is None and not listing.skipped:
        left_out = f" ({left_out_in_words(listing.left_out)})" if listing.left_out else ""
        raise ImageError(
            f"{folder} holds no images{left_out}; run python split_images.py or choose --images"
        )


def collection_to_load(client: Client, options: LoadOptions, model: Model) -> ImageCollection:
    """Return the collection to load into, created if need be; with --recreate, one beside it.

    All ranks that call it one after another get the same one. Raises CollectionError if the
    collection holds another folder or another model's vectors.
    """
    root = str(options.folder.resolve())
    properties = {"root": root, "index": options.index or "auto", LOAD: BEGUN}
    properties |= model.properties()
    beside_name = options.collection + NEW_SUFFIX
    found = ImageCollection.find(client, options.collection)
    beside = None  # left by an interrupted --recreate; alone, it is the complete one
    if options.recreate or found is None:
        beside = ImageCollection.find(client, beside_name)
    if options.recreate:
        if beside and beside.root == Path(root) and model.same_vectors(beside.properties):
            return beside
        if beside and found is None:
            beside.rename(options.collection)
        elif beside:
            beside.drop()
        return ImageCollection.create(client, beside_name, properties)
    if beside:
        beside.rename(options.collection)
    found = found or beside
    if found is None:
        return ImageCollection.create(client, options.collection, properties)
    check_same_model(found, model)
    settle_root(found, root, options.moved)
    if not found.index.current():
        found.use_index(FLAT)
    return found


def warn_if_interrupted(client: Client, options: LoadOptions) -> None:
    """Warn of a collection that an interrupted --recreate has left beside the old one."""
    name = options.collection + NEW_SUFFIX
    both = all(ImageCollection.exists(client, one) for one in (name, options.collection))
    if both and not options.recreate:
        warn(
            f"an interrupted --recreate has left the collection {name}, which uses memory and "
            "disk; run again with --recreate to complete and remove it"
        )


def check_same_model(collection: ImageCollection, model: Model) -> None:
    """Raise CollectionError unless the collection holds this model's vectors."""
    stored = collection.properties
    if not model.same_vectors(stored):
        raise CollectionError(
            f"the collection {collection.name} was made with another model or other weights "
            f"({stored.get('architecture')}, {stored.get('weights')}); give those, choose another "
            "--collection, or add --recreate"
        )


def settle_root(collection: ImageCollection, root: str, moved: bool) -> None:
    """Record the folder's new place if --moved is given; CollectionError for another folder."""
    if str(collection.root) != root and not moved:
        raise CollectionError(
            f"the collection {collection.name} holds the folder {collection.root}; choose another "
            "--collection, add --moved if that folder is here now, or --recreate to replace it"
        )
    collection.set_properties(root=root)
