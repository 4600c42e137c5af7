"""Before a load: its options, checks of the folder, and the collection to load into."""

from dataclasses import dataclass
from pathlib import Path

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

    Raises CollectionError if the collection holds another folder or another model's vectors.
    """
    root, name = str(options.folder.resolve()), options.collection
    properties = {"root": root, "index": options.index or "auto", LOAD: BEGUN}
    properties |= model.properties()
    found = ImageCollection.find(client, name)
    if options.recreate:
        found = unfinished(client, name, root, model)
    elif found:
        check_replaceable(found)
        check_same_model(found, model)
        settle_root(found, root, options.moved)
    if found is None:
        return ImageCollection.create(client, name, properties, beside=options.recreate)
    if not found.index:
        found.use_index(FLAT)
    return found


def unfinished(client: Client, name: str, root: str, model: Model) -> ImageCollection | None:
    """Return what an interrupted --recreate of this folder and model has loaded, if there is any.

    Others are dropped, unless another loader may be writing to them.
    """
    resumed = None
    for left in ImageCollection.nameless(client, name):
        same = str(left.root) == root and model.same_vectors(left.properties)
        if same and not left.is_whole and resumed is None:
            resumed = left
        elif left.is_whole or client.is_own:
            left.drop()
    return resumed


def check_replaceable(collection: ImageCollection) -> None:
    """Raise CollectionError for a collection with a name of its own that --recreate would reuse."""
    if collection.own_name == collection.name:
        raise CollectionError(
            f"{collection.name} is not an alias of a collection, as embed_and_load.py makes; load "
            "it again with --recreate, or choose another --collection"
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
