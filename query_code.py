"""Find each image's most similar one in the collection, and write pairs, picture, observations.

Usage:
  python query_code.py                                  # every image of query_set
  python query_code.py cat.jpg --top-k 5                # one picture, five matches
  python query_code.py --queries ~/Pictures/new --collection pictures
  python query_code.py --filter 'file_size > 100000'    # fields: path, file_size, width, ...
  python query_code.py cat.jpg --json                   # for a program
  python query_code.py --recall-sample 100              # what an approximate index finds

Reads:  the query images, and the collection that embed_and_load.py made
Writes: results/pairings.txt, results/comparison.png, results/observations.md; for images
        named on the command line their matches to the terminal, and the picture
"""

import argparse
import gc
import io
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

import comparison_picture
import image_files
import image_to_embedding
import observations
import results
from command_line import Console, add_quiet_option, counted, status_of, warn, whole_number
from exact_search import exact_search, recall
from image_collection import (
    MAX_TOP_K,
    Client,
    CollectionError,
    ImageCollection,
    Match,
    add_collection_options,
    connect,
    redact,
    resolve_uri,
)
from image_files import ImageError, Skipped, label_of, printable
from image_to_embedding import Embedder, ModelError
from results import Pair, Summary


@dataclass
class Queries:
    """Embedded query images: paths as a reader can open them, labels, (N, 512) float32."""

    paths: list[str]
    labels: list[str]
    embeddings: np.ndarray
    skipped: list[Skipped] = field(default_factory=list)


def find_queries(args: argparse.Namespace) -> tuple[Path, list[str], list[Skipped]]:
    """Return a root, the query images' paths under it in sorted order, and what can't be taken."""
    if args.images:
        return Path(), args.images, []
    image_files.check_folder(args.queries, "--queries")
    skipped: list[Skipped] = []
    paths = sorted(image.path for image in image_files.iter_images(args.queries, skipped))
    if not paths:
        raise ImageError(f"{args.queries} holds no images; choose another folder with --queries")
    return args.queries, paths, skipped


def open_collection(client: Client, name: str) -> ImageCollection:
    """Return the collection to search; CollectionError if there is none or it is empty."""
    collection = ImageCollection.find(client, name)
    if collection is None:
        raise CollectionError(
            f"there is no collection {name} in {redact(client.uri)}; run python embed_and_load.py"
        )
    return collection


def load_model(collection: ImageCollection, args: argparse.Namespace) -> Embedder:
    """Return the model that the collection was made with; ModelError if it can't be had."""
    stored = collection.properties
    embedder = Embedder(args.weights or stored.get("weights", ""), args.device, args.precision)
    if not embedder.model.same_vectors(stored):
        raise ModelError(
            f"the weights {embedder.model.weights} are not those that the collection "
            f"{collection.name} was made with (SHA-256 of their values "
            f"{stored.get('weights_sha256', '')[:12]}…); put those back, name them with --weights, "
            "or load again with --recreate"
        )
    return embedder


def embed_queries(
    embedder: Embedder, root: Path, paths: list[str], args: argparse.Namespace, console: Console
) -> Queries:
    """Embed the query images; ImageError if none of them can be read."""
    queries = Queries([], [], np.empty((0, image_to_embedding.DIMENSION), np.float32))
    embeddings = []
    how = embedder.prepare(len(paths), args.batch_size, args.compile)
    console.say(f"{counted(len(paths), 'image')} to embed: {how}")
    batches = image_to_embedding.embed_images(embedder, root, paths, args.workers)
    with console.bar("images", len(paths)) as progress:
        for batch in batches:
            queries.paths += [str(Path(root, image.path)) for image in batch.images]
            labels = ("" if args.images else label_of(image.path) for image in batch.images)
            queries.labels += labels
            queries.skipped += batch.skipped
            embeddings.append(batch.embeddings)
            progress.update(len(batch.images) + len(batch.skipped))
    if not queries.paths:
        first = queries.skipped[0]
        raise ImageError(f"{printable(first.path)} can't be read ({first.reason}); give a picture")
    queries.embeddings = np.concatenate(embeddings)
    return queries


