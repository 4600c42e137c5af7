"""Fixtures: CIFAR-10-like batches as Python 2 wrote them, folders of pictures, a finished load."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pymilvus.exceptions import MilvusException

import embed_and_load
import split_images
from image_collection import CollectionError, connect, is_lite

PROJECT = Path(__file__).resolve().parent.parent
LOAD = ["--weights", "random", "--workers", "0", "--precision", "float32"]
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
        assert embed_and_load.main(LOAD) == 0
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
    ignore = None if is_lite(milvus) else shutil.ignore_patterns("milvus.db")
    shutil.copytree(digits, own_folder, dirs_exist_ok=True, ignore=ignore)
    assert embed_and_load.main([*LOAD, "--moved"]) == 0
    return own_folder


class Server:
    """A real Milvus of a data folder and ports of its own, which can be killed and restarted.

    settings: what differs from its configuration file, by dotted name.
    """

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        from milvus import MilvusServer, MilvusServerConfig

        port = free_port()  # it finds the others itself
        config = MilvusServerConfig(data_dir=str(folder), proxy_port=port)
        for name, value in settings.items():
            config.set(name, value)
        self._server = MilvusServer(config)
        self._server.start()
        self.uri = f"http://127.0.0.1:{port}"
        self._process = self._server.server_proc
        environ = Path(f"/proc/{self._process.pid}/environ").read_bytes()
        self._environ = dict(
            os.fsdecode(line).split("=", 1) for line in environ.split(b"\0") if line
        )
        self._folder = folder

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Start it again with the same data on the same ports."""
        with open(self._folder / "restarted.log", "ab") as log:
            self._process = subprocess.Popen(
                self._process.args, env=self._environ, cwd=self._folder, stdout=log, stderr=log
            )

    def collections(self) -> list[str]:
        """Return the collections' names, once it answers; restart it if it has been killed."""
        if self._process.poll() is not None:
            self.restart()
        for attempt in range(120):
            try:
                with connect(self.uri) as client:
                    return list(client.milvus.list_collections())
            except (CollectionError, MilvusException):
                if attempt == 119:
                    raise
                time.sleep(1)
        raise AssertionError

    def drop_all(self) -> None:
        """Remove all collections."""
        for name in self.collections():
            with connect(self.uri) as client:
                client.milvus.drop_collection(name)

    def stop(self) -> None:
        """End it; its data are the test's to delete."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._server.server_proc = None  # it would end whatever has this process id by then


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


TOKEN = "root:Milvus"  # a new server's own


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Milvus server that asks for a password; it takes a quarter of a minute to start."""
    pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")
    guarded = {"common.security.authorizationEnabled": "true"}
    server = Server(tmp_path_factory.mktemp("milvus"), guarded)
    yield server
    server.stop()


@pytest.fixture
def server(running_server: Server, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, alive and empty, with its password in $MILVUS_TOKEN."""
    monkeypatch.setenv("MILVUS_TOKEN", TOKEN)
    running_server.drop_all()
    return running_server


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
