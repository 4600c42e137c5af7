"""What the benchmarks share: images, times and memory, tables, a description of the machine."""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from similar_images.images.decode_workers import core_count
from similar_images.images.image_files import ImageError, Listing, check_folder, iter_images
from similar_images.whole_files import write_together

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


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def say(*words: object) -> None:
    """Print what is being measured, with the time, on stderr."""
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def image_paths(root: Path, option: str) -> list[str]:
    """Return the paths of a folder's images, sorted; ImageError if it is no folder or has none.

    option: how another folder is chosen, such as --images.
    """
    check_folder(root, option)
    paths = sorted(image.path for image in iter_images(root, Listing()))
    if not paths:
        raise ImageError(f"{root} holds no images; choose {option}")
    return paths


def in_words(figure: float) -> str:
    """Return a figure with four digits.

    A whole or large number has all its digits before the point, a cosine that is almost 1 six.
    """
    if figure >= 1000 or figure == round(figure):
        return f"{figure:,.0f}"
    return f"{figure:,.6f}" if 0.999 < figure < 1 else f"{figure:,.4g}"


def table_of_figures(figures: Mapping[str, list[float] | float]) -> str:
    """Return figures as a Markdown table: each with the number of runs that it comes from.

    A list holds the values of several runs, a number is the result of a single one.
    """
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


def machine() -> str:
    """Return the hardware and the versions that figures were measured with."""
    import torch  # slow, and decode workers import this module as they start

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    types = [k for k, v in torch.cpu.get_capabilities().items() if v is True and "bf16" in k]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    memory = ""
    if hasattr(os, "sysconf"):  # Windows lacks it
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = f", {round(size / 2**30)} GiB"
    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    return (
        f"{core_count()} cores of {[*names, platform.processor()][0]} "
        f"({', '.join(sorted(types)) or 'no bfloat16'}){gpu}{memory}, {platform.system()} "
        f"{platform.machine()}, {', '.join(versions)}"
    )


def write_results(folder: Path, name: str, results: Mapping[str, Any], text: str) -> None:
    """Write figures as folder/name.json and a reader's text of them as folder/name.md."""
    content = json.dumps(results, indent=1) + "\n"
    write_together(
        {folder / f"{name}.json": content.encode(), folder / f"{name}.md": text.encode()}
    )


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """Add --output."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent,
        metavar="DIR",
        help="default: benchmarks",
    )


def add_parts_option(parser: argparse.ArgumentParser, parts: Iterable[str]) -> None:
    """Add --parts, which chooses some of them."""
    names = list(parts)
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="default: all")


def conditions(**others: object) -> dict[str, Any]:
    """Return what results begin with: the date, the machine, and whatever else they depend on."""
    return {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), **others}


def run_script(
    script: str, *arguments: object, cwd: Path, memory: Callable[[int], float] | None = None
) -> tuple[float, float]:
    """Run a script of the project; return its seconds and its peak memory in MiB.

    memory: returns the MiB of a process; by default the peak of the process alone, without its
    decode workers: see peak_memory(). Raises RuntimeError with what the script printed if it fails.
    """
    memory = memory or peak_memory
    command = [sys.executable, str(PROJECT / script), *map(str, arguments)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.02)
        taken = time.perf_counter() - start
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{output.read()}")
    return taken, peak


def peak_memory(pid: int) -> float:
    """Return a process's peak resident memory in MiB so far; 0 except on Linux."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 1024 if lines else 0


class TreeMemory:
    """The memory of a process and those that it has started, such as decode workers.

    Called with the process's number again and again while it runs, it returns the sum of each
    process's peak so far in MiB (Linux). What they share is counted in each of them.
    """

    def __init__(self) -> None:
        self.peaks: dict[int, float] = {}

    def __call__(self, pid: int) -> float:
        """Return the sum of the peaks so far."""
        for process in (pid, *children(pid)):
            self.peaks[process] = max(self.peaks.get(process, 0), peak_memory(process))
        return sum(self.peaks.values())


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run (Linux)."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += map(int, file.read_text().split())
    return found


def nearest(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Return each query's nearest row, exactly: (N, D), (M, D) float32 → (N,) int64."""
    chunks = [(queries[i : i + 500] @ database.T).argmax(1) for i in range(0, len(queries), 500)]
    return np.concatenate(chunks)


def agreement(
    reference: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    labels: tuple[Sequence[str], Sequence[str]],
) -> dict[str, float]:
    """Return how far the matches of `other` agree with those of the reference.

    Each is (queries, database), (N, D) and (M, D) float32 of unit length; labels likewise.
    The similarity lost is that of the reference's match less that of the other's, both by the
    reference's vectors.
    """
    queries, database = reference
    best, found = nearest(queries, database), nearest(*other)
    similarity = [np.einsum("ij,ij->i", queries, database[rows]) for rows in (best, found)]
    lost = similarity[0] - similarity[1]
    cosines = [np.einsum("ij,ij->i", a, b) for a, b in zip(reference, other, strict=True)]
    query_labels, database_labels = (np.array(names) for names in labels)
    return {
        "queries": len(queries),
        "database images": len(database),
        "least cosine": float(min(c.min() for c in cosines)),
        "equal nearest matches": float((best == found).mean()),
        "similarity lost, mean": float(lost.mean()),
        "similarity lost, most": float(lost.max()),
        "share of equal labels, float32": float((query_labels == database_labels[best]).mean()),
        "share of equal labels, this precision": float(
            (query_labels == database_labels[found]).mean()
        ),
    }
