"""What every benchmark needs: the machine's limit, the machine in words, figures in words."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from similar_images.network.embedding import core_count

GFLOP_PER_IMAGE = 3.64  # ResNet18 at 224×224: 1.82 G multiplications, each with its addition
MATRICES = (1024, 4096)  # sides of the matrix products; the better one is the limit
PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "openvino", "numpy", "Pillow", "pymilvus", "milvus-lite")


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def matrix_limit(precision: str, device: str = "cpu") -> float:
    """Return what torch's matrix product reaches now, as ResNet18 images/s: a yardstick.

    A network that multiplies less (Winograd's algorithm), or whose matrices fit the caches
    better, can exceed it.
    """
    rates = []
    for side in MATRICES:
        matrix = torch.randn(side, side, device=device).to(getattr(torch, precision))
        torch.mm(matrix, matrix)
        times = max(3, 3 * MATRICES[-1] ** 3 // side**3 // 4)

        def products(matrix: torch.Tensor = matrix, times: int = times) -> None:
            for _ in range(times):
                product = torch.mm(matrix, matrix)
            float(product[0, 0])  # waits for a GPU

        rates.append(times * 2 * side**3 / 1e9 / seconds(products) / GFLOP_PER_IMAGE)
    return max(rates)


def in_words(figure: list[float] | float) -> str:
    """Return a figure with four digits, repetitions of one as 'median (least to most)'.

    What is whole or large has all its digits before the point, a cosine that is almost 1 six.
    """
    if isinstance(figure, list):
        median, least, most = map(in_words, (statistics.median(figure), min(figure), max(figure)))
        return f"{median} ({least} to {most})"
    if figure >= 1000 or figure == round(figure):
        return f"{figure:,.0f}"
    return f"{figure:,.6f}" if 0.999 < figure < 1 else f"{figure:,.4g}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def machine() -> str:
    """Return the hardware and the versions that figures belong to, as a sentence begins."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    types = [k for k, v in torch.cpu.get_capabilities().items() if v is True and "bf16" in k]
    memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"{core_count()} cores of {[*names, platform.processor()][0]} "
        f"({', '.join(sorted(types)) or 'no bfloat16'}){gpu}, {memory} GiB, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, {packages}"
    )


def run_script(script: str, *arguments: object, cwd: Path) -> tuple[float, float]:
    """Run a script of the project; return its seconds and its peak memory in MiB.

    The memory is that of the process without its decode workers. Raises RuntimeError with what
    it printed if it fails.
    """
    command = [sys.executable, str(PROJECT / script), *map(str, arguments)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak_memory(process.pid))
            time.sleep(0.02)
        taken = time.perf_counter() - start
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{output.read()}")
    return taken, peak / 1024


def _peak_memory(pid: int) -> int:
    """Return a process's peak resident memory in KiB so far; 0 where the system hides it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) if lines else 0


def nearest(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Return each query's nearest row, exactly: (N, D), (M, D) float32 → (N,) int64."""
    chunks = [(queries[i : i + 500] @ database.T).argmax(1) for i in range(0, len(queries), 500)]
    return np.concatenate(chunks)


def agreement(
    reference: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    labels: tuple[Sequence[str], Sequence[str]],
) -> dict[str, float]:
    """Return how far the matches of `other` agree with the reference's.

    Each is (queries, database), (N, D) and (M, D) float32 of unit length; labels likewise.
    What is given up is similarity by the reference's vectors: its own match's less the other's.
    """
    queries, database = reference
    best, found = nearest(queries, database), nearest(*other)
    similarity = [np.einsum("ij,ij->i", queries, database[rows]) for rows in (best, found)]
    given_up = similarity[0] - similarity[1]
    cosines = [np.einsum("ij,ij->i", a, b) for a, b in zip(reference, other, strict=True)]
    query_labels, database_labels = (np.array(names) for names in labels)
    return {
        "queries": len(queries),
        "database images": len(database),
        "least cosine": float(min(c.min() for c in cosines)),
        "equal nearest matches": float((best == found).mean()),
        "similarity given up, mean": float(given_up.mean()),
        "similarity given up, most": float(given_up.max()),
        "share of equal labels, float32": float((query_labels == database_labels[best]).mean()),
        "share of equal labels, ours": float((query_labels == database_labels[found]).mean()),
    }
