"""Embed a folder of images with a pretrained network and load the vectors into Milvus.

Usage:
  python embed_and_load.py                                    # database_set into ./milvus.db
  python embed_and_load.py --images ~/Pictures --collection images
  python embed_and_load.py --model resnet50 --collection resnet50
  python embed_and_load.py --model timm/vit_small_patch14_dinov2.lvd142m --collection dinov2
  python embed_and_load.py --milvus-uri http://localhost:19530 --index hnsw
  python embed_and_load.py --weights random                   # no download; for a trial
  python embed_and_load.py --labels labels.csv                # columns path, label
  python embed_and_load.py --export vectors.parquet           # what is loaded, for other programs
  torchrun --nproc-per-node 4 embed_and_load.py --milvus-uri http://localhost:19530

Reads:  the folder, with subfolders as labels; weights, downloaded once
Writes: a Milvus collection: path, embedding, insertion time, file size, width, height, …

Running it again embeds only what is new or changed.
"""

if __name__ == "__main__":  # before the other imports, which take half a second
    from similar_images import interrupts

    interrupts.end_at_once()

import argparse
import time
from functools import partial
from pathlib import Path

from similar_images.console import (
    Console,
    add_exclude_option,
    add_labels_option,
    add_quiet_option,
    leave,
    options_from,
    path_of,
    script_parser,
    status_of,
)
from similar_images.images.image_files import ImageError, check_images
from similar_images.images.labels import Labels
from similar_images.loading.export import export, export_file
from similar_images.loading.finish import finish, report
from similar_images.loading.load import Load, load
from similar_images.loading.prepare import (
    LoadOptions,
    check_recorded,
    collection_to_load,
    drop_if_new,
)
from similar_images.loading.prune import check_pruned
from similar_images.loading.ranks import RankError, Ranks
from similar_images.milvus.client import EXACT_ROWS, CollectionError, redact
from similar_images.milvus.collection import PRECISION, existing_collection
from similar_images.milvus.connection import (
    add_collection_options,
    check_processes,
    connect,
    resolve_uri,
)
from similar_images.milvus.vector_index import INDEX_CHOICES
from similar_images.network.eight_bits import as_in_collection, embedder_in_eight_bits
from similar_images.network.embedding import (
    EmbeddingOptions,
    add_embedding_options,
    add_weights_options,
    warn_if_random,
)
from similar_images.network.find_network import find_network
from similar_images.network.model_description import NAMED_WEIGHTS, ModelError
from similar_images.network.openvino_embedder import INT8
from similar_images.network.rounding import measured_embedder
from similar_images.text import counted


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--images",
        dest="folder",
        type=path_of,
        default=Path("database_set"),
        metavar="DIR",
        help="folder to load (default: database_set)",
    )
    add_exclude_option(parser)
    add_weights_options(parser)
    add_collection_options(parser)
    add_embedding_options(parser, INT8)
    parser.add_argument(
        "--recreate",
        action="store_true",
        help="load into a new collection, which replaces the old one when complete",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove rows whose file no longer exists, is left out or is no longer an image",
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
    parser.add_argument(
        "--export",
        type=export_file,
        metavar="FILE",
        help="load nothing; write the collection's rows to this .parquet or .npz file",
    )
    add_labels_option(parser, "--images")
    add_quiet_option(parser)
    args = parser.parse_args(argv)
    if args.prune_most and not args.prune:
        parser.error("--prune-most needs --prune")
    loading = (args.recreate, args.prune, args.moved, args.index, args.labels, args.exclude)
    if args.export and any(loading):
        others = "--recreate, --prune, --moved, --index, --labels and --exclude"
        parser.error(f"--export loads nothing: leave out {others}")
    return args


def run(args: argparse.Namespace, ranks: Ranks) -> None:
    """Find the images, embed those that the collection lacks, upsert them, report.

    With several ranks, each loads its share.
    """
    start = time.perf_counter()
    console = Console(args.quiet)
    options, embedding = options_from(LoadOptions, args), options_from(EmbeddingOptions, args)
    with ranks:
        uri = ranks.in_turn(checked_uri, args, ranks, console)
        labels = ranks.in_turn(Labels, args.labels, args.folder)
        network = ranks.in_turn(find_network, args.model, args.weights)
        if ranks.first:
            warn_if_random(network.model)
        make_embedder = embedder_in_eight_bits if args.precision == INT8 else measured_embedder
        with connect(uri) as client:
            found = collection_to_load(client, options, network.model) if ranks.first else None
            own_name = ranks.gather(found.own_name if found else None)[0]
            collection = found or existing_collection(client, args.collection, own_name)
            recorded = collection.properties.get(PRECISION, "")
            network = as_in_collection(network, args.precision, recorded)
            say = console.say if ranks.first else Console(quiet=True).say
            job = Load(
                options=options,
                labels=labels,
                collection=collection,
                make_embedder=partial(make_embedder, network, embedding, say=say),
                workers=args.workers,
                max_megapixels=args.max_megapixels,
                ranks=ranks,
                console=console,
            )
            try:
                tally = load(job)
                if ranks.first:
                    finish(job, tally)
            except ModelError:  # of a precision, before the first row is written
                if found:
                    drop_if_new(found)
                raise
            if ranks.first:
                report(job, tally, time.perf_counter() - start)
                check_pruned(tally.gone, tally.removed, tally.rows, options)
            ranks.gather(None)  # the others fail, too, if the first has


def run_export(args: argparse.Namespace) -> None:
    """Write the collection's rows to a file."""
    console = Console(args.quiet)
    with connect(resolve_uri(args.milvus_uri), must_exist=True) as client:
        collection = existing_collection(client, args.collection)
        rows = export(collection, args.export, console)
    console.say(
        f'Wrote {counted(rows, "row")} of the collection "{args.collection}" to {args.export}'
    )


def checked_uri(args: argparse.Namespace, ranks: Ranks, console: Console) -> str:
    """Return the Milvus address, once it and the folder have been checked; say what begins."""
    uri = resolve_uri(args.milvus_uri)
    if ranks.first:
        console.say(f'Loading {args.folder} into collection "{args.collection}" ({redact(uri)})')
    check_processes(uri, ranks.count)
    if ranks.count > 1 and args.precision == INT8:  # each rank would calibrate its own
        raise ModelError(f"--precision {INT8} takes one process; run it without torchrun")
    check_images(args.folder, "--images")
    weights = [] if args.weights in NAMED_WEIGHTS else [Path(args.weights)]
    check_recorded(args.folder, *weights, *([args.labels] if args.labels else []))
    return uri


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    ranks = Ranks()
    expected = (CollectionError, ImageError, ModelError, RankError)
    if args.export:
        return status_of(lambda: run_export(args), expected, "nothing was written; run it again")
    interrupted = "loaded rows are kept; run it again to resume"
    return status_of(lambda: run(args, ranks), expected, interrupted, ranks.prefix)


if __name__ == "__main__":
    leave(main())
