"""Converted networks, kept in the user's cache folder so that most runs need no torch.

  similar-images/resnet18-<hash of the weights' source>/   network.xml, network.bin, about.json

A network is stored completely or not at all, checked when it is read, and converted again if it is
damaged or another version converted it. Beyond KEPT_BYTES, those used least recently are removed.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import tempfile
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import platformdirs

from similar_images.images.decoding import Preprocessing
from similar_images.network.model_description import NAMED_WEIGHTS, Model, named_or_path, package_of
from similar_images.whole_files import write_together

if typing.TYPE_CHECKING:
    import openvino

GRAPH, ABOUT = "network.xml", "about.json"
MEASURED = "measured.json"  # beside them: what machines have measured, see rounding.py
INT8, INT8_ABOUT = "int8.xml", "int8.json"  # and with int8.bin, the network in 8 bits
KEPT_BYTES = 4 << 30  # of all networks
DAMAGED = (  # what reading a damaged file raises
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)
FORMAT = "3"  # of the folders above; raised when other code would convert a network differently


class Rounding(NamedTuple):
    """Cosines of embeddings to those in float32 of images decoded whole.

    images: how many were tried; 0 if none can be read.
    """

    mean: float
    least: float
    images: float

    @property
    def is_possible(self) -> bool:
        """Whether these are cosines of some images; a damaged file may hold any numbers."""
        return all(abs(cosine) < 1.001 for cosine in self[:2]) and 0 < self.images < math.inf

    @property
    def words(self) -> str:
        """The cosines in words, rounded down: none is 1 that isn't."""
        mean, least = (math.floor(cosine * 1e5) / 1e5 for cosine in self[:2])
        return f"cosine to float32 {mean:.5f} on average, {least:.5f} at least"


@dataclass(frozen=True)
class ConvertedNetwork:
    """A network in OpenVINO's form: (N, crop, crop, 3) uint8 → (N, dimension) of unit length.

    graph: the file in the cache, or the network itself if it could not be stored. eight_bits: the
    first digits of the SHA-256 of the graph's files, if it computes in 8 bits.
    """

    model: Model
    preprocessing: Preprocessing
    graph: "Path | openvino.Model"
    eight_bits: str = ""


def cache_folder() -> Path:
    """Return this project's folder in the user's cache folder."""
    return Path(platformdirs.user_cache_dir("similar-images", appauthor=False))


def find_by_properties(properties: Mapping[str, str]) -> ConvertedNetwork | None:
    """Return a kept network whose vectors are comparable with a collection's."""
    found = (_read(about.parent, properties) for about in cache_folder().glob(f"*/{ABOUT}"))
    return next(filter(None, found), None)


def find_by_weights(architecture: str, weights: str) -> ConvertedNetwork | None:
    """Return the network kept for these weights ('pretrained', 'random' or a file)."""
    try:
        kept = _read(cache_folder() / _name(architecture, weights))
    except OSError:  # the file of weights can't be read
        return None
    return kept and replace(kept, model=replace(kept.model, weights=named_or_path(weights)))


def keep(network: ConvertedNetwork, architecture: str, weights: str) -> ConvertedNetwork:
    """Store a network for find_by_weights(architecture, weights).

    Returns it as stored, or unchanged if it can't be.
    """
    import openvino  # already imported to convert the network

    root = cache_folder()
    try:
        folder = root / _name(architecture, weights)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as partial:
            new = Path(partial, folder.name)
            new.mkdir(mode=0o700)
            openvino.save_model(network.graph, new / GRAPH, compress_to_fp16=False)
            about = {
                "model": network.model.properties(),
                "preprocessing": asdict(network.preprocessing),
                "versions": _versions(network.model.architecture),
            }
            about["sha256"] = _digest(new, about)
            (new / ABOUT).write_text(json.dumps(about, indent=1))
            if not _read(folder):  # another process may have stored it meanwhile and be reading it
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(new, folder)
    except (OSError, RuntimeError, ImportError):  # no space, no permission, no known versions
        return network
    kept = _read(folder)
    remove_least_used(root)
    return kept or network


