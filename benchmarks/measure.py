"""What every benchmark needs: the machine's limit, the machine in words, figures in words."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import image_to_embedding

GFLOP_PER_IMAGE = 3.64  # ResNet18 at 224×224: 1.82 G multiplications, each with its addition
MATRIX = 4096
PRODUCTS = 3  # matrix products a measurement
PACKAGES = [
    "torch",
    "torchvision",
    "numpy",
    "Pillow",
    "pymilvus",
    "milvus-lite",
    "onnxruntime",
    "openvino",
    "nncf",
    "ncnn",
    "img2vec_pytorch",
    "faiss-cpu",
]


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class MatrixLimit:
    """What the machine's matrix product reaches, as images a second: the limit of a network.

    A network that multiplies less (Winograd's algorithm) or a processor whose caches suit small
    matrices better can exceed it.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device = device
        shape = (MATRIX, MATRIX)
        dtype = getattr(torch, precision)
        self._a = torch.randn(shape, device=device).to(dtype)
        self._b = torch.randn(shape, device=device).to(dtype)
        self._c = torch.empty(shape, dtype=dtype, device=device)
        self.measure()

    def measure(self) -> float:
        """Return the limit in images/s, measured now."""

        def products() -> None:
            for _ in range(PRODUCTS):
                torch.mm(self._a, self._b, out=self._c)
            float(self._c[0, 0])  # waits for a GPU

        gflop = PRODUCTS * 2 * MATRIX**3 / 1e9
        return gflop / seconds(products) / GFLOP_PER_IMAGE


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return a measurement's repetitions with their median and extremes."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "repetitions": list(values),
    }


def in_words(figures: dict[str, Any], digits: int = 1) -> str:
    """Return a spread as 'median (least to most)'."""
    median, least, most = (f"{figures[key]:.{digits}f}" for key in ("median", "least", "most"))
    return f"{median} ({least} to {most})"


def machine() -> dict[str, Any]:
    """Return the hardware and the versions that the figures belong to."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": image_to_embedding.core_count(),
        "fast_types": sorted(name for name in _capabilities() if "bf16" in name or "vnni" in name),
        "memory_gib": round(memory),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _capabilities() -> list[str]:
    return [name for name, able in torch.cpu.get_capabilities().items() if able is True]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- Agreement --------------------------------------------------------------------------------


def nearest(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Return each query's nearest row, exactly: (N, 512), (M, 512) float32 → (N,) int64."""
    chunks = [(queries[i : i + 500] @ database.T).argmax(1) for i in range(0, len(queries), 500)]
    return np.concatenate(chunks)


def agreement(
    reference: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    labels: tuple[Sequence[str], Sequence[str]],
) -> dict[str, float]:
    """Return how far the matches of `other` agree with the reference's.

    Each is (queries, database), (N, 512) and (M, 512) float32 of unit length; labels likewise.
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
        "database": len(database),
        "least_cosine": float(min(c.min() for c in cosines)),
        "top1_agreement": float((best == found).mean()),
        "given_up_mean": float(given_up.mean()),
        "given_up_p999": float(np.quantile(given_up, 0.999)),
        "given_up_most": float(given_up.max()),
        "label_share_reference": float((query_labels == database_labels[best]).mean()),
        "label_share": float((query_labels == database_labels[found]).mean()),
    }
