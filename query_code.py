"""Find the most similar images of the collection for each query image, and write a report.

Usage:
  python query_code.py                                  # every image of query_set
  python query_code.py cat.jpg --top-k 5                # one image, five matches
  python query_code.py --queries ~/Pictures/new --collection images
  python query_code.py --filter 'file_size > 100000'    # fields: path, file_size, width, ...
  python query_code.py --min-similarity 0.8             # no weaker matches
  python query_code.py cat.jpg --json                   # for a program
  python query_code.py --recall-sample 100              # recall of an approximate index

Reads:  the query images, and the collection that embed_and_load.py made
Writes: results/pairings.txt, comparison.png, observations.md, gallery.html, near_duplicates.txt,
        duplicate_groups.txt, label_issues.txt;
        for images named on the command line: their matches to the terminal, and
        results/named_comparison.png. If one of them can't be read, the exit status is 1.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from similar_images.console import Console, add_quiet_option, script_parser, status_of, warn
from similar_images.images.image_files import ImageError, check_folder
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching import search as matching
from similar_images.matching.findings import Findings, find_all
from similar_images.matching.matches import Pairs, RowNames
from similar_images.matching.pairs import Summary
from similar_images.matching.queries import Queries, embed_queries, find_queries
from similar_images.matching.recall import measured_recall
from similar_images.matching.search import Search
from similar_images.milvus.client import CollectionError, redact
from similar_images.milvus.collection import existing_collection
from similar_images.milvus.connection import add_collection_options, connect, resolve_uri
from similar_images.network.embedding import (
    add_embedding_options,
    embedding_options,
    least_side,
    make_embedder,
    warn_if_random,
)
from similar_images.network.find_network import import_openvino, network_of_collection
from similar_images.network.model_description import Model, ModelError
from similar_images.results import result_files as results
from similar_images.text import counted
from similar_images.whole_files import write_together


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image to match")
    parser.add_argument(
        "--queries",
        type=Path,
        metavar="DIR",
        help="folder of images to match (default: query_set)",
    )
    parser.add_argument(
        "--collection-images",
        type=Path,
        metavar="DIR",
        help="folder of the collection's images (default: as recorded in the collection; "
        "on a server only if it is below the current folder)",
    )
    parser.add_argument("--images", dest="renamed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--weights", metavar="FILE", help="file of the collection's weights, if it has moved"
    )
    matching.add_search_options(parser)
    results.add_result_options(parser)
    add_quiet_option(parser)
    add_collection_options(parser)
    add_embedding_options(parser)
    args = parser.parse_args(argv)
    if args.images and args.queries:
        parser.error("name images or a folder with --queries, not both")
    args.queries = args.queries or Path("query_set")
    if args.renamed:
        warn("--images is called --collection-images now")
        args.collection_images = args.collection_images or args.renamed
    return args


def run(args: argparse.Namespace) -> None:
    """Embed the queries with the collection's model, search, and write what was found."""
    start = time.perf_counter()
    console = Console(args.quiet, results_only=args.json)
    uri, written = resolve_uri(args.milvus_uri), results.result_options(args)
    if args.collection_images:
        check_folder(args.collection_images, "--collection-images")
    images = find_queries(args.images, args.queries)
    what = counted(len(images.paths), "image") + ("" if args.images else f" of {images.root}")
    console.say(f"Matching {what} with {args.collection} in {redact(uri)}")
    with contextlib.ExitStack() as doing:
        client = doing.enter_context(connect(uri, must_exist=True))
        aside = doing.enter_context(ThreadPoolExecutor(1))
        aside.submit(import_openvino)  # slow, as is opening a collection
        collection = existing_collection(client, args.collection)
        search = matching.open_search(collection, args)
        rows_in_all = searched = aside.submit(collection.count)
        if search.options.filter and not args.images:
            searched = aside.submit(collection.count, search.options.filter)
        weights = matching.weights_to_read(collection, args.weights)
        network = network_of_collection(collection.properties, weights)
        warn_if_random(network.model)
        embedding = embedding_options(args)
        side = least_side(network.preprocessing, embedding.precision == "float32")
        reductions = doing.enter_context(ReductionStore(side, args.workers))
        kept = reductions if written.near_duplicates or written.named else None
        make = partial(make_embedder, network, embedding)
        queries = embed_queries(
            make, images, collection, search.folder, kept, args.workers, console
        )
        found = search.matches(queries, console=console)
        recall = measured_recall(search, queries, found, args.seed, console)
        names = RowNames(queries, search.folder)
        rows = Pairs(queries, matching.strong_enough(found, search.options.min_similarity), names)
        matching.warn_if_incomplete(collection, rows_in_all.result())
        matching.report_problems(queries, rows)
        title = results.title_of(rows, network.model)
        files: Mapping[Path, bytes | Iterable[str]]
        if written.named:
            files = results.files_of_named(rows, title, written, reductions, console)
        else:
            findings = find_all(rows, queries, names, search, kept, console)
            summary = summary_of(
                search, queries, rows, searched.result(), network.model, recall, findings, written
            )
            results.warn_if_not_compared(summary)
            files = results.files_of(rows, findings, summary, title, written, reductions, console)
        write_together(files)
    if args.json:
        results.print_json(rows)
    elif args.images:
        results.print_matches(rows)
    else:
        console.say(title)
    console.say(f"Wrote {', '.join(sorted(path.name for path in files))} in {args.output}")
    seconds = time.perf_counter() - start
    console.say(f"Done in {seconds:.1f} s. Next: open {written.picture}")
    if args.images and queries.skipped:
        raise ImageError(
            f"{len(queries.skipped)} of {len(args.images)} images could not be read; "
            "check their paths, the others were matched"
        )


def summary_of(
    search: Search,
    queries: Queries,
    rows: Pairs,
    images: int,
    model: Model,
    recall: str,
    findings: Findings,
    written: results.ResultOptions,
) -> Summary:
    """Return what was run; images: the rows that were searched."""
    return Summary(
        queries=len(queries.paths),
        pairs=rows.total,
        images=images,
        model=model.words,
        index=search.collection.index.words(search.parameters),
        recall=recall,
        device=queries.device,
        filter=search.options.filter,
        min_similarity=search.options.min_similarity,
        skipped=[skipped.path for skipped in queries.skipped],
        unmatched=len(queries.paths) - len(rows),
        compares=written.near_duplicates,
        not_compared=rows.total - findings.compared,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    expected = (CollectionError, ImageError, ModelError)
    interrupted = "nothing was changed; run it again"
    return status_of(lambda: run(args), expected, interrupted)


if __name__ == "__main__":
    sys.exit(main())
