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
        duplicate_groups.txt, copies.txt, leaks.txt, label_conflicts.txt, label_issues.txt;
        for images named on the command line: their matches to the terminal, and
        results/named_comparison.png. If one of them can't be read, the exit status is 1.
"""

if __name__ == "__main__":  # before the other imports, which take half a second
    from similar_images import interrupts

    interrupts.end_at_once()

import argparse
import time
from pathlib import Path

from similar_images.console import (
    Console,
    add_exclude_option,
    add_labels_option,
    add_quiet_option,
    leave,
    nonempty,
    options_from,
    path_of,
    script_parser,
    status_of,
)
from similar_images.images.image_files import ImageError, check_images, left_out_in_words
from similar_images.images.labels import Labels
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.findings import find_all
from similar_images.matching.queries import (
    embed_queries,
    find_queries,
    network_for_queries,
)
from similar_images.matching.search import add_search_options, open_search
from similar_images.milvus.client import CollectionError, redact
from similar_images.milvus.collection import existing_collection
from similar_images.milvus.connection import add_collection_options, connect, resolve_uri
from similar_images.network.embedding import EmbeddingOptions, add_embedding_options, least_side
from similar_images.network.model_description import ModelError
from similar_images.results.output_folder import OutputError, check_output
from similar_images.results.result_files import (
    ResultOptions,
    add_result_options,
    files_of,
    print_results,
    written_in_words,
)
from similar_images.verifying.features import examine
from similar_images.whole_files import write_together


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("named", nargs="*", type=nonempty, metavar="IMAGE", help="image to match")
    parser.add_argument(
        "--queries",
        type=path_of,
        metavar="DIR",
        help="folder of images to match (default: query_set)",
    )
    parser.add_argument(
        "--collection-images",
        type=path_of,
        metavar="DIR",
        help="folder of the collection's images (default: as recorded in the collection; "
        "on a server only if it is below the current folder)",
    )
    parser.add_argument(
        "--weights",
        type=nonempty,
        metavar="FILE",
        help="file of the collection's weights, if it has moved",
    )
    add_labels_option(parser, "--queries")
    add_exclude_option(parser)
    add_search_options(parser)
    add_result_options(parser)
    add_quiet_option(parser)
    add_collection_options(parser)
    add_embedding_options(parser)
    args = parser.parse_args(argv)
    if args.named and args.queries:
        parser.error("name images or a folder with --queries, not both")
    if args.named and args.labels:
        parser.error("--labels is for a folder of queries")
    args.queries = args.queries or Path("query_set")
    return args


def run(args: argparse.Namespace, left: list[str]) -> None:
    """Embed the queries with the collection's model, search, examine the matches, and write.

    left: gets what is left if the run is interrupted, in words.
    """
    start = time.perf_counter()
    console = Console(args.quiet, results_only=args.json)
    uri = resolve_uri(args.milvus_uri)
    if not args.named:
        check_images(args.queries, "--queries")
    labels = Labels(args.labels, args.queries)
    embedding, written = options_from(EmbeddingOptions, args), options_from(ResultOptions, args)
    check_output(written.output, bool(written.named))
    with connect(uri, must_exist=True) as client:
        search = open_search(existing_collection(client, args.collection), args)
        images = find_queries(args.named, args.queries, args.exclude, search.collection, labels)
        where = f'"{args.collection}" ({redact(uri)})'
        console.say(f"Matching {images.words} against collection {where}")
        if left_out := left_out_in_words(images.listing):
            console.say(f"Left out: {left_out}")
        if args.labels:
            console.say(labels.in_words(sum(path in labels for path in images.paths)))
        network = network_for_queries(search.collection, args.weights, args.precision)
        side = least_side(network.preprocessing, args.precision == "float32")
        with ReductionStore(examine, side, args.workers, args.max_megapixels) as reductions:
            kept = reductions if written.compares else None
            queries = embed_queries(images, network, embedding, search.folder, kept, console)
            findings = find_all(search, queries, kept, args.seed, console)
            files = files_of(findings, search, queries, written, reductions, console)
            left.append("the results may be of two runs; run it again")
            write_together(files)
            left.append("the results are written")
    print_results(findings.rows, written, queries.model, console)
    console.say(written_in_words(files, findings, written))
    seconds = time.perf_counter() - start
    next_step = f" Next: open {written.drawing}" if findings.rows else ""
    console.say(f"Done in {seconds:.1f} s.{next_step}")
    if args.named and queries.skipped:
        unread = f"{len(queries.skipped)} of {len(images.paths)} images"
        raise ImageError(f"cannot read {unread}; check their paths (the others were matched)")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    expected = (CollectionError, ImageError, ModelError, OutputError)
    left = ["nothing was changed; run it again"]
    return status_of(lambda: run(args, left), expected, lambda: left[-1])


if __name__ == "__main__":
    leave(main())
