"""Files that somebody made to do harm: nothing of them runs, nothing of them breaks a line."""

import io
import os
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LOAD, MODEL, PROJECT, load, rows, run_script
from PIL import Image

import embed_and_load
import query_code
import split_images
from similar_images.images.decoding import decode
from similar_images.images.image_files import ImageError

Fails = Callable[..., str]


SKIPPED = [
    "empty",
    "truncated",
    "text",
    "fifo",
    "dangling",
    "loop",
    "circle",
    "zero",
    "bomb",
    "caf\\udce9",
]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems want names in Unicode")
def test_what_cannot_be_taken_is_skipped_and_named(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = own_folder / "mixed"
    root.mkdir()
    Image.new("RGB", (12, 12), "teal").save(root / "good.png")
    png = (root / "good.png").read_bytes()
    (root / "empty.png").touch()
    (root / "truncated.png").write_bytes(png[:40])
    (root / "text.jpg").write_text("hello")
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.png")).write_bytes(png)
    os.mkfifo(root / "fifo.png")
    os.symlink("nowhere", root / "dangling.png")
    os.symlink("loop.png", root / "loop.png")
    os.symlink(".", root / "circle")
    (root / "zero.bmp").write_bytes(b"BM" + bytes(60))
    Image.new("1", (20_000, 20_000)).save(root / "bomb.png")
    os.rename(save_gif(root), root / "a gif.png")
    Image.linear_gradient("L").save(root / "cut.jpg")
    (root / "cut.jpg").write_bytes((root / "cut.jpg").read_bytes()[:-2])
    assert load("--images", root, "--max-megapixels", 399) == 0
    out = capsys.readouterr().out
    assert set(rows()) == {"good.png", "a gif.png", "cut.jpg"}
    assert "Loaded 3 images" in out
    assert "Loaded damaged files: 1\n  cut.jpg: the end of the file is missing\n" in out
    assert "Skipped unreadable files: 10" in out
    for name in SKIPPED:
        assert re.search(rf"^  {re.escape(name)}(\.\w+)?: \w+", out, re.MULTILINE), name
    os.rename(root / "cut.jpg", "query.jpg")
    assert query_code.main(["query.jpg"]) == 0
    assert "warning: query.jpg: the end of the file is missing" in capsys.readouterr().err
    for path in (root / "good.png", root / "a gif.png"):
        path.unlink()
    assert load("--images", root, "--max-megapixels", 399) == 0
    assert "Loaded 0 images" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="other systems want names in Unicode")
def test_a_path_that_milvus_cannot_record_is_refused_by_name(digits: Path, fails: Fails) -> None:
    """And the database is not called damaged, nor made."""
    odd = Path(os.fsdecode(b"caf\xe9"))
    odd.mkdir()
    (odd / "a.png").write_bytes(next((digits / "query_set").rglob("*.png")).read_bytes())
    for options in (["--images", odd], ["--images", digits / "query_set", "--weights", odd / "w"]):
        error = fails(embed_and_load.main, *LOAD, *options)
        assert re.search(r"/caf\\udce9\S* is not UTF-8, as Milvus asks; rename it$", error)
    assert not Path("milvus.db").exists()


def save_gif(root: Path) -> Path:
    path = root / "x.gif"
    Image.new("P", (12, 12), 3).save(path)
    return path


# Read first by every process; a worker dies of an image with this name.
KILLED_BY_AN_IMAGE = """
import multiprocessing, os, signal
open_file = os.open

def open_or_die(path, *args, **options):
    if os.path.basename(path) == "deadly.png" and multiprocessing.parent_process():
        os.kill(os.getpid(), signal.SIGKILL)
    return open_file(path, *args, **options)

os.open = open_or_die
"""


def test_an_image_that_kills_its_worker_is_named_and_keeps_its_row(
    own_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "images").mkdir()
    (own_folder / "hook").mkdir()
    names = [*(f"{number}.png" for number in range(9)), "deadly.png"]
    for number, name in enumerate(names):
        Image.new("RGB", (12, 12), (9 * number, 99, 7)).save(f"images/{name}")
    assert load("--images", "images") == 0
    assert set(rows()) == set(names)
    (own_folder / "hook/sitecustomize.py").write_text(KILLED_BY_AN_IMAGE)
    monkeypatch.setenv("PYTHONPATH", str(own_folder / "hook"))
    for name in names:
        with open(f"images/{name}", "ab") as file:
            file.write(b"another content")
        os.utime(f"images/{name}", (1, 1))
    options = ["--images", "images", "--batch-size", "4", "--prune", "--prune-most"]
    capsys.readouterr()
    assert load(*options, "--workers", "2") == 0
    out = capsys.readouterr().out
    assert "Loaded 9 images" in out
    assert "deadly.png: its decode worker ran out of memory, crashed, or took" in out
    assert {path for path, row in rows().items() if row["modified_at"] != 10**9} == {"deadly.png"}
    done = run_script("embed_and_load.py", *MODEL, *options, cwd=own_folder)  # it is left alone
    assert done.returncode == 0, "with its own number of workers a load survives it, too"
    assert "1 image to embed" in done.stdout
    assert "deadly.png: its decode worker" in done.stdout
    capsys.readouterr()
    os.mkdir("few")
    for name in ("deadly.png", "1.png"):
        shutil.copy("images/1.png", f"few/{name}")
    assert query_code.main(["--queries", "few"]) == 0, "so does a query of a few images"
    assert "skipped deadly.png: its decode worker" in capsys.readouterr().err


