"""What a query run leaves: its title, its files, its matches on the terminal."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from similar_images.console import whole_number
from similar_images.matching.near_duplicates import find_near_duplicates, near_duplicates_text
from similar_images.matching.pairs import Pair, Summary, choose_rows, pairings_text
from similar_images.matching.second_look import second_looks
from similar_images.network.model_description import Model
from similar_images.results.comparison_picture import picture_bytes
from similar_images.results.gallery import gallery
from similar_images.results.observations import report
from similar_images.text import counted, printable, share


@dataclass(frozen=True)
class ResultOptions:
    """What is written, and where, as the command line says it."""

    folder: Path
    pairs: int  # in the picture
    seed: int  # of their choice
    picture_alone: bool  # of images that were named: all of them, as they were named


def title_of(rows: Sequence[list[Pair]], model: Model) -> str:
    """Return the picture's title: how many queries, which model, how many labels agree."""
    queries = counted(len(rows), "query", "queries")
    title = f"{queries}, nearest by {model.architecture} ({Path(model.weights).name} weights)"
    same = [row[0].same_label for row in rows]
    if None not in same:
        title += f": {share(sum(map(bool, same)), len(rows))} share the label"
    return title


def files_of(
    rows: Sequence[list[Pair]], summary: Summary, title: str, options: ResultOptions
) -> dict[Path, bytes]:
    """Return what is to be written: the file → its content.

    rows: each query's pairs, nearest first.
    """
    if options.picture_alone:
        return {options.folder / "comparison.png": picture_bytes(rows[: options.pairs], title)}
    pairs = [pair for row in rows for pair in row]
    drawn = choose_rows(rows, options.pairs, options.seed)
    shown = [pair for row in drawn for pair in row]
    near, second = find_near_duplicates(pairs), second_looks(pairs)
    texts = {
        "pairings.txt": pairings_text(pairs),
        "near_duplicates.txt": near_duplicates_text(near),
        "observations.md": report(pairs, shown, near, second, summary),
        "gallery.html": gallery(pairs, shown, near, second, summary, title),
    }
    files = {options.folder / name: text.encode() for name, text in texts.items()}
    return {**files, options.folder / "comparison.png": picture_bytes(drawn, title)}


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


def add_result_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is written, and where."""
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
        "--output",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder to write to (default: results)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print each match as a JSON object, and nothing else"
    )


def result_options(args: argparse.Namespace) -> ResultOptions:
    """Return what add_result_options() has read."""
    return ResultOptions(args.output, args.pairs, args.seed, picture_alone=bool(args.images))
