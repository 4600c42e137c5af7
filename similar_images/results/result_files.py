"""Write the results of a query run: its title, its files, its matches on the terminal."""

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from similar_images.console import Console, add_number, add_seed_option, path_of, warn
from similar_images.images.image_files import has_image_suffix
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.findings import Findings
from similar_images.matching.label_issues import LEAST_MATCHES
from similar_images.matching.pairs import Pair, choose_rows, nearest
from similar_images.matching.queries import Queries
from similar_images.matching.search import Search, changed_matches
from similar_images.milvus.collection import PRECISION
from similar_images.milvus.vector_index import index_in_words
from similar_images.network.model_description import Model
from similar_images.results.comparison_picture import picture_bytes
from similar_images.results.gallery import gallery
from similar_images.results.observations import report
from similar_images.results.tables import (
    copies_text,
    groups_text,
    is_one_line,
    label_conflicts_text,
    label_issues_text,
    near_duplicates_text,
    pairings_text,
)
from similar_images.text import counted, printable, share

Files = Mapping[Path, bytes | Iterable[str] | None]  # contents; None for a list without a row


@dataclass(frozen=True)
class ResultOptions:
    """The files to write, and the form of the output."""

    output: Path  # the folder
    pairs: int  # in the comparison picture
    seed: int  # of their random choice
    near_duplicates: bool  # whether images of a folder are compared
    named: list[str]  # queries: if there are any, their comparison picture is the only file
    json: bool  # print for programs

    @property
    def compares(self) -> bool:
        """Whether images are compared."""
        return self.near_duplicates and not self.named

    @property
    def drawing(self) -> Path:
        """The comparison picture; that of named queries replaces no file of a folder's."""
        return self.output / ("named_comparison.png" if self.named else "comparison.png")


def title_of(rows: Sequence[list[Pair]], model: Model) -> str:
    """Return the image's title: how many queries, which model, how many labels agree."""
    queries = counted(len(rows), "query", "queries")
    title = f"{queries}, nearest by {model.architecture} ({Path(model.weights).name} weights)"
    same = [row[0].same_label for row in rows if row[0].same_label is not None]
    if same:
        some = f" of {len(same):,} with labels" if len(same) < len(rows) else ""
        title += f": {share(sum(same), len(same))}{some} share the label"
    return title


def files_of(
    findings: Findings,
    search: Search,
    queries: Queries,
    options: ResultOptions,
    reductions: ReductionStore,
    console: Console,
) -> Files:
    """Return the files to write, with their contents, in order; None for one that has no row."""
    rows, title = findings.rows, title_of(findings.rows, queries.model)
    if options.named:
        if len(rows) > options.pairs:
            words = counted(len(rows), "query", "queries")
            console.say(
                f"{options.drawing.name} shows the first {options.pairs} of {words}; see --pairs"
            )
        some = rows[: options.pairs]
        image = picture_bytes(some, title, reductions, console) if rows else None
        return {options.drawing: image}
    summary = summary_of(findings, search, queries, options)
    drawn_rows = choose_rows(rows, options.pairs, options.seed)
    drawn = nearest(drawn_rows)
    verdicts = {one.pair: one.verdict for one in findings.near}
    page = gallery(drawn, findings, summary, title, reductions, console)
    files: dict[str, bytes | Iterable[str] | None] = {
        "pairings.txt": pairings_text(rows),
        "comparison.png": picture_bytes(drawn_rows, title, reductions, console, verdicts)
        if rows
        else None,
        "gallery.html": [page],
        "near_duplicates.txt": _list(near_duplicates_text, findings.near),
        "duplicate_groups.txt": _list(groups_text, findings.groups),
        "copies.txt": _list(copies_text, [g for g in findings.groups if g.spare]),  # after those
        "label_conflicts.txt": _list(label_conflicts_text, findings.conflicts),
        "leaks.txt": _list(near_duplicates_text, findings.leaks),
        "label_issues.txt": _list(label_issues_text, findings.issues),
        "observations.md": [report(drawn, findings, summary)],
    }
    return {options.output / name: content for name, content in files.items()}


