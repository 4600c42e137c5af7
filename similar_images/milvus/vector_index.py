"""The ways to search that can be asked for: Milvus's indexes, and their parameters."""

import argparse
from collections.abc import Mapping
from typing import NamedTuple

from similar_images.milvus.client import CollectionError

COSINE, INNER_PRODUCT = "COSINE", "IP"  # Milvus's names
BUILD_PARAMETERS = ("M", "efConstruction", "nlist")  # named in the observations


class Index(NamedTuple):
    """A way to search: Milvus's name of it, how it is built, how it is searched by default."""

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
    """Return the index that one of INDEX_CHOICES means for so many rows.

    'auto' is exact up to exact_rows.

    >>> choose_index("auto", 1000, 100_000).type, choose_index("auto", 10**6, 100_000).type
    ('FLAT', 'HNSW')
    """
    if choice == "auto":
        choice = "flat" if rows <= exact_rows else "hnsw"
    return INDEXES[choice]


def parameters_for(index_type: str, top_k: int, chosen: Mapping[str, int]) -> dict[str, int]:
    """Return what an index is searched with: its defaults, and what was chosen instead.

    Raises CollectionError if it has no such parameter.
    """
    known = next((kind for kind in INDEXES.values() if kind.type == index_type), None)
    if known is None:  # made by somebody else, who knows its parameters
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
    """Return an index's search parameters, a type for argparse: NAME=N, several with commas.

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
