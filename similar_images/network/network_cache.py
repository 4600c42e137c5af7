"""Converted networks, kept in the user's cache folder so that most runs need no torch.

  similar-images/resnet18-<key of the model>/         network.xml, network.bin, about.json
  similar-images/weights/<key of the weights' source>  the name of that folder

A key is a hash of everything that a conversion depends on: weights, preprocessing, versions. A
network is stored completely or not at all, checked when it is read, and converted again if it is
damaged. Only folders that no other user can write to are trusted.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import platformdirs

from similar_images.images.decoding import Preprocessing
from similar_images.network.model_description import (
    NAMED_WEIGHTS,
    Model,
    compared,
    named_or_path,
    source_of,
)

if typing.TYPE_CHECKING:
    import openvino

APPLICATION = "similar-images"
GRAPH, WEIGHTS, ABOUT = "network.xml", "network.bin", "about.json"
FORMAT = 2  # of the folders above; raised when other code would convert a network differently
CONVERTERS = ("openvino", "torch")  # other versions may convert differently
PARTIAL = ".partial-"
STALE_SECONDS = 86_400  # no run works on an unfinished folder for that long
NAME = re.compile(r"[a-z0-9_]+(-\w+(\.\w+)*)?-[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class ConvertedNetwork:
    """A network in OpenVINO's form: (N, crop, crop, 3) uint8 → (N, dimension) of unit length.

    graph: the file in the cache, or the network itself if it could not be stored.
    """

    model: Model
    preprocessing: Preprocessing
    graph: "Path | openvino.Model"


def cache_folder() -> Path:
    """Return this project's folder in the user's cache folder."""
    return Path(platformdirs.user_cache_dir(APPLICATION, appauthor=False))


def find_by_properties(properties: Mapping[str, str]) -> ConvertedNetwork | None:
    """Return the kept network whose vectors are comparable with a collection's."""
    kept = _read(_name(properties))
    return kept if kept and kept.model.same_vectors(properties) else None


def find_by_weights(architecture: str, weights: str) -> ConvertedNetwork | None:
    """Return the network kept for these weights ('pretrained', 'random' or a file).

    architecture: as the user names it; a source may have a longer name for it, with a tag.
    """
    try:
        name = (cache_folder() / "weights" / _origin(architecture, weights)).read_text()
    except (OSError, ValueError):
        return None
    kept = _read(name)
    if kept is None:
        return None
    known = kept.model.architecture
    if architecture not in (known, known.partition(".")[0]):
        return None
    return replace(kept, model=replace(kept.model, weights=named_or_path(weights)))


def keep(network: ConvertedNetwork, architecture: str, weights: str) -> ConvertedNetwork:
    """Store a network for find_by_weights(architecture, weights).

    Returns it as stored, or unchanged if it can't be.
    """
    import openvino  # already imported to convert the network

    model, root = network.model, cache_folder()
    name = _name(model.properties())
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
            if not _read(name):  # another process may have stored it meanwhile and be reading it
                shutil.rmtree(root / name, ignore_errors=True)
                os.replace(new, root / name)
            origins = root / "weights"
            origins.mkdir(mode=0o700, exist_ok=True)
            note = Path(partial, "origin")
            note.write_text(name)
            os.replace(note, origins / _origin(architecture, weights))
    except (OSError, RuntimeError):  # no space or no permission: this run works without
        return network
    return _read(name) or network


def _tidy(root: Path) -> None:
    """Remove what killed runs left unfinished and what other versions stored, once a day old."""
    for folder in root.iterdir():
        other = NAME.fullmatch(folder.name) and not _is_current(folder)
        if folder.name.startswith(PARTIAL) or other:
            with contextlib.suppress(FileNotFoundError):  # its own process has just removed it
                if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
    for note in (root / "weights").glob("*"):
        with contextlib.suppress(OSError, ValueError):
            if not (root / note.read_text()).exists():
                note.unlink()


def _read(name: str) -> ConvertedNetwork | None:
    """Return a kept network if it is complete, current, and no other user can have written it."""
    folder = cache_folder() / name
    if not NAME.fullmatch(name) or not (_is_ours(cache_folder()) and _is_ours(folder)):
        return None
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        about = json.loads((folder / ABOUT).read_text())
        model, preprocessing = Model(**about["model"]), Preprocessing(**about["preprocessing"])
        whole = all(about["sha256"][f] == _sha256(folder / f) for f in (GRAPH, WEIGHTS))
        if whole and _is_current(folder):
            return ConvertedNetwork(model, preprocessing, folder / GRAPH)
    return None


def _is_current(folder: Path) -> bool:
    """Return whether this version would give its content the folder's name."""
    try:
        return folder.name == _name(json.loads((folder / ABOUT).read_text())["model"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # damaged
        return False


def _is_ours(folder: Path) -> bool:
    try:
        status = folder.stat()
    except OSError:
        return False
    if os.name == "nt":  # access lists there make it the user's own
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _name(properties: Mapping[str, str]) -> str:
    """Return the folder name of the network that made the vectors of these properties."""
    architecture = properties.get("architecture", "")
    others = list(compared(properties).values())[1:]
    return f"{architecture.replace('/', '-')}-{_key(architecture, *others)}"


def _origin(architecture: str, weights: str) -> str:
    """Return a name for the source of weights: their name, or a file's content."""
    named = weights in NAMED_WEIGHTS
    origin = named_or_path(weights) if named else f"file {_sha256(Path(weights))}"
    return _key(architecture, origin)


def _key(architecture: str, *parts: str | None) -> str:
    """Return a hash of the parts and of the versions that determine a conversion."""
    versions = [_version(package) for package in (*CONVERTERS, source_of(architecture).package)]
    return hashlib.sha256(
        json.dumps([FORMAT, versions, [architecture, *parts]]).encode()
    ).hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # it is optional
        return None


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
