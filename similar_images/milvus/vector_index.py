"""The kinds of index that can be chosen, their parameters, and the index of a collection."""

import argparse
from collections.abc import Mapping
from typing import NamedTuple

from similar_images.milvus.client import Client, CollectionError
from similar_images.milvus.schema import VECTOR

COSINE, INNER_PRODUCT = "COSINE", "IP"  # Milvus's names of metrics
METRIC = "metric_type"  # in the description of an index that Lite does not do without
BUILD_PARAMETERS = ("M", "efConstruction", "nlist")  # listed in the observations


class Index(NamedTuple):
    """A kind of index: Milvus's name, build parameters, default search parameters."""

    type: str
    build: Mapping[str, int]
    search: Mapping[str, int]


FLAT = Index("FLAT", {}, {})  # exact: every vector is compared
INDEXES = {
    "flat": FLAT,
    "hnsw": Index("HNSW", {"M": 16, "efConstruction": 200}, {"ef": 128}),
    "ivf_flat": Index("IVF_FLAT", {"nlist": 1024}, {"nprobe": 128}),
}
INDEX_CHOICES = ("auto", *INDEXES)


def choose_index(choice: str, rows: int, exact_rows: int) -> Index:
    """Return the kind of index for one of INDEX_CHOICES; 'auto' is exact up to exact_rows rows.

    >>> choose_index("auto", 1000, 100_000).type, choose_index("auto", 10**6, 100_000).type
    ('FLAT', 'HNSW')
    """
    if choice == "auto":
        choice = "flat" if rows <= exact_rows else "hnsw"
    return INDEXES[choice]


def parameters_for(index_type: str, top_k: int, chosen: Mapping[str, int]) -> dict[str, int]:
    """Return an index's search parameters: its defaults, replaced by the chosen ones.

    Raises CollectionError if the index has no such parameter.
    """
    known = next((kind for kind in INDEXES.values() if kind.type == index_type), None)
    if known is None:  # made by another program: its parameters are not known here
        return dict(chosen)
    unknown = ", ".join(chosen.keys() - known.search.keys())
    if unknown:
        names = ", ".join(known.search) or "no parameters"
        raise CollectionError(
            f"the collection's index, {known.type}, has no search parameter {unknown}; "
            f"it has {names}"
        )
    parameters = {**known.search, **chosen}
    if "ef" in parameters:
        parameters["ef"] = max(parameters["ef"], top_k)  # Milvus's condition
    return parameters


def search_parameters(text: str) -> dict[str, int]:
    """Return an index's search parameters; an argparse type: NAME=N, separated by commas.

    >>> search_parameters("ef=200")
    {'ef': 200}
    """
    parameters = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not (name.isidentifier() and equals and value.isdecimal()):
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=N")
        parameters[name] = int(value)
    return parameters


def describe_index(client: Client, name: str) -> dict[str, str]:
    """Return how a collection is searched: index_type, nlist etc.; empty if it cannot be."""
    ask, milvus, advice = client.ask, client.milvus, client.damaged
    described = None
    if VECTOR in ask(milvus.list_indexes, name, advice=advice):
        described = ask(milvus.describe_index, name, VECTOR, advice=advice)
    exact = {"index_type": FLAT.type} if client.is_own else {}  # Lite needs no index
    return {key: str(value) for key, value in (described or exact).items()}


def replace_index(client: Client, name: str, index: Mapping[str, str], kind: Index) -> bool:
    """Replace a collection's index by one of this kind; return whether anything was changed.

    Afterwards the collection must be loaded again; a server answers no search meanwhile.
    """
    ask, milvus = client.ask, client.milvus
    built = index.get("index_type") if METRIC in index else None
    # On Lite a FLAT index would store the vectors twice, on disk and in memory.
    wanted = None if kind == FLAT and client.is_own else kind.type
    if built == wanted:
        return False
    if built:
        ask(milvus.release_collection, name)
        ask(milvus.drop_index, name, VECTOR)
    if wanted:
        parameters = milvus.prepare_index_params()
        parameters.add_index(VECTOR, index_type=wanted, metric_type=COSINE, params={**kind.build})
        ask(milvus.create_index, name, parameters)
    return True


def index_in_words(index: Mapping[str, str], parameters: Mapping[str, int]) -> str:
    """Describe how a collection is searched with these search parameters."""
    kind = index.get("index_type", "?")
    if kind == FLAT.type:
        return "exact (FLAT: every vector is compared), cosine similarity"
    built = [f"{name} {index[name]}" for name in BUILD_PARAMETERS if name in index]
    searched = [f"{name} {value}" for name, value in parameters.items()]
    return f"approximate ({', '.join([kind, *built, *searched])}), cosine similarity"
