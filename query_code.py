"""Find each image's most similar one in the collection, and write pairs, picture, observations.

Usage:
  python query_code.py                                  # every image of query_set
  python query_code.py cat.jpg --top-k 5                # one picture, five matches
  python query_code.py --queries ~/Pictures/new --collection pictures
  python query_code.py --filter 'file_size > 100000'    # fields: path, file_size, width, ...
  python query_code.py --min-similarity 0.8             # no weaker matches
  python query_code.py cat.jpg --json                   # for a program
  python query_code.py --recall-sample 100              # what an approximate index finds

Reads:  the query images, and the collection that embed_and_load.py made
Writes: results/pairings.txt, comparison.png, observations.md, near_duplicates.txt, gallery.html;
        for images named on the command line their matches to the terminal, and the picture
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from similar_images import matching
from similar_images.comparison_picture import picture_bytes
from similar_images.console import (
    Console,
    add_quiet_option,
    number_between,
    script_parser,
    status_of,
    whole_number,
)
from similar_images.embedding import (
    add_embedding_options,
    embedding_options,
    make_embedder,
    warn_if_random,
)
from similar_images.gallery import gallery
from similar_images.image_collection import (
    MAX_TOP_K,
    ImageCollection,
    add_collection_options,
    existing_collection,
)
from similar_images.image_files import ImageError
from similar_images.matching import Queries, SearchOptions
from similar_images.milvus import CollectionError, connect, redact, resolve_uri
from similar_images.model_description import Model, ModelError
from similar_images.near_duplicates import find_near_duplicates, near_duplicates_text
from similar_images.networks import network_of_collection
from similar_images.observations import report
from similar_images.pairs import Pair, Summary, choose_rows, pairings_text
from similar_images.second_look import second_looks
from similar_images.text import counted, printable, share
from similar_images.vector_index import search_parameters
from similar_images.whole_files import write_together


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = script_parser(__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="pictures to find matches of")
    parser.add_argument(
        "--queries",
        type=Path,
        metavar="DIR",
        help="folder of pictures to find matches of (default: query_set)",
    )
    parser.add_argument(
        "--top-k", type=whole_number(1, MAX_TOP_K), default=1, metavar="N", help="default: 1"
    )
    parser.add_argument(
        "--min-similarity",
        type=number_between(-1.1, 1.1),
        metavar="S",
        help="leave out weaker matches (cosine, -1 to 1; default: none are)",
    )
    parser.add_argument(
        "--pairs",
        type=whole_number(1, 100),
        default=10,
        metavar="N",
        help="pairs in the picture (default: 10)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=42,
        metavar="N",
        help="of the choice of those pairs (default: 42)",
    )
    parser.add_argument(
        "--filter", default="", metavar="EXPR", help="match only rows for which this is true"
    )
    parser.add_argument(
        "--search-params",
        type=search_parameters,
        default={},
        metavar="NAME=N",
        help="of an approximate index: ef=200 (hnsw), nprobe=64 (ivf_flat)",
    )
    parser.add_argument(
        "--recall-sample",
        type=whole_number(0, 1_000_000),
        default=0,
        metavar="N",
        help="search exactly, too, for N of the queries, and report what the index found of it",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder to write to (default: results)",
    )
    parser.add_argument(
        "--images",
        dest="folder",
        type=Path,
        metavar="DIR",
        help="where the collection's pictures are now (default: where the collection says; "
        "on a server only if that is under this folder)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="where the collection's weights are now, if they moved"
    )
    parser.add_argument(
        "--json", action="store_true", help="print each match as a JSON object, and nothing else"
    )
    add_quiet_option(parser)
    add_collection_options(parser)
    add_embedding_options(parser)
    args = parser.parse_args(argv)
    if args.images and args.queries:
        parser.error("name images or a folder with --queries, not both")
    args.queries = args.queries or Path("query_set")
    return args


def run(args: argparse.Namespace) -> None:
    """Embed the queries with the collection's model, search, and write what was found."""
    start = time.perf_counter()
    console = Console(args.quiet, results_only=args.json)
    uri = resolve_uri(args.milvus_uri)
    options = SearchOptions(args.top_k, args.filter, args.search_params, args.min_similarity)
    images = matching.find_queries(args.images, args.queries)
    where = "" if args.images else f" of {images.root}"
    what = counted(len(images.paths), "image")
    console.say(f"Matching {what}{where} with {args.collection} in {redact(uri)}")
    with connect(uri, must_exist=True) as client:
        collection = existing_collection(client, args.collection)
        parameters = matching.index_parameters(collection, options)
        network = network_of_collection(collection.properties, weights_to_read(collection, args))
        warn_if_random(network.model)
        embedder = make_embedder(network, embedding_options(args), len(images.paths))
        queries = matching.embed_queries(embedder, images, args.workers, console)
        found = matching.search(collection, queries, options, parameters, console)
        recall = ""
        if args.recall_sample:
            recall = matching.measured_recall(
                collection, queries, found, options, args.recall_sample, args.seed
            )
            console.say(f"Recall: {recall}")
        found = matching.strong_enough(found, options.min_similarity)
        rows = matching.make_rows(collection, args.folder, queries, found)
        summary = Summary(
            queries=len(queries.paths),
            images=collection.count(),
            model=in_words(network.model),
            index=collection.index_in_words(parameters),
            recall=recall,
            device=embedder.words,
            filter=options.filter,
            min_similarity=options.min_similarity,
            skipped=[skipped.path for skipped in queries.skipped],
            unmatched=len(queries.paths) - len(rows),
        )
        matching.warn_if_incomplete(collection, summary.images)
    name_troubles(queries, rows, summary)
    title = title_of(rows, network.model)
    files = (
        {args.output / "comparison.png": picture_bytes(rows[: args.pairs], title)}
        if args.images
        else files_of(rows, summary, title, args)
    )
    write_together(files)
    if args.json:
        print_json(rows)
    elif args.images:
        print_matches(rows)
    else:
        console.say(title)
    seconds = time.perf_counter() - start
    console.say(f"Wrote {', '.join(sorted(path.name for path in files))} in {args.output}")
    console.say(f"Done in {seconds:.1f} s. Next: open {args.output / 'comparison.png'}")