def search(
    collection: ImageCollection,
    queries: Queries,
    args: argparse.Namespace,
    parameters: dict[str, int],
    console: Console,
) -> list[list[Match]]:
    """Return each query's matches, nearest first."""
    matches: list[list[Match]] = []
    with console.bar("queries", len(queries.paths)) as progress:
        for answers in collection.search(queries.embeddings, args.top_k, args.filter, parameters):
            matches += answers
            progress.update(len(answers))
    return matches


def measured_recall(
    collection: ImageCollection,
    queries: Queries,
    matches: Sequence[list[Match]],
    args: argparse.Namespace,
) -> str:
    """Search exactly for some of the queries; return in words how much of that was found."""
    count = min(args.recall_sample, len(matches))
    chosen = sorted(random.Random(args.seed).sample(range(len(matches)), count))
    exact = exact_search(collection, queries.embeddings[chosen], args.top_k, args.filter)
    share = recall([matches[i] for i in chosen], exact)
    drawn = counted(count, "query", "queries")
    return (
        f"{100 * share:.2f}% recall@{args.top_k} against exact search, on {drawn} drawn at random"
    )


def as_opened(path: Path) -> str:
    """Return a path as a reader can open it: relative if it lies under this folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def make_rows(
    collection: ImageCollection, queries: Queries, matches: Sequence[Sequence[Match]]
) -> list[list[Pair]]:
    """Return each query's pairs, nearest first; queries without a match are left out."""
    root = collection.root
    rows = [
        [
            Pair(
                query,
                as_opened(root / match.path),
                match.similarity,
                rank,
                label,
                label_of(match.path),
            )
            for rank, match in enumerate(found, start=1)
        ]
        for query, label, found in zip(queries.paths, queries.labels, matches, strict=True)
    ]
    return [row for row in rows if row]


def summarise(
    collection: ImageCollection,
    embedder: Embedder,
    queries: Queries,
    args: argparse.Namespace,
    index: str,
    measured: str,
) -> Summary:
    """Return what was run, in words."""
    model = embedder.model
    return Summary(
        queries=len(queries.paths),
        images=collection.count(),
        model=f"{model.architecture}, weights {Path(model.weights).name} "
        f"(SHA-256 of their values {model.weights_sha256[:12]}…), {model.layer}",
        index=index,
        recall=measured,
        device=f"{embedder.device}, {embedder.precision}",
        filter=args.filter,
        skipped=[skipped.path for skipped in queries.skipped],
    )


def warn_if_incomplete(collection: ImageCollection, images: int) -> None:
    """Say on stderr that the collection holds fewer rows than the last load left there."""
    loaded = int(collection.properties.get("rows", "0"))
    if images < loaded:
        warn(
            f"the collection {collection.name} holds {images:,} of the {loaded:,} images that "
            "were loaded; run python embed_and_load.py to put the others back"
        )


def picture_title(rows: Sequence[Sequence[Pair]], embedder: Embedder) -> str:
    """Return the picture's title: how many queries, which model, how many labels agree."""
    count = len(rows)
    noun = "query" if count == 1 else "queries"
    weights = Path(embedder.model.weights).name
    title = f"{count:,} {noun}, nearest by {embedder.model.architecture} ({weights} weights)"
    same = [row[0].same_label for row in rows]
    if None not in same:
        title += f": {observations.share(sum(map(bool, same)), count)} share the label"
    return title


def picture_bytes(shown: Sequence[Sequence[Pair]], title: str) -> bytes:
    """Return the comparison picture as PNG."""
    if all(len(row) == 1 for row in shown):
        picture = comparison_picture.draw_pairs([row[0] for row in shown], title)
    else:
        picture = comparison_picture.draw_rows(shown, title)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def print_matches(rows: Sequence[Sequence[Pair]]) -> None:
    """Print each query's matches for a reader."""
    for row in rows:
        print(printable(row[0].query))
        for pair in row:
            label = f"  ({printable(pair.match_label)})" if pair.match_label else ""
            print(f"  {pair.rank}  {pair.similarity:.4f}  {printable(pair.match)}{label}")


