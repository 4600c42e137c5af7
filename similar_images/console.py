"""Terminal output and exit status: lines, progress bars, errors.

Whatever is printed here is escaped here: no text can control the terminal or begin a line.
"""

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from tqdm import tqdm

from similar_images import __version__, interrupts
from similar_images.text import printable

LINE_SECONDS = 60  # between two progress lines where stderr is not a terminal
UNKNOWN_SECONDS = 2  # after which a bar without a total appears: most such work is short
GC_THRESHOLD = 100_000  # with Python's far lower default, imports take longer
RUN_AGAIN = "run it again"
CLOSED_PIPE = 141  # a status, as a shell reports it
SET_UTF8 = "set PYTHONUTF8=1, or a locale with UTF-8"
CHECK_DISK = "check that path, its permissions and the free space"


def escaped(text: str) -> str:
    r"""Return text as one line that cannot control a terminal.

    Each character is escaped by itself. A backslash therefore stays a backslash, and text that
    is already escaped does not change.

    >>> escaped("a\u2028b"), escaped(escaped("a\u2028b"))
    ('a\\u2028b', 'a\\u2028b')
    """
    return "".join(map(printable, text))


class _Lines:
    """A file for tqdm where stderr is not a terminal: each state is a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)


class Progress(tqdm):  # type: ignore[misc]
    """A progress bar on a terminal; elsewhere a plain line about once a minute.

    Where several processes share a terminal, prefix names this one, and row is its bar's place.
    """

    def __init__(
        self, unit: str, total: int | None, quiet: bool, prefix: str = "", row: int = 0
    ) -> None:
        look: dict[str, object] = {"delay": UNKNOWN_SECONDS if total is None else 0}
        if not sys.stderr.isatty():
            look = {"file": _Lines(), "ncols": 0, "leave": False, "delay": LINE_SECONDS}
            look["mininterval"] = LINE_SECONDS
        hidden = quiet or total in (0, 1)
        name, place = prefix.rstrip(": "), row or None
        super().__init__(
            None, name, total, unit=f" {unit}", disable=hidden, position=place, miniters=1, **look
        )


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
    tqdm.write(f"warning: {escaped(text)}", file=sys.stderr)


def status_of(
    work: Callable[[], None],
    expected: tuple[type[Exception], ...],
    interrupted: str | Callable[[], str],
    prefix: str = "",
) -> int:
    """Run a script's work and return its exit status: 0, 1, 130 (Ctrl-C) or 141 (closed pipe).

    expected: exceptions that the user can do something about; they and OSError are printed in one
    line, after prefix. Any other exception is a bug and keeps its
    traceback. interrupted: printed after Ctrl-C; it says what is kept and what to run.
    """
    interrupts.raise_once()
    _open_closed_streams()
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
        message = f"{error}; {CHECK_DISK}"
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        if encoding == "utf-8":
            raise
        message = (
            f"{error.object} is no file name in the locale's encoding ({encoding}); {SET_UTF8}"
        )
    except KeyboardInterrupt:
        left = interrupted if isinstance(interrupted, str) else interrupted()
        print(f"interrupted: {escaped(left)}", file=sys.stderr)
        return interrupts.STATUS
    else:
        return 0
    print(f"error: {escaped(prefix + message)}", file=sys.stderr)
    return 1


def leave(status: int) -> NoReturn:
    """End the process; after a failure do not wait for a request that is never answered.

    Otherwise wait for worker processes: one that is still starting would print a traceback.
    """
    interrupts.end_at_once()
    sys.stdout.flush()
    sys.stderr.flush()
    if status in (0, CLOSED_PIPE):
        sys.exit(status)
    os._exit(status)


def _open_closed_streams() -> None:
    """Let what is printed to a stream that the shell has closed (`>&-`) be lost.

    In the order of their numbers: else the next file that is opened would get such a number, and
    what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


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
    text = "print results, warnings and errors only; no progress bars"
    parser.add_argument("--quiet", action="store_true", help=text)


def add_exclude_option(parser: argparse.ArgumentParser) -> None:
    """Add --exclude."""
    text = (
        "leave out files and folders of this name, or of names like '*.tif', in upper or lower "
        "case; repeatable; so are folders of thumbnails, trash and snapshots (@eaDir, #recycle, …: "
        "see README.md) unless '' is given, and hidden ones always "
        "(default: as in the collection's last load)"
    )
    parser.add_argument("--exclude", action="append", type=folder_entry, metavar="NAME", help=text)


def folder_entry(text: str) -> str:
    """Return the name, or a glob, of what a folder holds; an argparse type.

    >>> folder_entry("drafts"), folder_entry("")
    ('drafts', '')
    """
    name = text.removesuffix(os.sep) or text
    if "/" in name or os.sep in name:
        raise argparse.ArgumentTypeError(f"{text} is a path; give the name alone")
    name.encode()  # a ValueError if it is not UTF-8, as Milvus asks
    return name


def nonempty(text: str) -> str:
    """Return text that is not empty, as an unset variable is; an argparse type."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def path_of(text: str) -> Path:
    """Return a path; an argparse type. Path("") would be the current folder."""
    return Path(nonempty(text))


def add_labels_option(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add --labels; folder: the option that names the folder of images."""
    parser.add_argument(
        "--labels",
        type=path_of,
        metavar="FILE",
        help="CSV or TSV with a header, the columns path (or file_name, filename, image), relative "
        f"to {folder}, and label (default: the first folder's name is the label)",
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


def add_number(
    parser: argparse.ArgumentParser, option: str, least: int, most: int, default: int, text: str
) -> None:
    """Add an option that is a whole number, and its help: the text and the default."""
    text += f" (default: {default})"
    number = whole_number(least, most)
    parser.add_argument(option, type=number, default=default, metavar="N", help=text)


def add_seed_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Add --seed."""
    add_number(parser, "--seed", 0, 2**32 - 1, 42, text)


Options = TypeVar("Options")


def options_from(kind: type[Options], args: argparse.Namespace) -> Options:
    """Return a dataclass of options, each read from the argument of the same name."""
    return kind(**{name: getattr(args, name) for name in kind.__annotations__})


QUIET = Console(quiet=True)  # for callers that show no progress