def weights_to_read(collection: ImageCollection, args: argparse.Namespace) -> str | None:
    """Return where the weights are, as the user says, or as the collection does if it may."""
    named: str = collection.properties.get("weights", "")
    if args.weights:
        return str(args.weights)
    if named in ("imagenet", "random") or matching.may_open(collection, Path(named)):
        return named
    return None


def in_words(model: Model) -> str:
    """Return which model embedded, for the report."""
    weights = Path(model.weights).name
    digest = f"SHA-256 of their values {model.weights_sha256[:12]}…"
    return f"{model.architecture}, weights {weights} ({digest}), {model.layer}"


def name_troubles(queries: Queries, rows: Sequence[list[Pair]], summary: Summary) -> None:
    """Name on stderr what could not be read or matched; CollectionError if nothing was."""
    for problem in queries.skipped:
        print(f"skipped {printable(problem.path)}: {printable(problem.reason)}", file=sys.stderr)
    if not rows:
        raise CollectionError(
            "no image matches; check --filter and --min-similarity, or run python embed_and_load.py"
        )
    if summary.unmatched:
        without = counted(summary.unmatched, "query", "queries")
        print(f"without a match: {without}", file=sys.stderr)


def title_of(rows: Sequence[list[Pair]], model: Model) -> str:
    """Return the picture's title: how many queries, which model, how many labels agree."""
    queries = counted(len(rows), "query", "queries")
    title = f"{queries}, nearest by {model.architecture} ({Path(model.weights).name} weights)"
    same = [row[0].same_label for row in rows]
    if None not in same:
        title += f": {share(sum(map(bool, same)), len(rows))} share the label"
    return title


def files_of(
    rows: Sequence[list[Pair]], summary: Summary, title: str, args: argparse.Namespace
) -> dict[Path, bytes]:
    """Return what is to be written of a folder's queries: the file → its content."""
    pairs = [pair for row in rows for pair in row]
    drawn = choose_rows(rows, args.pairs, args.seed)
    shown = [pair for row in drawn for pair in row]
    near, second = find_near_duplicates(pairs), second_looks(pairs)
    return {
        args.output / "pairings.txt": pairings_text(pairs).encode(),
        args.output / "near_duplicates.txt": near_duplicates_text(near).encode(),
        args.output / "observations.md": report(pairs, shown, near, second, summary).encode(),
        args.output / "gallery.html": gallery(pairs, shown, near, second, summary, title).encode(),
        args.output / "comparison.png": picture_bytes(drawn, title),
    }


def print_matches(rows: Sequence[Sequence[Pair]]) -> None:
    """Print each query's matches for a reader."""
    for row in rows:
        print(printable(row[0].query))
        for pair in row:
            label = f"  ({printable(pair.match_label)})" if pair.match_label else ""
            print(f"  {pair.rank}  {pair.similarity:.4f}  {printable(pair.match)}{label}")


def print_json(rows: Sequence[Sequence[Pair]]) -> None:
    """Print each match for a program: a JSON object on a line of its own."""
    columns = ("query", "match", "similarity", "rank", "query_label", "match_label")
    for row in rows:
        for pair in row:
            print(json.dumps({column: getattr(pair, column) for column in columns}))


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    expected = (CollectionError, ImageError, ModelError)
    interrupted = "nothing was changed; run it again"
    return status_of(lambda: run(args), expected, interrupted)


if __name__ == "__main__":
    sys.exit(main())
