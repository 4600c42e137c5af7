"""Terminal output and exit status: lines, progress bars, colours, errors.

Whatever is printed here is escaped here: no text can control the terminal or begin a line.
"""

import argparse
import atexit
import errno
import gc
import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, NoReturn, TypeVar

from tqdm import tqdm

from similar_images import __version__
from similar_images.text import printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RED, YELLOW, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[0m"
LINE_SECONDS = 60  # between two progress lines where stderr is not a terminal
UNKNOWN_SECONDS = 2  # after which a bar without a total appears: most such work is short
GC_THRESHOLD = 100_000  # with Python's far lower default, imports take longer
CLOSED_PIPE = 141  # as a shell reports a program that wrote into a closed pipe
RUN_AGAIN = "run it again"
# Advice on an error of the operating system, by its number.
SYSTEM_ADVICE = {
    code: advice
    for advice, codes in {
        "make room or choose another folder": (errno.ENOSPC, errno.EDQUOT),
        "check the permissions or choose another folder": (errno.EACCES, errno.EPERM),
        "choose a folder that can be written to": (errno.EROFS,),
        "check that path": (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),
        "choose another path": (errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    }.items()
    for code in codes
}


def escaped(text: str) -> str:
    r"""Return text as one line that cannot control a terminal.

    Each character is escaped by itself. A backslash therefore stays a backslash, and text that
    is already escaped does not change.

    >>> escaped("a\u2028b"), escaped(escaped("a\u2028b"))
    ('a\\u2028b', 'a\\u2028b')
    """
    return "".join(map(printable, text))


class Progress:
    """A progress bar on a terminal; elsewhere a plain line about once a minute.

    A context manager. Where several processes share a terminal, prefix names this one, and row is
    the place of its bar.
    """

    def __init__(
        self, unit: str, total: int | None, quiet: bool, prefix: str = "", row: int = 0
    ) -> None:
        self.n = 0
        self._prefix = prefix
        self._unit = unit
        self.total = total
        self._lines = not quiet and not sys.stderr.isatty()
        hidden = quiet or self._lines or total in (0, 1)
        self._bar: tqdm[None] = tqdm(
            desc=prefix.rstrip(": "),
            total=total,
            unit=f" {unit}",
            delay=UNKNOWN_SECONDS if total is None else 0,
            disable=hidden,
            position=row or None,
        )
        self._start = self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._bar.close()

    def update(self, count: int) -> None:
        """Add to the number of units done."""
        self.n += count
        self._bar.total = self.total
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._last >= LINE_SECONDS:
            self._last = now
            tqdm.write(self._line(now - self._start), file=sys.stderr)  # locked: never in mid-line

    def _line(self, seconds: float) -> str:
        rate, of, left = self.n / seconds, "", ""
        if self.total and rate:
            of = f" of {self.total:,}"
            left = f", about {max(self.total - self.n, 0) / rate / 60:.0f} min left"
        return f"{self._prefix}{self.n:,}{of} {self._unit}, {rate:.1f} {self._unit}/s{left}"


class Console:
    """Reports progress: lines on stdout, progress bars and warnings on stderr."""

    def __init__(self, quiet: bool = False, results_only: bool = False) -> None:
        """Create a console.

        quiet: print problems only, on stderr. results_only: print on stderr, since stdout is for
        results that another program reads.
        """
        self.quiet = quiet
        self._out = sys.stderr if results_only else sys.stdout

    def say(self, text: str) -> None:
        """Print a line, unless quiet."""
        if not self.quiet:
            print(escaped(text), file=self._out, flush=True)

    def trouble(self, text: str) -> None:
        """Print a line about a problem that does not end the run; if quiet, on stderr."""
        print(escaped(text), file=sys.stderr if self.quiet else self._out, flush=True)

    def progress(
        self, unit: str, total: int | None = None, prefix: str = "", row: int = 0
    ) -> Progress:
        """Return a progress bar, see Progress; unit: a plural noun."""
        return Progress(unit, total, self.quiet, prefix, row)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    tqdm.write(f"{_coloured('warning:', YELLOW)} {escaped(text)}", file=sys.stderr)


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
    """Run a script's work and return its exit status: 0, 1, 130 (Ctrl-C) or 141 (closed pipe).

    expected: exceptions that the user can do something about; like those of the operating system
    they are printed in one line, after prefix. Any other exception is a bug and keeps its
    traceback. interrupted: printed after Ctrl-C; it says what is kept and what to run.
    """
    gc.set_threshold(GC_THRESHOLD)
    atexit.register(_leave_garbage)
    for stream in (sys.stdout, sys.stderr):  # a path may hold characters that its encoding lacks
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        work()
        sys.stdout.flush()
    except expected as error:
        message = str(error)
    except BrokenPipeError:  # the reader has ended, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:
        message = f"{error}; {SYSTEM_ADVICE.get(error.errno or 0, RUN_AGAIN)}"
    except KeyboardInterrupt:
        left = interrupted if isinstance(interrupted, str) else interrupted()
        print(f"interrupted: {escaped(left)}", file=sys.stderr)
        return 130
    else:
        return 0
    print(f"{_coloured('error:', RED)} {escaped(prefix + message)}", file=sys.stderr)
    return 1


def leave(status: int) -> NoReturn:
    """End the process; after a failure do not wait for a request that is never answered."""
    sys.stdout.flush()
    sys.stderr.flush()
    if status:
        os._exit(status)
    sys.exit(0)


def _leave_garbage() -> None:
    """Skip the garbage collection at the end of the process, which takes a tenth of a second.

    Not with torch: libraries that it loads then report leaked objects.
    """
    if "torch" not in sys.modules:
        gc.freeze()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))  # a file name can begin like an option


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the script's docstring, unchanged."""
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    version = f"similar-images {__version__}"
    parser.add_argument("--version", action="version", version=version)
    return parser


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """Add --quiet."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print results, warnings and errors only; no progress bars",
    )


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return an argparse type: the whole numbers from minimum to maximum.

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
    """Return an argparse type: the numbers strictly between least and most."""

    def number(text: str) -> float:
        value = float(text)
        if not least < value < most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number


Options = TypeVar("Options", bound="DataclassInstance")


def options_from(kind: type[Options], args: argparse.Namespace) -> Options:
    """Return a dataclass of options, each read from the argument of the same name."""
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})


QUIET = Console(quiet=True)  # for callers that show no progress
