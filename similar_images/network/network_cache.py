"""Converted networks, kept in the user's cache folder so that most runs need no torch.

  similar-images/resnet18-<SHA-256 of the weights' values>/   network.xml, network.bin, about.json
  similar-images/weights/<SHA-256 of where they came from>    the name of that folder

A network is kept whole or not at all, checked when it is read, and made again when it is
damaged. Only a folder that is this user's alone is believed.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import time
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from similar_images.network.model_description import Model
from similar_images.pictures.decoding import Preprocessing

if typing.TYPE_CHECKING:
    import openvino

APPLICATION = "similar-images"
GRAPH, WEIGHTS, ABOUT = "network.xml", "network.bin", "about.json"
PARTIAL = ".partial-"
STALE_SECONDS = 86_400  # what is half-made after so long, a run that was killed has left
NAME = re.compile(r"[a-z0-9_]+-[0-9a-f]{64}")


@dataclass(frozen=True)
class ConvertedNetwork:
    """A network in OpenVINO's form: (N, crop, crop, 3) uint8 → (N, dimension) of unit length.

    graph: the file that it is kept in, or itself where it could not be kept.
    """

    model: Model
    preprocessing: Preprocessing
    graph: "Path | openvino.Model"


def cache_folder() -> Path:
    """Return this project's folder among the user's caches, where this system has them."""
    return Path(platformdirs.user_cache_dir(APPLICATION, appauthor=False))


def find_by_properties(properties: Mapping[str, str]) -> ConvertedNetwork | None:
    """Return the kept network whose vectors compare with those of a collection's properties."""
    name = f"{properties.get('architecture')}-{properties.get('weights_sha256')}"
    kept = _read(name)
    return kept if kept and kept.model.same_vectors(properties) else None


def find_by_weights(architecture: str, weights: str) -> ConvertedNetwork | None:
    """Return the kept network that these weights ('imagenet', 'random' or a file) gave before."""
    try:
        name = (cache_folder() / "weights" / _origin(architecture, weights)).read_text()
    except (OSError, ValueError):
        return None
    kept = _read(name)
    if kept is None or kept.model.architecture != architecture:
        return None
    where = weights if weights in ("imagenet", "random") else str(Path(weights).resolve())
    model = Model(**{**kept.model.properties(), "weights": where})
    return ConvertedNetwork(model, kept.preprocessing, kept.graph)


def keep(network: ConvertedNetwork, weights: str) -> ConvertedNetwork:
    """Keep a network that these weights gave; return it as kept, or as it is if it can't be."""
    import openvino  # it has been, to convert the network

    model, root = network.model, cache_folder()
    name = f"{model.architecture}-{model.weights_sha256}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _tidy(root)
        with tempfile.TemporaryDirectory(dir=root, prefix=PARTIAL) as partial:
            new = Path(partial, name)
            new.mkdir(mode=0o700)
            openvino.save_model(network.graph, new / GRAPH, compress_to_fp16=False)
            about = {
                "model": model.properties(),
                "preprocessing": asdict(network.preprocessing),
                "sha256": {file: _sha256(new / file) for file in (GRAPH, WEIGHTS)},
            }
            (new / ABOUT).write_text(json.dumps(about, indent=1))
            if not _read(name):  # another process may have kept it meanwhile, and be reading it
                shutil.rmtree(root / name, ignore_errors=True)
                os.replace(new, root / name)
            origins = root / "weights"
            origins.mkdir(mode=0o700, exist_ok=True)
            note = Path(partial, "origin")
            note.write_text(name)
            os.replace(note, origins / _origin(model.architecture, weights))
    except (OSError, RuntimeError):  # no room, no right: this run has the network all the same
        return network
    return _read(name) or network


def _tidy(root: Path) -> None:
    for partial in root.glob(f"{PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):  # another process's, which has just ended
            if time.time() - partial.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def _read(name: str) -> ConvertedNetwork | None:
    """Return a kept network if it is there and whole, and nobody else could have written it."""
    folder = cache_folder() / name
    if not NAME.fullmatch(name) or not (_is_ours(cache_folder()) and _is_ours(folder)):
        return None
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        about = json.loads((folder / ABOUT).read_text())
        model, preprocessing = Model(**about["model"]), Preprocessing(**about["preprocessing"])
        whole = all(about["sha256"][f] == _sha256(folder / f) for f in (GRAPH, WEIGHTS))
        if whole and name == f"{model.architecture}-{model.weights_sha256}":
            return ConvertedNetwork(model, preprocessing, folder / GRAPH)
    return None


def _is_ours(folder: Path) -> bool:
    try:
        status = folder.stat()
    except OSError:
        return False
    if os.name == "nt":  # the user's own folder there, by its access list
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _origin(architecture: str, weights: str) -> str:
    """Return a name for where weights come from: what is published under a version, or a file."""
    if weights in ("imagenet", "random"):
        version = importlib.metadata.version("torchvision")
        origin = f"{weights} of torchvision {version}"
    else:
        origin = f"file {_sha256(Path(weights))}"
    return hashlib.sha256(f"{architecture} {origin}".encode()).hexdigest()


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