def test_a_folder_of_nothing_but_bad_files_says_so(own_folder: Path, fails: Fails) -> None:
    Path("bad").mkdir()
    for number in range(3):
        Path(f"bad/{number}.png").write_bytes(b"bad")
    assert load("--images", "bad") == 0
    assert rows() == {}
    assert "cannot read" in fails(query_code.main, "--queries", "bad")
    assert "query_code.py takes folders with --queries" in fails(query_code.main, "bad")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_an_unreadable_file_is_skipped_and_named() -> None:
    """Permissions don't hold root up, so that a child gives root away first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        Image.new("RGB", (9, 9)).save(folder / "secret.png")
        (folder / "secret.png").chmod(0)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                decode(folder, "secret.png")
                os.write(writing, b"decoded")
            except ImageError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        assert os.read(reading, 1000) == b"Permission denied"
        os.close(reading)


COMPOSE = (PROJECT / "docker-compose.yml").read_text()


def test_the_compose_file_lets_nobody_in() -> None:
    images = re.findall(r"^\s+image: (\S+)$", COMPOSE, re.MULTILINE)
    assert len(images) >= 3
    for image in images:
        assert re.fullmatch(r"[\w./-]+:[vR][\w.-]*\d[\w.-]*", image), f"{image} is not pinned"
    published = re.findall(r'^\s+- "(.*:\d+)"$', COMPOSE, re.MULTILINE)
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert 'AUTHORIZATIONENABLED: "true"' in COMPOSE
    for secret in re.findall(r"^\s+\w*(?:PASSWORD|SECRET|KEY)\w*: (.+)$", COMPOSE, re.MULTILINE):
        assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", secret), f"{secret} is a default"
    assert COMPOSE.count("healthcheck:") >= 3
    named = COMPOSE.partition("\nvolumes:\n")[2].split()
    assert {"etcd:", "minio:", "milvus:"} <= set(named)


def test_secrets_of_the_compose_file_are_not_committed() -> None:
    assert ".env" in (PROJECT / ".gitignore").read_text().splitlines()


NUMBERS = {
    split_images: ["--query-fraction", "--seed", "--limit"],
    embed_and_load: ["--batch-size", "--workers"],
    query_code: ["--top-k", "--pairs", "--seed", "--batch-size", "--workers"],
}


@pytest.mark.parametrize("value", ["-1", "99999999999999999999", "x", "", "1e3", "0x10", "nan"])
def test_every_number_out_of_range_is_wrong_usage(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for script, options in NUMBERS.items():
        for option in options:
            if (option, value) == ("--query-fraction", "1e3"):
                continue
            with pytest.raises(SystemExit) as stopped:
                script.main([option, value])  # type: ignore[attr-defined]
            assert stopped.value.code == 2
            assert option in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["empty", "missing", "file", "link to a file"])
def test_what_is_no_folder_of_images_is_named(kind: str, own_folder: Path, fails: Fails) -> None:
    place = own_folder / "place"
    if kind == "empty":
        place.mkdir()
    elif kind != "missing":
        (own_folder / "target").write_bytes(b"x")
        os.symlink("target", place) if "link" in kind else place.write_bytes(b"x")
    for main in (embed_and_load.main, query_code.main):
        option = "--images" if main is embed_and_load.main else "--queries"
        options = LOAD if main is embed_and_load.main else []
        error = fails(main, option, place, *options)
        assert "place" in error
        assert option in error
    assert not Path("milvus.db").exists()


class Executes:
    """What makes a folder as it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_weights_that_say_they_are_larger_than_they_are(own_folder: Path, fails: Fails) -> None:
    import torch

    (own_folder / "images").mkdir()
    Image.new("RGB", (9, 9)).save("images/x.png")
    whole = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, whole)
    for name, data in {
        "half": whole.getvalue()[: len(whole.getvalue()) // 2],
        "few": whole.getvalue(),
        "text": b"hello",
        "nothing": b"",
        "pickle": pickle.dumps(Executes()),
    }.items():
        Path(name).write_bytes(data)
        error = fails(embed_and_load.main, "--images", "images", "--weights", name)
        assert name in error
        assert "weights_only" not in error
    assert not Path("executed").exists()
    assert not Path("milvus.db").exists()
