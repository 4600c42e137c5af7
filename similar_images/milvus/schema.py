"""The columns of the collection: their schema, and what is read from them."""

import typing

from similar_images.images.content_hash import DIGITS
from similar_images.images.image_files import MAX_PATH_BYTES

if typing.TYPE_CHECKING:
    from pymilvus import CollectionSchema

KEY, VECTOR, HASH = "path", "embedding", "content_hash"
# Unix milliseconds UTC; bytes; pixels; pixels; nanoseconds since 1970.
INTEGERS = ("inserted_at", "file_size", "width", "height", "modified_at")
# Of the file, in hexadecimal; Unix milliseconds UTC. Collections of version 1.0 lack these.
LATER = (HASH, "taken_at", "label")
COLUMNS = (KEY, VECTOR, *INTEGERS, *LATER)
TEXTS = {KEY: MAX_PATH_BYTES, HASH: DIGITS, "label": MAX_PATH_BYTES}  # bytes, at most
ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


class StoredImage(typing.NamedTuple):
    """An image's file as it was when it was embedded, and its label."""

    path: str
    file_size: int  # bytes
    modified_at: int  # nanoseconds since 1970
    label: str = ""


class Match(typing.NamedTuple):
    """An image that a search found, and its cosine similarity to the query, -1 to 1."""

    path: str
    similarity: float
    file_size: int = 0  # as of StoredImage
    modified_at: int = 0
    label: str = ""


def schema_of(dimension: int) -> "CollectionSchema":
    """Return the schema of a collection with vectors of this dimension."""
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    for name in COLUMNS:
        if name == VECTOR:
            schema.add_field(name, DataType.FLOAT_VECTOR, dim=dimension)
        elif name in TEXTS:
            text = {"max_length": TEXTS[name], "is_primary": name == KEY}
            schema.add_field(name, DataType.VARCHAR, **text)
        else:
            schema.add_field(name, DataType.INT64)
    return schema


def quoted(text: str) -> str:
    r"""Return text as a string literal of a Milvus filter; pymilvus does not escape keys.

    >>> print(quoted('a "b"'))
    "a \"b\""
    """
    return '"' + text.translate(ESCAPES) + '"'
