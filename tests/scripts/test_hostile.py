"""Files that somebody made to do harm: nothing of them runs, nothing of them breaks a line."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import on_both_engines
from helpers import LOAD, PROJECT, load, pairings, python2_batch, python2_meta, rows
from PIL import Image

import embed_and_load
import query_code
import split_images
from similar_images import cifar10, image_collection
from similar_images.cifar10 import read_batch
from similar_images.decoding import DecodedImage, decode, to_rgb
from similar_images.image_collection import ImageCollection
from similar_images.image_files import ImageError
from similar_images.milvus import connect, resolve_uri

Fails = Callable[..., str]
milvus_uri = pytest.fixture(params=["lite", "server"], name="milvus")(on_both_engines)
MUTANTS = 12_000

# In a process of its own: an audit hook sees every import, call of exec, file and program that
# unpickling would lead to, and can't be taken away again.
FUZZ = """
import json, random, sys
from pathlib import Path
sys.path[:0] = [%(project)r, %(tests)r]
import numpy as np
from helpers import python2_batch, python2_meta
import encodings.raw_unicode_escape, encodings.latin_1, encodings.unicode_escape
import pickle
from similar_images import cifar10
from similar_images.image_set import ImageSetError

planes = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
contents = {"batches.meta": python2_meta()}
for number in range(1, 6):
    contents[f"data_batch_{number}"] = python2_batch(number, planes, [1, 2])
python3 = {"batch_label": "training batch 3 of 5", "labels": [1, 2], "data": planes}
seeds = [contents["data_batch_3"], *(pickle.dumps(python3, protocol=p) for p in range(6))]
small = [seed.replace(planes.tobytes(), b"") for seed in seeds]
exploit = b"cos\\nmkdir\\n(S'pwned'\\ntR."
opcodes = [op.code.encode("latin1") for op in __import__("pickletools").opcodes]
draw = random.Random(0)

def mutant():
    data = bytearray(draw.choice(seeds if draw.random() < 0.1 else small))
    for _ in range(draw.choice([1, 1, 2, 3, 8])):
        at = draw.randrange(len(data))
        kind = draw.randrange(7)
        if kind == 0: data[at] = draw.randrange(256)
        elif kind == 1: data[at:at] = draw.choice(opcodes)
        elif kind == 2: del data[at : at + draw.randrange(1, 20)]
        elif kind == 3: data[at:at] = exploit[: draw.randrange(1, len(exploit) + 1)]
        elif kind == 4: data[at:at] = data[draw.randrange(len(data)) :][: draw.randrange(40)]
        elif kind == 5:
            names = {b"numpy": b"posix", b"dtype": b"mkdir", b"_reconstruct": b"system"}
            for old, new in names.items():
                data = bytearray(bytes(data).replace(old, new, draw.randrange(2)))
        else: data[at:at] = draw.choice([b"\\x82\\x01", b"\\x93", b"i", b"o", b"b", b"R", b"\\x81"])
        if not data: data = bytearray(b".")
    return bytes(data)

mutants = [mutant() for _ in range(%(count)d)]
watched, seen = False, []

def hook(event, args):
    if watched and event not in ("pickle.find_class", "object.__getattr__", "sys._getframe"):
        seen.append(f"{event} {args!r}"[:200])

sys.addaudithook(hook)
cifar10.read_folder = lambda folder: dict(contents)
here, errors, taken, other = Path(), 0, 0, []
before = {name: repr(vars(value)) for name, value in vars(cifar10).items()
          if callable(value) and hasattr(value, "__dict__")}
for data in mutants:
    contents["data_batch_3"] = data
    watched = True
    try:
        cifar10.load_cifar(here)
        taken += 1
    except ImageSetError as error:
        errors += 1
        if len(str(error).splitlines()) != 1 or len(str(error)) > 600: other.append(repr(error))
    except BaseException as error:
        other.append(repr(error)[:300])
    watched = False
after = {name: repr(vars(value)) for name, value in vars(cifar10).items()
         if callable(value) and hasattr(value, "__dict__")}
print(json.dumps({"errors": errors, "taken": taken, "seen": seen[:5], "other": other[:5],
                  "changed": [name for name in after if after[name] != before.get(name)]}))
