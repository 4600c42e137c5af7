"""What the benchmarks share: options, images, times and memory, tables, the machine in words."""

import argparse
import contextlib
import importlib.metadata
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from similar_images.console import status_of, whole_number
from similar_images.images.decode_workers import Batch, core_count
from similar_images.images.decoding import Decoded, decode
from similar_images.images.image_files import ImageError, Listing, check_folder, iter_images
from similar_images.milvus.client import CollectionError
from similar_images.network.model_description import ModelError
from similar_images.splitting.split import ImageSetError

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "numpy",
    "Pillow",
    "pymilvus",
    "milvus-lite",
)
MANY = 10**6  # images: an embedder for a long run
Figures = dict[str, list[float] | float]  # the values of several runs, or of a single one

# --- Options -------------------------------------------------------------------------------------


def measured(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    run: Callable[[argparse.Namespace], None],
) -> int:
    """Run a benchmark with the command line's options; return its exit status."""
    args = parser.parse_args(argv)
    errors = (CollectionError, ImageError, ImageSetError, ModelError)
    return status_of(lambda: run(args), errors, "run it again")


def add_number(parser: argparse.ArgumentParser, option: str, default: int, meaning: str) -> None:
    """Add an option that takes a whole number from 1 on."""
    words = f"{meaning} (default: {default})"
    number = whole_number(1, 10**9)
    parser.add_argument(option, type=number, default=default, metavar="N", help=words)


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add --images and --queries."""
    for name, default in (("images", "database_set"), ("queries", "query_set")):
        words = f"default: {default}"
        parser.add_argument(f"--{name}", type=Path, default=default, metavar="DIR", help=words)


def image_paths(root: Path, option: str) -> list[str]:
    """Return the paths of a folder's images, sorted; ImageError if it is no folder or has none.

    option: how another folder is chosen, such as --images.
    """
    check_folder(root, option)
    paths = sorted(image.path for image in iter_images(root, Listing()))
    if not paths:
        raise ImageError(f"{root} holds no images; choose {option}")
    return paths


def read(root: Path, path: str, least_side: int | None = None) -> Decoded:
    """Return what decode() returns; its ImageError names the file."""
    try:
        return decode(root, path, least_side)
    except ImageError as error:
        raise ImageError(f"cannot use {root / path}: {error}; move it away") from error


def complete(root: Path, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches of a folder; ImageError names an image that was skipped."""
    for batch in batches:
        for path, reason, _ in batch.skipped:
            raise ImageError(f"cannot use {root / path}: {reason}; move it away")
        yield batch


# --- Words ---------------------------------------------------------------------------------------


def say(*words: object) -> None:
    """Print what is being measured, with the time, on stderr."""
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def in_words(figure: float) -> str:
    """Return a figure with four digits.

    A whole or large number has all its digits before the point, a cosine that is almost 1 six.
    """
    if figure >= 1000 or figure == round(figure):
        return f"{figure:,.0f}"
    return f"{figure:,.6f}" if 0.999 < figure < 1 else f"{figure:,.4g}"


def table_of_figures(figures: Mapping[str, list[float] | float]) -> str:
    """Return figures as a Markdown table: each with the number of runs that it comes from."""
    rows = []
    for name, figure in figures.items():
        runs = figure if isinstance(figure, list) else [figure]
        spread = [in_words(min(runs)), in_words(max(runs))] if len(runs) > 1 else ["", ""]
        rows.append([name, in_words(statistics.median(runs)), *spread, str(len(runs))])
    return table(["figure", "value", "least", "most", "runs"], rows)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def conditions() -> str:
    """Return the date, the hardware and the versions that figures are measured with."""
    import torch  # slow, and decode workers import this module as they start

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    types = [k for k, v in torch.cpu.get_capabilities().items() if v is True and "bf16" in k]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    return (
        f"{datetime.now(UTC).date()}, {core_count()} cores of {[*names, platform.processor()][0]} "
        f"({', '.join(sorted(types)) or 'no bfloat16'}){gpu}, {platform.system()} "
        f"{platform.machine()}, {', '.join(versions)}"
    )


# --- Times and memory ----------------------------------------------------------------------------


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Rows:
    """Counts upserted rows, as a progress bar does, and keeps when they were counted."""

    def __init__(self) -> None:
        self.counted = [(time.perf_counter(), 0)]

    def update(self, count: int) -> None:
        """Count this many more."""
        self.counted.append((time.perf_counter(), self.counted[-1][1] + count))

    def rate(self, warm_up: int) -> float:
        """Return the rows/s after the first warm_up rows."""
        counted = self.counted
        begin = next((row for row in counted[:-1] if row[1] > warm_up), counted[0])
        return (counted[-1][1] - begin[1]) / (counted[-1][0] - begin[0])


class Run(NamedTuple):
    """What a script took; both peaks are in MiB, 0 except on Linux.

    peak_of_all: the sum of the peaks of the script and its decode workers, which may share memory.
    """

    seconds: float
    peak: float
    peak_of_all: float


def run_script(script: str, *arguments: object, cwd: Path) -> Run:
    """Run a script of the project; ImageError with its error, RuntimeError if it has none."""
    command = [sys.executable, str(PROJECT / script), *map(str, arguments)]
    peaks: dict[int, float] = {}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            for pid in (process.pid, *children(process.pid)):
                peaks[pid] = max(peaks.get(pid, 0), peak_memory(pid))
            time.sleep(0.02)
        taken = time.perf_counter() - start
        if process.returncode:
            output.seek(0)
            _, error, printed = f"\n{output.read()}".rpartition("\nerror: ")
            if error:
                raise ImageError(printed.strip())
            raise RuntimeError(f"{' '.join(command)} failed:\n{printed}")
    return Run(taken, peaks.get(process.pid, 0), sum(peaks.values()))


def peak_memory(pid: int) -> float:
    """Return a process's peak resident memory in MiB so far; 0 except on Linux."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 1024 if lines else 0


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run (Linux)."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += map(int, file.read_text().split())
    return found
