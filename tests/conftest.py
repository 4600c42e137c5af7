"""Fixtures: CIFAR-10-like batches as Python 2 wrote them, folders of pictures, a finished load."""

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embed_and_load
import split_images
from image_collection import is_lite

PROJECT = Path(__file__).resolve().parent.parent
LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _short(text: bytes) -> bytes:
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text
    return b"T" + struct.pack("<i", len(text)) + text


def _integer(n: int) -> bytes:
    return b"K" + bytes([n]) if n < 256 else b"J" + struct.pack("<i", n)


def _array(data: np.ndarray) -> bytes:
    """A two-dimensional uint8 array as NumPy pickled it under Python 2."""
    shape = b"".join(map(_integer, data.shape)) + b"\x86"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    content = b"T" + struct.pack("<i", data.nbytes) + data.tobytes()
    return new + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def python2_batch(number: int, data: np.ndarray, labels: list[int]) -> bytes:
    """Pickle a batch as the published archive holds it: protocol 2, byte strings."""
    items = {
        b"batch_label": _short(b"training batch %d of 5" % number),
        b"labels": b"](" + b"".join(map(_integer, labels)) + b"e",
        b"data": _array(data),
    }
    return b"\x80\x02}(" + b"".join(_short(key) + items[key] for key in items) + b"u."


def python2_meta() -> bytes:
    names = b"](" + b"".join(_short(name.encode()) for name in LABELS) + b"e"
    return b"\x80\x02}(" + _short(b"label_names") + names + b"u."


def write_batches(folder: Path, per_batch: int, seed: int = 0) -> np.ndarray:
    """Write five batches of smooth random images; return their pixels (N, 32, 32, 3)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    pixels = []
    for number in range(1, 6):
        coarse = rng.integers(0, 256, (per_batch, 4, 4, 3), dtype=np.uint8)
        pixels.append(coarse.repeat(8, axis=1).repeat(8, axis=2))
        planes = pixels[-1].transpose(0, 3, 1, 2).reshape(per_batch, 3072)
        labels = [int(label) for label in rng.integers(0, 10, per_batch)]
        (folder / f"data_batch_{number}").write_bytes(python2_batch(number, planes, labels))
    (folder / "batches.meta").write_bytes(python2_meta())
    return np.concatenate(pixels)


def run_script(
    script: str, *args: object, cwd: Path, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a script as a user would, in a process of its own."""
    command = [sys.executable, str(PROJECT / script), *map(str, args)]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in an empty folder of its own, without the user's Milvus settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILVUS_URI", raising=False)
    monkeypatch.delenv("MILVUS_TOKEN", raising=False)
    return tmp_path


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a script's main, and check that it fails as it should: one line, status 1."""

    def check(main: Callable[[list[str]], int], *args: object) -> str:
        capsys.readouterr()
        assert main([str(arg) for arg in args]) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if not line.startswith(("warning: ", "skipped "))]
        assert len(errors) == 1, lines
        assert errors[0].startswith("error: ")
        assert ";" in errors[0], "it should say what to do"
        return errors[0]

    return check


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a split of 200 digits, loaded into ./milvus.db with random weights."""
    folder = tmp_path_factory.mktemp("digits")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert split_images.main(["--sample", "--limit", "200"]) == 0
        load = ["--weights", "random", "--workers", "0", "--precision", "float32"]
        assert embed_and_load.main(load) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def milvus(own_folder: Path) -> str:
    """The address that scripts use without --milvus-uri; a module's tests may have another."""
    return "./milvus.db"


@pytest.fixture
def loaded(digits: Path, own_folder: Path, milvus: str) -> Path:
    """The test's own copy of the digits and their collection."""
    load = ["--weights", "random", "--workers", "0"]
    if is_lite(milvus):
        shutil.copytree(digits, own_folder, dirs_exist_ok=True)
        load.append("--moved")
    else:
        ignore = shutil.ignore_patterns("milvus.db")
        shutil.copytree(digits, own_folder, dirs_exist_ok=True, ignore=ignore)
        load += ["--precision", "float32"]
    assert embed_and_load.main(load) == 0
    return own_folder


class Server:
    """A real Milvus of a data folder and ports of its own, which can be killed and restarted."""

    def __init__(self, folder: Path, **settings: str) -> None:
        from milvus import MilvusServer, MilvusServerConfig

        config = MilvusServerConfig(
            data_dir=str(folder),
            proxy_port=free_port(),
            **settings,  # others it finds itself
        )
        self.server = MilvusServer(config)
        self.uri = f"http://127.0.0.1:{config.configs['proxy_port']}"
        self.server.start()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return int(self.server.server_proc.pid)

    def kill(self) -> None:
        """End it as a crash would."""
        self.server.server_proc.kill()
        self.server.server_proc.wait()

    def restart(self) -> None:
        """Start it again with the same data on the same port."""
        self.server.start()

    def stop(self) -> None:
        """End it; its data are the test's to delete."""
        self.server.stop()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running Milvus server, shared by the tests: each uses collections of its own."""
    pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")
    server = Server(tmp_path_factory.mktemp("milvus"))
    yield server
    server.stop()


@pytest.fixture
def photos(own_folder: Path) -> Path:
    """A nested folder of pictures of many sizes, formats, modes and scripts."""
    root = own_folder / "photos"
    rng = np.random.default_rng(1)

    def save(name: str, mode: str, size: tuple[int, int], **options: object) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path, **options)

    save("Straße/Käse.jpg", "RGB", (640, 480), quality=90)
    save("дом/кошка.png", "RGB", (300, 500))
    save("猫/三毛.webp", "RGB", (225, 224))
    save("قط/صورة.gif", "P", (120, 90))
    save("deep/er/down/grey.tif", "L", (500, 333))
    save("deep/cmyk.jpg", "CMYK", (400, 400))
    save("deep/alpha.png", "RGBA", (64, 48))
    save("one bit's.bmp", "1", (97, 31))
    sixteen = (np.arange(200 * 100) * 3 % 65536).astype(np.uint16).reshape(100, 200)
    Image.fromarray(sixteen).save(root / "sixteen.png")
    return root