"""


def test_mutated_pickles_run_nothing(own_folder: Path) -> None:
    values = {"project": str(PROJECT), "tests": str(PROJECT / "tests"), "count": MUTANTS}
    command = [sys.executable, "-c", FUZZ % values]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["errors"] + figures["taken"] == MUTANTS
    assert figures["errors"] > MUTANTS / 2
    assert figures["seen"] == figures["other"] == figures["changed"] == []
    assert os.listdir(own_folder) == []


CALL = b"(S'pwned'\nt"
EXPLOITS = {
    "GLOBAL and REDUCE": b"cos\nmkdir\n" + CALL + b"R.",
    "INST": b"(S'pwned'\nios\nmkdir\n.",
    "OBJ": b"(cos\nmkdir\nS'pwned'\no.",
    "NEWOBJ": b"\x80\x02cos\nmkdir\n" + CALL + b"\x81.",
    "NEWOBJ_EX": b"\x80\x04cos\nmkdir\n" + CALL + b"}\x92.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + CALL + b"R.",
    "STACK_GLOBAL, dotted": b"\x80\x04\x8c\x05numpy\x8c\x08os.mkdir\x93" + CALL + b"R.",
    "EXT1": b"\x80\x02\x82\x01" + CALL + b"R.",
    "EXT2": b"\x80\x02\x83\x01\x00" + CALL + b"R.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00" + CALL + b"R.",
    "PERSID": b"Pos.mkdir\n.",
    "BINPERSID": b"S'os.mkdir'\nQ.",
    "BUILD": b"cnumpy\nndarray\n)R(dS'__class__'\ncos\nmkdir\nsb.",
    "BUILD of a function": b"cnumpy.core.multiarray\n_reconstruct\n"
    b"(N(dS'__defaults__'\n(S'x'\ntstb0cos\nmkdir\n" + CALL + b"R.",
    "eval": b'cbuiltins\neval\n(S\'__import__("os").mkdir("pwned")\'\ntR.',
    "getattr": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'__init__'\ntR.",
    "_codecs with another name": b"c_codecs\nlookup\n(S'rot13'\ntR.",
    "memo bomb": b"\x80\x02]r\xff\xff\xff\x7f.",
    "endless mark": b"(" * 100_000,
    "deep": b"(" * 50_000 + b"t" * 50_000 + b".",
}


@pytest.mark.parametrize("name", EXPLOITS)
@pytest.mark.parametrize("inside", [False, True])
def test_published_exploits_are_refused(
    name: str, inside: bool, own_folder: Path, fails: Fails
) -> None:
    import copyreg

    copyreg.add_extension("os", "mkdir", 1)
    try:
        data = EXPLOITS[name]
        if inside and name != "deep":  # as the first value of an otherwise good batch
            good = python2_batch(3, np.zeros((2, 3072), np.uint8), [1, 2])
            data = good[:3] + b"(U\x01x" + re.sub(rb"^\x80.|\.$", b"", data) + good[4:]
        folder = own_folder / "cifar-10-batches-py"
        folder.mkdir()
        (folder / "batches.meta").write_bytes(python2_meta())
        for number in range(1, 6):
            batch = python2_batch(number, np.zeros((2, 3072), np.uint8), [1, 2])
            (folder / f"data_batch_{number}").write_bytes(data if number == 3 else batch)
        error = fails(split_images.main)
    finally:
        copyreg.remove_extension("os", "mkdir", 1)
    assert "data_batch_3 is not a CIFAR-10 batch" in error
    assert len(error) < 600
    assert os.listdir(own_folder) == ["cifar-10-batches-py"]


def test_a_pickle_cannot_change_the_reader_for_the_next(own_folder: Path) -> None:
    good = python2_batch(1, np.ones((2, 3072), np.uint8), [1, 2])
    with pytest.raises((ValueError, TypeError, pickle.UnpicklingError)):
        read_batch(
            b"cnumpy.core.multiarray\n_reconstruct\n(dS'poison'\nI1\nsb0"
            b"cnumpy\nndarray\n(dS'poison'\nI1\nsb.",
            1,
            10,
        )
    assert not vars(cifar10._new_array)
    assert "poison" not in vars(cifar10._Array)
    assert read_batch(good, 1, 10)[0].sum() == 2 * 3072


NAMES = [
    'quote".png',
    "apostrophe's.png",
    "back\\slash.png",
    'all\\"of\\\'them".png',
    'a" or path != "".png',
    "new\nline.png",
    "tab\tulator.png",
    "percent%_like.png",
    "{path}.png",
    'z 15".png',
    'z" or path != ".png',
    "z\\",
    "\u202egnp.exe.png",
    "\x1b[31mred.png",
    " leading and trailing .png",
    "e\u0301 and \u00e9.png",
    "😀.png",
]


def test_names_cannot_break_a_filter_or_a_line(
    own_folder: Path, milvus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = "/".join(["d" * 150, "e" * 150, "f.png"])  # 306 characters
    names = [*NAMES, deep]
    names = [name if name.endswith(".png") else f"{name}.png" for name in names]
    for number, name in enumerate(names):
        path = own_folder / "odd names" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = (16 * number, 255 - 16 * number, 7 * number)
        Image.new("RGB", (12, 12), colour).save(path, "PNG")
    Path("odd names/bad\nname.png").write_bytes(b"no picture")
    assert load("--images", "odd names") == 0
    assert set(rows()) == set(names)
    assert query_code.main(["--queries", "odd names"]) == 0
    written = pairings()
    assert len(written) == len(names)
    for row in written:
        assert row["query"] == row["match"]
    assert load("--images", "odd names") == 0
    assert f"{len(names)} were in already" in capsys.readouterr().out
    for name in names[::2]:
        (own_folder / "odd names" / name).unlink()
    assert load("--images", "odd names", "--prune", "--prune-most") == 0
    assert set(rows()) == set(names[1::2])
    printed = capsys.readouterr()
    report = Path("results/observations.md").read_text() + Path("results/pairings.txt").read_text()
    for text in (printed.out, printed.err, report):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert not re.search(r"^name\.png|^line\.png", text, re.MULTILINE)


def test_rows_are_read_in_pages_whatever_the_last_key_of_a_page(
    own_folder: Path, milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hostile name alone, last of all, and at the end of a page of one row."""
    vector = np.eye(512, dtype=np.float32)
    with connect(resolve_uri(None)) as client:
        properties = {"root": "/nowhere", "dimension": "512"}
        collection = ImageCollection.create(client, "images", properties)
        for name in NAMES:
            names = sorted({"!first.png", name})
            for some in ([name], names):
                collection.upsert([DecodedImage(n, 1, 2, 3, 4) for n in some], vector[: len(some)])
                for page in (1, 2, 1000):
                    monkeypatch.setattr(image_collection, "READ_ROWS", page)
                    monkeypatch.setattr(image_collection, "READ_EMBEDDINGS", page)
                    assert [image.path for image in collection.stored_images()] == some
                    pages = collection.stored_embeddings("file_size == 1 or width > 5")
                    assert [path for paths, _ in pages for path in paths] == some
                    assert not list(collection.stored_embeddings("file_size == 9 or width > 5"))
            collection.delete(names)
            assert collection.count() == 0
        every = sorted(NAMES)
        collection.upsert([DecodedImage(n, 1, 2, 3, 4) for n in every], vector[: len(every)])
        monkeypatch.setattr(image_collection, "READ_ROWS", 1)
        assert [image.path for image in collection.stored_images()] == every


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
    assert load("--images", root) == 0
    out = capsys.readouterr().out
    assert set(rows()) == {"good.png", "a gif.png"}
    assert "Loaded 2 images" in out
    assert "could not be read: 10" in out
    for name in SKIPPED:
        assert re.search(rf"^  {re.escape(name)}(\.\w+)?: \w+", out, re.MULTILINE), name
    for path in (root / "good.png", root / "a gif.png"):
        path.unlink()
    assert load("--images", root) == 0
    assert "Loaded 0 images" in capsys.readouterr().out