def _list(text: Callable[..., Iterable[str]], rows: Sequence[object]) -> Iterable[str] | None:
    return text(rows) if rows else None


def summary_of(
    findings: Findings, search: Search, queries: Queries, options: ResultOptions
) -> dict[str, object]:
    """Return a run's settings and counts, for the reports; warn if pairs could not be compared."""
    pairs = sum(map(len, findings.rows))
    unread = sum(has_image_suffix(skipped.path) for skipped in queries.skipped)
    not_compared = pairs - findings.compared if options.compares else 0
    elsewhere = not search.folder.is_there
    if not_compared:
        advice = "; name the folder of the collection's images with --collection-images"
        warn(
            f"{not_compared:,} of {counted(pairs, 'pair')} could not be checked for "
            "near-duplicates, because an image cannot be read or may not be opened"
            f"{advice if elsewhere else ''}"
        )
    file, ignored = search.options.ignore_pairs, search.ignored
    if ignored.pairs and not ignored.met and options.compares:
        warn(f"no pair of {file} is a near-duplicate here; its relative paths begin in this folder")
    return {
        "queries": len(queries.paths) + unread,
        "pairs": pairs,
        "images": search.collection.count(search.options.filter),  # that were searched
        "model": queries.model.words,
        "index": index_in_words(search.collection.index, search.parameters),
        "recall": findings.recall,
        "device": queries.device,
        "precision": search.collection.properties.get(PRECISION, ""),
        "filter": search.options.filter,
        "min_similarity": search.options.min_similarity,
        "skipped": [skipped.path for skipped in queries.skipped],
        "left_out": queries.left_out,
        "unmatched": len(queries.paths) - len(findings.rows),
        "compares": options.compares,
        "not_compared": not_compared,
        "elsewhere": elsewhere,
        "ignored": f"{len(ignored.met):,} of {len(ignored.pairs):,}" if file else "",
        "changed": changed_matches(findings.rows),
        "unlisted": sum(not is_one_line(c.path) for g in findings.groups for c in g.spare),
    }


def written_in_words(files: Files, findings: Findings, options: ResultOptions) -> str:
    """Return the names of the files written, and the lists without a row."""
    written = [path.name for path, content in files.items() if content is not None]
    missing, most = [], max(map(len, findings.rows), default=0)
    if options.compares and not findings.near:
        missing.append("near-duplicates")
    if not options.named and not findings.issues and most >= LEAST_MATCHES:
        missing.append("label issues")
    none = f"; found no {' and no '.join(missing)}" if missing else ""
    return f"Wrote {', '.join(written) or 'no file'} in {options.output}{none}"


def print_results(
    rows: Sequence[list[Pair]], options: ResultOptions, model: Model, console: Console
) -> None:
    """Print the matches, of named queries or for programs, or else how many labels agree."""
    if options.json:
        columns = ("query", "match", "similarity", "rank", "query_label", "match_label")
        for pair in itertools.chain.from_iterable(rows):
            print(json.dumps({column: getattr(pair, column) for column in columns}))
    elif options.named:
        print_matches(rows)
    else:
        console.say(title_of(rows, model))


def print_matches(rows: Iterable[Sequence[Pair]]) -> None:
    """Print each query's matches for people."""
    for row in rows:
        print(printable(row[0].query))
        for pair in row:
            label = f"  ({printable(pair.match_label)})" if pair.match_label else ""
            print(f"  {pair.rank}  {pair.similarity:.4f}  {printable(pair.match)}{label}")


def add_result_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ResultOptions, and --json."""
    add_number(parser, "--pairs", 1, 100, 10, "pairs in the comparison picture")
    add_seed_option(parser, "seed of the random choice of those pairs")
    parser.add_argument(
        "--output",
        type=path_of,
        default=Path("results"),
        metavar="DIR",
        help="folder to write to (default: results)",
    )
    parser.add_argument(
        "--no-near-duplicates",
        dest="near_duplicates",
        action="store_false",
        help="do not compare the pixels of each pair: faster for very many pairs",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per match, and nothing else"
    )
