"""Fixtures: an empty folder for each test, a finished load, a real Milvus server, photographs."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import LOAD, TOKEN, rows
from milvus_server import RUNTIME_FOLDERS, Server, has_runtime_folder
from PIL import Image

import embed_and_load
import split_images
from similar_images import console
from similar_images.milvus import connection
from similar_images.milvus.client import is_lite

# Networks are kept here, once for all test processes, and not among the user's own.
if "SIMILAR_IMAGES_TEST_CACHE" not in os.environ:  # the first of them makes it, and removes it
    os.environ["SIMILAR_IMAGES_TEST_CACHE"] = tempfile.mkdtemp(prefix="networks-")
    atexit.register(shutil.rmtree, os.environ["SIMILAR_IMAGES_TEST_CACHE"], ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = os.environ["SIMILAR_IMAGES_TEST_CACHE"]

# Test processes share the cores: torch's threads sleep while they wait for each other. They spin by
# default, which makes the tests that convert networks take three times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell's `pytest &` ignores Ctrl-C, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in an empty folder of its own, without the user's Milvus settings.

    However slow the machine is, no line says on the way where a run is. A server that does not
    answer is soon given up.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "LINE_SECONDS", float("inf"))
    monkeypatch.setattr(connection, "OPEN_SECONDS", 1.5)
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
        said = ";" in errors[0] or "error: cannot read " in errors[0]  # whose reason says it all
        assert said, "it should say what to do"
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
def milvus(
    own_folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The address that scripts use without --milvus-uri: a file's, or a server's (both_engines)."""
    if getattr(request, "param", "lite") == "lite":
        return "./milvus.db"
    server: Server = request.getfixturevalue("running_server")
    monkeypatch.setenv("MILVUS_URI", server.uri)
    monkeypatch.setenv("MILVUS_TOKEN", TOKEN)
    server.drop_all(but=["images"] if "loaded" in request.fixturenames else [])
    return server.uri


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the server share one, and so one process; whole runs have another."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        on_server = parameters and parameters.params.get("milvus") == "server"
        if on_server or "server" in getattr(item, "fixturenames", ()):
            whole = item.path.stem in ("test_torchrun", "test_server", "test_readme")
            item.add_marker(pytest.mark.xdist_group(f"server {int(whole)}"))


@pytest.fixture
def loaded(digits: Path, own_folder: Path, milvus: str, request: pytest.FixtureRequest) -> Path:
    """The test's own copy of the digits and their collection.

    On a server it is what the test before left, made good: a new one takes ten seconds.
    """
    ignore = None if is_lite(milvus) else shutil.ignore_patterns("milvus.db")
    shutil.copytree(digits, own_folder, dirs_exist_ok=True, ignore=ignore)
    options = [*LOAD, "--moved", "--prune", "--prune-most", "--index", "auto"]
    status = embed_and_load.main(options)
    if not is_lite(milvus) and (status or len(rows()) != 180):  # another model's, or kept rows
        request.getfixturevalue("running_server").drop_all()
        status = embed_and_load.main(options)
    assert status == 0
    return own_folder


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Milvus server that asks for a password; it takes some seconds to start."""
    pytest.importorskip("milvus", reason="there is a Milvus server for Linux alone")
    if not has_runtime_folder():
        pytest.skip(f"Milvus needs {' or '.join(RUNTIME_FOLDERS)}, and both are another user's")
    server = Server(tmp_path_factory.mktemp("milvus"))
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
    """A nested folder of images of many sizes, formats, modes and scripts."""
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
