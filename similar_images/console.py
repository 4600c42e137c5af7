"""What a command line says and how it ends: lines, bars, colours, exit status."""

import argparse
import atexit
import gc
import os
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

RED, YELLOW, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[0m"
LINE_SECONDS = 60  # between the lines that say where a run is, where there is no terminal
GARBAGE = 100_000  # new objects between two looks for cycles: with Python's 700 imports take longer
CLOSED_PIPE = 141  # what a shell reports of a program that wrote into a closed pipe


class Progress:
    """Counts what is done: a bar on a terminal, elsewhere a plain line about once a minute.

    A context manager. `total` may be set, and corrected, while it runs.
    """

    def __init__(self, unit: str, total: int | None, quiet: bool) -> None:
        self.n = 0
        self._unit = unit
        self._total = total
        self._lines = not quiet and not sys.stderr.isatty()
        hidden = quiet or self._lines or total == 1
        self._bar: tqdm[None] = tqdm(total=total, unit=f" {unit}", disable=hidden)
        self._start = self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._bar.close()

    @property
    def total(self) -> int | None:
        """How many there are, if that is known."""
        return self._total

    @total.setter
    def total(self, total: int | None) -> None:
        self._total = self._bar.total = total

    def update(self, count: int) -> None:
        """Count so many more."""
        self.n += count
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._last >= LINE_SECONDS:
            self._last = now
            tqdm.write(self._line(now - self._start), file=sys.stderr)  # not into a warning

    def _line(self, seconds: float) -> str:
        of = f" of {self._total:,}" if self._total else ""
        rate = self.n / seconds
        left = ""
        if self._total and rate:
            left = f", about {max(self._total - self.n, 0) / rate / 60:.0f} min left"
        return f"{self.n:,}{of} {self._unit}, {rate:.1f} {self._unit}/s{left}"


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

    def progress(self, unit: str, total: int | None = None) -> Progress:
        """Return what counts so many of the unit, with rate and time left."""
        return Progress(unit, total, self.quiet)


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
    interrupted: str | Callable[[], str],
    prefix: str = "",
) -> int:
    """Do a script's work; return its exit status: 0, 1 with an error in one line, 130 or 141.

    expected: what the user can mend; what the system refuses is expected too. interrupted: what
    a Ctrl-C leaves behind. Any other exception is a bug, and keeps its traceback.
    """
    gc.set_threshold(GARBAGE)
    atexit.register(_leave_garbage)
    for stream in (sys.stdout, sys.stderr):  # a path may hold letters that the stream lacks
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        work()
        sys.stdout.flush()
    except expected as error:
        message = str(error)
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:
        message = f"{error}; make room or choose another folder"
    except KeyboardInterrupt:
        left = interrupted if isinstance(interrupted, str) else interrupted()
        print(f"interrupted: {left}", file=sys.stderr)
        return 130
    else:
        return 0
    print(f"{_coloured('error:', RED)} {prefix}{message}", file=sys.stderr)
    return 1


def _leave_garbage() -> None:
    """Keep the collector from going through all modules once more when the process ends.

    Where torch was imported it has to: what torch brings along complains of what is left.
    """
    if "torch" not in sys.modules:
        gc.freeze()


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the script's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


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


def number_between(least: float, most: float) -> Callable[[str], float]:
    """Return a type for argparse that takes the numbers strictly between least and most."""

    def number(text: str) -> float:
        value = float(text)
        if not least < value < most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number


QUIET = Console(quiet=True)  # for callers that show no progress
