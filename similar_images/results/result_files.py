"""Write the results of a query run: its title, its files, its matches on the terminal."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from similar_images.console import Console, warn, whole_number
from similar_images.images.reduction_store import ReductionStore
from similar_images.matching.findings import Findings
from similar_images.matching.pairs import Pair, Summary, choose_rows, nearest
from similar_images.network.model_description import Model
from similar_images.results.comparison_picture import picture_bytes
from similar_images.results.gallery import gallery
from similar_images.results.observations import report
from similar_images.results.tables import (
    groups_text,
    label_issues_text,
    near_duplicates_text,
    pairings_text,
)
from similar_images.text import counted, printable, share


@dataclass(frozen=True)
class ResultOptions:
    """What is written, and where."""

    folder: Path
    pairs: int  # in the image
    seed: int  # of their random choice
    near_duplicates: bool  # whether images are compared
    named: bool  # the queries were named one by one: the first are in the image, the only file

    @property
    def picture(self) -> Path:
        """Where the image is written; that of named queries replaces no file of a folder's."""
        return self.folder / ("named_comparison.png" if self.named else "comparison.png")


def title_of(rows: Sequence[list[Pair]], model: Model) -> str:
    """Return the image's title: how many queries, which model, how many labels agree."""
    queries = counted(len(rows), "query", "queries")
    title = f"{queries}, nearest by {model.architecture} ({Path(model.weights).name} weights)"
    same = [row[0].same_label for row in rows]
    if None not in same:
        title += f": {share(sum(map(bool, same)), len(rows))} share the label"
    return title


def files_of(
    rows: Sequence[list[Pair]],
    findings: Findings,
    summary: Summary,
    title: str,
    options: ResultOptions,
    reductions: ReductionStore,
    console: Console,
) -> Mapping[Path, bytes | Iterable[str]]:
    """Return the files to write, with their contents.

    rows: each query's pairs, nearest first.
    """
    drawn_rows = choose_rows(rows, options.pairs, options.seed)
    drawn = nearest(drawn_rows)
    page = gallery(nearest(rows), drawn, findings, summary, title, reductions, console)
    return {
        options.folder / "pairings.txt": pairings_text(rows),
        options.folder / "near_duplicates.txt": near_duplicates_text(findings.near),
        options.folder / "duplicate_groups.txt": groups_text(findings.groups),
        options.folder / "label_issues.txt": label_issues_text(findings.issues),
        options.folder / "observations.md": [report(rows, drawn, findings, summary)],
        options.folder / "gallery.html": [page],
        options.picture: picture_bytes(drawn_rows, title, reductions, console),
    }


def files_of_named(
    rows: Sequence[list[Pair]],
    title: str,
    options: ResultOptions,
    reductions: ReductionStore,
    console: Console,
) -> Mapping[Path, bytes]:
    """Return the only file of queries that were named one by one: an image of the first ones."""
    if len(rows) > options.pairs:
        queries = counted(len(rows), "query", "queries")
        console.say(f"The image shows the first {options.pairs} of {queries}; see --pairs")
    return {options.picture: picture_bytes(rows[: options.pairs], title, reductions, console)}


def warn_if_not_compared(summary: Summary) -> None:
    """Warn that images of some pairs could not be compared."""
    if summary.compares and summary.not_compared:
        warn(
            f"{summary.not_compared:,} of {counted(summary.pairs, 'pair')} could not be checked "
            "for near-duplicates: an image can't be read, or may not be opened; name the folder of "
            "the collection's images with --collection-images"
        )


def print_matches(rows: Iterable[Sequence[Pair]]) -> None:
    """Print each query's matches for people."""
    for row in rows:
        print(printable(row[0].query))
        for pair in row:
            label = f"  ({printable(pair.match_label)})" if pair.match_label else ""
            print(f"  {pair.rank}  {pair.similarity:.4f}  {printable(pair.match)}{label}")


def print_json(rows: Iterable[Sequence[Pair]]) -> None:
    """Print each match for programs: one JSON object per line."""
    columns = ("query", "match", "similarity", "rank", "query_label", "match_label")
    for row in rows:
        for pair in row:
            print(json.dumps({column: getattr(pair, column) for column in columns}))


def add_result_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ResultOptions, and --json."""
    parser.add_argument(
        "--pairs",
        type=whole_number(1, 100),
        default=10,
        metavar="N",
        help="pairs in the image (default: 10)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=42,
        metavar="N",
        help="seed of the random choice of those pairs (default: 42)",
    )
    parser.add_argument(
        "--output",
        type=Path,
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


def result_options(args: argparse.Namespace) -> ResultOptions:
    """Return what add_result_options() has read."""
    return ResultOptions(
        folder=args.output,
        pairs=args.pairs,
        seed=args.seed,
        near_duplicates=args.near_duplicates,
        named=bool(args.images),
    )
