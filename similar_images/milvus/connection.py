"""Which Milvus and which collection to use: addresses, options, and opening a connection."""

import argparse
import os
import re
from urllib.parse import urlsplit

from similar_images.milvus.client import (
    Client,
    CollectionError,
    is_lite,
    one_line,
    open_pymilvus,
    redact,
)
from similar_images.milvus.lite import open_lite

DEFAULT_URI = "./milvus.db"
DEFAULT_COLLECTION = "images"


def resolve_uri(uri: str | None) -> str:
    """Return the address to use: the given one, else $MILVUS_URI, else ./milvus.db.

    Raises CollectionError if it is neither a server's address nor a file name of Milvus Lite.
    """
    uri = uri or os.environ.get("MILVUS_URI") or DEFAULT_URI
    try:
        urlsplit(uri)
    except ValueError as error:  # it may hold a password: not repeated
        raise CollectionError(
            f"the Milvus address can't be read ({error}); give http://HOST:PORT"
        ) from None
    if is_lite(uri) and not uri.endswith(".db"):
        raise CollectionError(
            f"{redact(uri)} is no Milvus address; give http://HOST:PORT or a file that ends in .db"
        )
    return uri


def check_processes(uri: str, count: int) -> None:
    """Raise CollectionError if the Milvus at uri can't be used by so many processes at once."""
    if count > 1 and is_lite(uri):
        raise CollectionError(
            f"Milvus Lite ({uri}) takes one process, and torchrun started {count}; leave "
            "torchrun out, or give the --milvus-uri of a server"
        )


def connect(uri: str, must_exist: bool = False) -> Client:
    """Return a client of the Milvus at uri, with the token in $MILVUS_TOKEN if there is one.

    Raises CollectionError if it can't be reached, or if must_exist and the file isn't there.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # nothing forks while it is in use
    if is_lite(uri):
        return open_lite(uri, must_exist)
    from pymilvus.exceptions import MilvusException

    try:
        return Client(open_pymilvus(uri), uri)
    except (MilvusException, OSError, ValueError) as error:
        reason = one_line(getattr(error, "message", error), uri)
        raise CollectionError(
            f"no Milvus answers at {redact(uri)} ({reason}); start it, or check --milvus-uri "
            "and $MILVUS_TOKEN"
        ) from None  # what it was raised from may hold the password


def collection_name(text: str) -> str:
    """Return a collection's name, a type for argparse: letters, digits and underscores."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,200}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not made of letters, digits, underscores")
    return text


def add_collection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which Milvus and which collection to use."""
    parser.add_argument(
        "--milvus-uri",
        metavar="URI",
        help=f"a server's address or a file (default: $MILVUS_URI, else {DEFAULT_URI}); "
        "a token is read from $MILVUS_TOKEN",
    )
    parser.add_argument(
        "--collection",
        type=collection_name,
        default=DEFAULT_COLLECTION,
        metavar="NAME",
        help=f"default: {DEFAULT_COLLECTION}",
    )
