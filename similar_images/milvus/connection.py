"""Which Milvus and which collection to use: addresses, options, opening a connection."""

import argparse
import os
import re

from similar_images.console import nonempty
from similar_images.milvus.client import (
    FILE,
    Client,
    CollectionError,
    explained,
    import_pymilvus,
    is_address,
    is_lite,
    open_pymilvus,
    redact,
    repeated,
)
from similar_images.milvus.lite import open_lite

DEFAULT_URI = "./milvus.db"
DEFAULT_COLLECTION = "images"
OPEN_SECONDS = 30  # how long a connection is tried: its address may be wrong


def resolve_uri(uri: str | None) -> str:
    """Return uri, else $MILVUS_URI, else ./milvus.db; CollectionError if it is no address."""
    uri = uri or os.environ.get("MILVUS_URI") or DEFAULT_URI
    if not (uri.endswith(FILE) if is_lite(uri) else is_address(uri)):
        raise CollectionError(
            f"{redact(uri)} is not a Milvus address; give http://HOST:PORT or a file ending in "
            f"{FILE}, and a password with $MILVUS_TOKEN"
        )
    return uri


def check_processes(uri: str, count: int) -> None:
    """Raise CollectionError if so many processes can't use the Milvus at uri at once."""
    if count > 1 and is_lite(uri):
        raise CollectionError(
            f"Milvus Lite ({uri}) takes one process, and torchrun started {count}; run it without "
            "torchrun, or give the --milvus-uri of a server"
        )


def connect(uri: str, must_exist: bool = False) -> Client:
    """Return a client of the Milvus at uri; the token is read from $MILVUS_TOKEN.

    Raises CollectionError if it can't be reached or refuses, or if must_exist and there is no
    such file.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # no fork while it is used
    import_pymilvus()
    if is_lite(uri):
        return open_lite(uri, must_exist)
    from pymilvus.exceptions import MilvusException

    try:
        return Client(repeated(lambda: open_pymilvus(uri), uri, OPEN_SECONDS), uri)
    except (MilvusException, OSError, ValueError) as error:  # its cause may hold the password
        advice = "start it, or check --milvus-uri and $MILVUS_TOKEN"
        raise explained(error, uri, advice) from None


def collection_name(text: str) -> str:
    """Return a collection's name; an argparse type: letters, digits and underscores."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,200}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not letters, digits and underscores")
    return text


def add_collection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which Milvus and which collection to use."""
    parser.add_argument(
        "--milvus-uri",
        type=nonempty,
        metavar="URI",
        help="address of a server, or a Milvus Lite file "
        f"(default: $MILVUS_URI, else {DEFAULT_URI}); a token is read from $MILVUS_TOKEN",
    )
    parser.add_argument(
        "--collection",
        type=collection_name,
        default=DEFAULT_COLLECTION,
        metavar="NAME",
        help=f"collection of the images (default: {DEFAULT_COLLECTION})",
    )