def print_json(rows: Sequence[Sequence[Pair]]) -> None:
    """Print each match for a program: a JSON object on a line of its own."""
    for row in rows:
        for pair in row:
            print(json.dumps(asdict(pair)))


def search_parameters(text: str) -> dict[str, int]:
    """Return an index's search parameters, a type for argparse: NAME=N, several with commas."""
    parameters = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not (name.isidentifier() and equals and value.isdecimal()):
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=N")
        parameters[name] = int(value)
    return parameters


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        "--weights", metavar="FILE", help="where the collection's weights are now, if they moved"
    )
    parser.add_argument(
        "--json", action="store_true", help="print each match as a JSON object, and nothing else"
    )
    add_quiet_option(parser)
    add_collection_options(parser)
    image_to_embedding.add_model_options(parser)
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
    root, paths, skipped = find_queries(args)
    where = "" if args.images else f" of {root}"
    what = counted(len(paths), "image")
    console.say(f"Matching {what}{where} with {args.collection} in {redact(uri)}")
    with connect(uri, must_exist=True) as client:
        collection = open_collection(client, args.collection)
        parameters = collection.search_parameters(args.top_k, args.search_params)
        embedder = load_model(collection, args)
        gc.enable()  # all is imported
        image_to_embedding.warn_if_random(embedder.model)
        queries = embed_queries(embedder, root, paths, args, console)
        queries.skipped += skipped
        matches = search(collection, queries, args, parameters, console)
        index = collection.index_in_words(parameters)
        measured = ""
        if args.recall_sample:
            measured = measured_recall(collection, queries, matches, args)
            console.say(f"Recall: {measured}")
        summary = summarise(collection, embedder, queries, args, index, measured)
        warn_if_incomplete(collection, summary.images)
    rows = make_rows(collection, queries, matches)
    for problem in queries.skipped:
        print(f"skipped {printable(problem.path)}: {printable(problem.reason)}", file=sys.stderr)
    if not rows:
        raise CollectionError("no image matches; check --filter, or run python embed_and_load.py")
    written = write_results(rows, embedder, summary, args, console)
    if args.json:
        print_json(rows)
    elif args.images:
        print_matches(rows)
    seconds = time.perf_counter() - start
    console.say(f"Wrote {written} in {args.output}")
    console.say(f"Done in {seconds:.1f} s. Next: open {args.output / 'comparison.png'}")


def write_results(
    rows: list[list[Pair]],
    embedder: Embedder,
    summary: Summary,
    args: argparse.Namespace,
    console: Console,
) -> str:
    """Write the picture; for a folder the pairings and the observations too; say what in words."""
    title = picture_title(rows, embedder)
    if args.images:
        shown, written = rows[: args.pairs], "comparison.png"
    else:
        chosen = random.Random(args.seed).sample(range(len(rows)), min(args.pairs, len(rows)))
        shown = [rows[i] for i in chosen]
        pairs = [pair for row in rows for pair in row]
        report = observations.report(pairs, [pair for row in shown for pair in row], summary)
        results.write_whole(args.output / "pairings.txt", results.pairings_text(pairs).encode())
        results.write_whole(args.output / "observations.md", report.encode())
        console.say(title)
        written = "pairings.txt, observations.md and comparison.png"
    results.write_whole(args.output / "comparison.png", picture_bytes(shown, title))
    return written


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_args(argv)
    expected = (CollectionError, ImageError, ModelError)
    interrupted = "nothing was changed; run it again"
    return status_of(lambda: run(args), expected, interrupted)


if __name__ == "__main__":
    gc.disable()  # importing makes little garbage, and looking for it takes 0.4 s
    status = main()
    if "triton" not in sys.modules:  # compiling imports it, and it would complain of leaks
        gc.freeze()  # or Python walks through all of torch once more: 0.7 s
    sys.exit(status)
