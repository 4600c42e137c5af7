"""What the scripts' command lines have in common: lines, bars, colours, errors, numbers."""

import argparse
import os
import sys
from collections.abc import Callable

from tqdm import tqdm

RED, YELLOW, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[0m"


class Console:
    """Says what goes on: lines on stdout, bars and warnings on stderr."""

    def __init__(self, quiet: bool = False, results_only: bool = False) -> None:
        """Say nothing of what goes well if quiet; keep stdout for results if results_only."""
        self.quiet = quiet
        self._out = sys.stderr if results_only else sys.stdout

    def say(self, text: str) -> None:
        """Print a line of what goes on."""
        if not self.quiet:
            print(text, file=self._out, flush=True)

    def trouble(self, text: str) -> None:
        """Print a line of what went wrong on the way; if quiet, on stderr."""
        print(text, file=sys.stderr if self.quiet else self._out, flush=True)

    def bar(self, unit: str, total: int | None = None) -> "tqdm[None]":
        """Return a progress bar with rate and time left; on a terminal only, and not for one."""
        hidden = self.quiet or total == 1
        return tqdm(total=total, unit=f" {unit}", disable=True if hidden else None)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    tqdm.write(f"{_coloured('warning:', YELLOW)} {text}", file=sys.stderr)


def _coloured(word: str, colour: str) -> str:
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        return f"{colour}{word}{PLAIN}"
    return word


def status_of(
    work: Callable[[], None],
    expected: tuple[type[Exception], ...],
    interrupted: str,
    prefix: str = "",
) -> int:
    """Do a script's work; return its exit status: 0, 1 with an error in one line, or 130.

    expected: what the user can mend; what the system refuses is expected too. interrupted: what
    a Ctrl-C leaves behind. Any other exception is a bug, and keeps its traceback.
    """
    try:
        work()
    except expected as error:
        message = str(error)
    except OSError as error:
        message = f"{error}; make room or choose another folder"
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return 130
    else:
        return 0
    print(f"{_coloured('error:', RED)} {prefix}{message}", file=sys.stderr)
    return 1


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> counted(1, "pair"), counted(2000, "pair"), counted(0, "query", "queries")
    ('1 pair', '2,000 pairs', '0 queries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """Add --quiet."""
    parser.add_argument(
        "--quiet", action="store_true", help="print results, warnings and errors only; no bars"
    )


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a type for argparse that takes the whole numbers from minimum to maximum.

    >>> whole_number(1, 10)("7")
    7
    """

    def whole(text: str) -> int:
        value = int(text)
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{text} is not from {minimum} to {maximum}")
        return value

    whole.__name__ = "whole number"
    return whole
