"""Embed a folder of images with a pretrained network and load the vectors into Milvus.

Usage:
  python embed_and_load.py                                    # database_set into ./milvus.db
  python embed_and_load.py --images ~/Pictures --collection images
  python embed_and_load.py --model resnet50 --collection resnet50
  python embed_and_load.py --model timm/vit_small_patch14_dinov2.lvd142m --collection dinov2
  python embed_and_load.py --milvus-uri http://localhost:19530 --index hnsw
  python embed_and_load.py --weights random                   # no download; for a trial
  torchrun --nproc-per-node 4 embed_and_load.py --milvus-uri http://localhost:19530

Reads:  the folder, with subfolders as labels; weights, downloaded once
Writes: a Milvus collection: path, embedding, insertion time, file size, width, height

Running it again embeds only what is new or changed.
"""

import argparse
import sys
import time
from pathlib import Path

from similar_images.console import Console, add_quiet_option, script_parser, status_of
from similar_images.images.image_files import ImageError
from similar_images.loading.finish import finish, report
from similar_images.loading.load import LazyEmbedder, Load, load
from similar_images.loading.prepare import LoadOptions, check_source, collection_to_load
from similar_images.loading.prune import check_pruned
from similar_images.loading.ranks import RankError, Ranks
from similar_images.milvus.client import EXACT_ROWS, CollectionError, redact
from similar_images.milvus.connection import (
    add_collection_options,
    check_processes,
    connect,
    resolve_uri,
)
from similar_images.milvus.vector_index import INDEX_CHOICES
from similar_images.network.embedding import (
    add_embedding_options,
    add_weights_options,
    embedding_options,
    warn_if_random,
)
from similar_images.network.find_network import find_network
from similar_images.network.model_description import ModelError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--images",
        type=Path,
        default=Path("database_set"),
        metavar="DIR",
        help="folder to load (default: database_set)",
    )
    add_weights_options(parser)
    add_collection_options(parser)
    add_embedding_options(parser)
    parser.add_argument(
        "--recreate",
        action="store_true",
        help="load into a new collection, which replaces the old one when complete",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove rows whose file no longer exists or is no longer an image",
    )
    parser.add_argument(
        "--prune-most",
        action="store_true",
        help="allow --prune to remove more than half of the rows",
    )
    parser.add_argument(
        "--index",
        choices=INDEX_CHOICES,
        help=f"auto: exact (flat) up to {EXACT_ROWS:,} images and on Milvus Lite, else hnsw "
        "(default: the collection's, auto for a new one)",
    )
    parser.add_argument(
        "--moved", action="store_true", help="record --images as the collection's new location"
    )
    add_quiet_option(parser)
    args = parser.parse_args(argv)
    if args.prune_most and not args.prune:
        parser.error("--prune-most goes with --prune")
    return args


def load_options(args: argparse.Namespace) -> LoadOptions:
    """Return the options of the load."""
    return LoadOptions(
        folder=args.images,
        collection=args.collection,
        index=args.index,
        recreate=args.recreate,
        moved=args.moved,
        prune=args.prune,
        prune_most=args.prune_most,
    )


def run(args: argparse.Namespace, ranks: Ranks) -> None:
    """Run on one rank, or alone; leave the other ranks in order, whatever happens."""
    with ranks:
        embed_and_load(args, ranks)


def embed_and_load(args: argparse.Namespace, ranks: Ranks) -> None:
    """Find the images, embed what the collection lacks, upsert it, check the number of rows."""
    start = time.perf_counter()
    options = load_options(args)
    console = Console(args.quiet or not ranks.first)
    with ranks.after(ranks.first, "check"):
        uri = resolve_uri(args.milvus_uri)
        console.say(f"Loading {args.images} into {args.collection} in {redact(uri)}")
        check_processes(uri, ranks.count)
        check_source(args.images)
    with ranks.after(ranks.local_rank == 0, f"weights on {ranks.node}"):
        network = LazyEmbedder(find_network(args.model, args.weights), embedding_options(args))
    if ranks.first:
        warn_if_random(network.model)
    with connect(uri) as client:
        with ranks.after(ranks.first, "collection"):
            collection = collection_to_load(client, options, network.model)
        job = Load(
            options=options, collection=collection, network=network, ranks=ranks, console=console
        )
        tally = load(job)
        with ranks.after(ranks.first, "finish"):
            if tally is not None:  # on the first rank
                finish(job, tally)
                report(job, tally, time.perf_counter() - start)
                check_pruned(tally.pruned, tally.rows, options)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    ranks = Ranks()
    expected = (CollectionError, ImageError, ModelError, RankError)
    interrupted = "loaded rows are kept; run it again to resume"
    return status_of(lambda: run(args, ranks), expected, interrupted, ranks.prefix)


if __name__ == "__main__":
    sys.exit(main())
