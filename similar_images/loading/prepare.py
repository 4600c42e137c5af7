"""Before a load: its options, checks of the folder, and the collection to load into."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from similar_images.images.image_files import ImageError, check_images, excluded_names
from similar_images.milvus.client import Client, CollectionError
from similar_images.milvus.collection import BEGUN, EXCLUDE, LABELS, LOAD, ROWS, ImageCollection
from similar_images.milvus.vector_index import FLAT
from similar_images.network.model_description import Model


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What is to be loaded, and how, as given on the command line."""

    folder: Path
    collection: str
    exclude: Sequence[str] | None = None
    index: str | None = None
    recreate: bool = False
    moved: bool = False
    prune: bool = False
    prune_most: bool = False
    labels: Path | None = None

    @property
    def label_file(self) -> str:
        """Where the labels come from, as the collection records it; '' for the folders' names."""
        return str(self.labels.resolve()) if self.labels else ""


def check_recorded(*paths: Path) -> None:
    """Raise ImageError if a path that the collection would record is not UTF-8, as Milvus asks."""
    for path in paths:
        try:
            str(path.resolve()).encode()
        except UnicodeEncodeError:
            raise ImageError(f"{path.resolve()} is not UTF-8, as Milvus asks; rename it") from None


def collection_to_load(client: Client, options: LoadOptions, model: Model) -> ImageCollection:
    """Return the collection to load into, created if need be; with --recreate, one beside it.

    Without --exclude, what the collection of that name leaves out stays left out. ImageError if the
    folder holds nothing else; CollectionError if the collection holds another folder or another
    model's vectors.
    """
    root, name = str(options.folder.resolve()), options.collection
    index = options.index or "auto"
    found, excluded = ImageCollection.find(client, name), excluded_names(options.exclude or [])
    if found and options.exclude is None:
        excluded = found.excluded
    check_images(options.folder, "--images", excluded)
    exclude = {EXCLUDE: "/".join(excluded)}
    properties = {"root": root, "index": index, LOAD: BEGUN, **exclude, **model.properties()}
    if options.label_file:
        properties[LABELS] = options.label_file
    if options.recreate:
        found = unfinished(client, properties, name, model)
    elif found:
        settle(found, model, root, options)
    if found is None:
        return ImageCollection.create(client, name, properties, beside=options.recreate)
    if options.exclude is not None:
        found.set_properties(**exclude)
    if not found.index:
        found.use_index(FLAT)
    return found


def drop_if_new(collection: ImageCollection) -> None:
    """Drop a collection without rows that no load has completed."""
    if ROWS in collection.properties or collection.count():
        return
    for alias in collection.aliases():
        collection.client.ask(collection.client.milvus.drop_alias, alias)
    collection.drop()


def unfinished(
    client: Client, properties: Mapping[str, str], name: str, model: Model
) -> ImageCollection | None:
    """Return what an interrupted --recreate with these properties has loaded, if there is any.

    Others are dropped, unless another loader may be writing to them.
    """
    resumed = None
    for left in ImageCollection.nameless(client, name):
        here = all(left.properties.get(x) == properties.get(x) for x in ("root", LABELS, EXCLUDE))
        same = here and model.same_vectors(left.properties)
        if same and not left.lacks and not left.is_whole and resumed is None:
            resumed = left
        elif left.is_whole or client.is_own:
            left.drop()
    return resumed


def settle(collection: ImageCollection, model: Model, root: str, options: LoadOptions) -> None:
    """Record the folder's place, a new one if --moved is given, and the file of labels.

    Raises CollectionError if the collection is of another folder or model, if its labels are from
    a file and none is given, or if it has a name of its own that --recreate would reuse.
    """
    collection.check_columns()
    stored, reason = collection.properties, ""
    if collection.own_name == collection.name:
        reason = (
            "is not an alias of a collection, as embed_and_load.py makes; load it again with "
            "--recreate, or choose another --collection"
        )
    elif not model.same_vectors(stored):
        reason = (
            "was made with another model or other weights "
            f"({stored.get('architecture')}, {stored.get('weights')}); give those, choose another "
            "--collection, or add --recreate"
        )
    elif str(collection.root) != root and not options.moved:
        reason = (
            f"holds the folder {collection.root}; choose another --collection, add --moved if that "
            "folder is here now, or --recreate to replace it"
        )
    elif stored.get(LABELS) and not options.labels:
        reason = (
            f"has the labels of the file {stored[LABELS]}; give it with --labels, or add "
            "--recreate for the folders' names"
        )
    if reason:
        raise CollectionError(f'the collection "{collection.name}" {reason}')
    labels = {LABELS: options.label_file} if options.labels else {}
    collection.set_properties(root=root, **labels)