def remove_least_used(root: Path) -> None:
    """Remove the networks that were used least recently, beyond KEPT_BYTES; the latest stays.

    Left there by a process that was killed, an unfinished one goes in its turn.
    """
    size = 0
    with contextlib.suppress(OSError):  # another process removes them, too
        folders = sorted(root.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in folders:
            size += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            if size > KEPT_BYTES and folder != folders[0]:
                shutil.rmtree(folder, ignore_errors=True)


def in_eight_bits(network: ConvertedNetwork) -> ConvertedNetwork | None:
    """Return what keep_in_eight_bits() has stored beside a network, if that is complete."""
    with contextlib.suppress(*DAMAGED):
        folder = _folder(network)
        digest = json.loads((folder / INT8_ABOUT).read_text())["sha256"]
        if digest == _digest(folder, {}, INT8):
            return replace(network, graph=folder / INT8, eight_bits=digest[:12])
    return None


def keep_in_eight_bits(
    network: ConvertedNetwork, graph: "openvino.Model"
) -> ConvertedNetwork | None:
    """Store this graph of it beside a network, if that is kept; return it, or None if it can't."""
    import openvino

    with contextlib.suppress(OSError, TypeError, RuntimeError):
        kept = _folder(network)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".partial-") as folder:
            openvino.save_model(graph, Path(folder, INT8), compress_to_fp16=False)
            about = {"sha256": _digest(Path(folder), {}, INT8)}
            Path(folder, INT8_ABOUT).write_text(json.dumps(about))
            for file in Path(folder).iterdir():
                os.replace(file, kept / file.name)
            return in_eight_bits(network)
    return None


def measured(network: ConvertedNetwork) -> dict[str, Rounding]:
    """Return what was noted for a network, by kind of machine and precision."""
    with contextlib.suppress(*DAMAGED):
        stored = json.loads((_folder(network) / MEASURED).read_text())
        found = {machine: Rounding(*map(float, noted)) for machine, noted in stored.items()}
        return {machine: noted for machine, noted in found.items() if noted.is_possible}
    return {}


def note_measured(network: ConvertedNetwork, machine: str, rounding: Rounding) -> None:
    """Note it beside the network, if that is kept and can be written to."""
    noted = json.dumps({**measured(network), machine: rounding})
    with contextlib.suppress(OSError, TypeError):
        write_together({_folder(network) / MEASURED: noted.encode()})


def _folder(network: ConvertedNetwork) -> Path:
    if isinstance(network.graph, Path):
        return network.graph.parent
    raise TypeError("it could not be kept")


def _read(folder: Path, properties: Mapping[str, str] | None = None) -> ConvertedNetwork | None:
    """Return a kept network if it is complete, current, and comparable with these properties."""
    with contextlib.suppress(*DAMAGED, ImportError):  # ImportError: timm is not installed
        about = json.loads((folder / ABOUT).read_text())
        model, preprocessing = Model(**about["model"]), Preprocessing(**about["preprocessing"])
        fits = properties is None or model.same_vectors(properties)
        current = about["versions"] == _versions(model.architecture)
        if fits and current and about.pop("sha256") == _digest(folder, about):
            with contextlib.suppress(OSError):  # the cache may be another user's
                os.utime(folder)  # used now, see remove_least_used()
            return ConvertedNetwork(model, preprocessing, folder / GRAPH)
    return None


def _name(architecture: str, weights: str) -> str:
    """Return the name of the folder for weights: of a name, or of a file's content."""
    origin = weights if weights in NAMED_WEIGHTS else f"file {_sha256(Path(weights))}"
    key = hashlib.sha256(json.dumps([architecture, origin]).encode()).hexdigest()
    return f"{re.sub('[^a-z0-9_.]', '-', architecture)}-{key}"


def _versions(architecture: str) -> list[str]:
    """Return the versions that determine how a network is built and converted."""
    packages = ("openvino", "torch", package_of(architecture))
    return [FORMAT, *map(importlib.metadata.version, packages)]


def _digest(folder: Path, about: Mapping[str, object], graph: str = GRAPH) -> str:
    """Return the SHA-256 of a network's files and of its description."""
    file = folder / graph
    parts = [json.dumps(about, sort_keys=True), _sha256(file), _sha256(file.with_suffix(".bin"))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