def save_gif(root: Path) -> Path:
    path = root / "x.gif"
    Image.new("P", (12, 12), 3).save(path)
    return path


def test_a_folder_of_nothing_but_bad_files_says_so(own_folder: Path, fails: Fails) -> None:
    Path("bad").mkdir()
    for number in range(3):
        Path(f"bad/{number}.png").write_bytes(b"bad")
    assert load("--images", "bad") == 0
    assert rows() == {}
    assert "can't be read" in fails(query_code.main, "--queries", "bad")


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


@pytest.mark.parametrize("mode", ["P", "PA", "RGBA", "LA", "CMYK", "1", "L", "YCbCr", "RGB"])
def test_every_mode_is_loaded_as_a_viewer_shows_it(mode: str, own_folder: Path) -> None:
    rng = np.random.default_rng(3)
    picture = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    if mode == "PA":
        picture = picture.convert("RGBA").convert("P")
    picture = picture.convert(mode)
    rgb = to_rgb(picture)
    expected = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    expected = Image.alpha_composite(white, expected).convert("RGB")
    np.testing.assert_array_equal(np.asarray(rgb), np.asarray(expected))


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


def test_weights_that_say_they_are_larger_than_they_are(own_folder: Path, fails: Fails) -> None:
    import torch

    (own_folder / "pictures").mkdir()
    Image.new("RGB", (9, 9)).save("pictures/x.png")
    whole = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, whole)
    for name, data in {
        "half": whole.getvalue()[: len(whole.getvalue()) // 2],
        "few": whole.getvalue(),
        "text": b"hello",
        "nothing": b"",
        "pickle": pickle.dumps(os.system),
    }.items():
        Path(name).write_bytes(data)
        assert name in fails(embed_and_load.main, "--images", "pictures", "--weights", name)
    assert not Path("milvus.db").exists()
