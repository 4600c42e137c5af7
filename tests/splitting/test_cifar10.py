"""cifar10.py: batches are read as they were written; what somebody made to do harm runs nothing."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PROJECT, python2_batch, python2_meta, write_batches, written
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import split_images
from similar_images.splitting import cifar10
from similar_images.splitting.cifar10 import read_batch

Fails = Callable[..., str]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 5), st.randoms())
def test_reader_returns_what_a_batch_holds(labels: list[int], number: int, rnd: Any) -> None:
    planes = np.frombuffer(rnd.randbytes(len(labels) * 3072), np.uint8).reshape(-1, 3072)
    python3 = {"batch_label": f"training batch {number} of 5", "labels": labels, "data": planes}
    for data in (
        python2_batch(number, planes, labels),
        pickle.dumps(python3, protocol=2),
        pickle.dumps({key.encode(): value for key, value in python3.items()}, protocol=4),
    ):
        images, read = read_batch(data, number, 10)
        assert list(read) == labels
        expected = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_that_would_run_code_is_refused(protocol: int, own_folder: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(own_folder / "pwned"),)

    with pytest.raises((ValueError, pickle.UnpicklingError)):
        read_batch(pickle.dumps({"data": Exploit()}, protocol=protocol), 1, 10)
    assert not (own_folder / "pwned").exists()


def _damage(folder: Path, what: str) -> None:
    third = folder / "data_batch_3"
    good = np.zeros((4, 3072), np.uint8)
    changes = {
        "missing": third.unlink,
        "truncated": lambda: third.write_bytes(third.read_bytes()[:-9000]),
        "swapped": lambda: third.write_bytes((folder / "data_batch_4").read_bytes()),
        "shape": lambda: third.write_bytes(python2_batch(3, good[:, :-1], [1, 2, 3, 4])),
        "dtype": lambda: third.write_bytes(
            python2_batch(3, good, [1] * 4).replace(b"U\x02u1", b"U\x02i1")
        ),
        "label": lambda: third.write_bytes(python2_batch(3, good, [1, 2, 3, 10])),
        "count": lambda: third.write_bytes(python2_batch(3, good, [1, 2, 3])),
        "empty": lambda: third.write_bytes(b""),
        "list": lambda: third.write_bytes(pickle.dumps([1], protocol=2)),
        "names": lambda: (folder / "batches.meta").write_bytes(
            pickle.dumps({"label_names": ["../up"]}, protocol=2)
        ),
    }
    changes[what]()


@pytest.mark.parametrize(
    "what",
    [
        "missing",
        "truncated",
        "swapped",
        "shape",
        "dtype",
        "label",
        "count",
        "empty",
        "list",
        "names",
    ],
)
def test_a_damaged_batch_stops_before_anything_is_written(
    what: str, own_folder: Path, fails: Fails
) -> None:
    write_batches(own_folder / "cifar-10-batches-py", per_batch=4)
    _damage(own_folder / "cifar-10-batches-py", what)
    error = fails(split_images.main)
    assert ("batches.meta" if what == "names" else "data_batch_3") in error
    assert os.listdir(own_folder) == ["cifar-10-batches-py"]


def _archive(folder: Path, target: Path, evil: bool = False) -> None:
    with tarfile.open(target, "w:gz") as tar:
        if evil:
            for name in ("../evil.png", "/tmp/evil.png"):
                info = tarfile.TarInfo(name)
                info.size = 4
                tar.addfile(info, io.BytesIO(b"evil"))
            link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        tar.add(folder, "cifar-10-batches-py")


@pytest.mark.parametrize("evil", [False, True])
def test_the_archive_is_read_without_unpacking_it(evil: bool, own_folder: Path) -> None:
    pixels = write_batches(own_folder / "elsewhere", per_batch=4)
    _archive(own_folder / "elsewhere", own_folder / "cifar-10-python.tar.gz", evil)
    assert split_images.main(["--query-fraction", "0.5"]) == 0
    images = written(Path("database_set")) | written(Path("query_set"))
    assert len(images) == 20
    for position, path in images.items():
        np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels[position])
    expected = {"elsewhere", "cifar-10-python.tar.gz", "database_set", "query_set"}
    assert set(os.listdir(own_folder)) == expected
    assert not (own_folder.parent / "evil.png").exists()


def test_a_truncated_archive_is_named(own_folder: Path, fails: Fails) -> None:
    write_batches(own_folder / "elsewhere", per_batch=40)
    archive = own_folder / "cifar-10-python.tar.gz"
    _archive(own_folder / "elsewhere", archive)
    archive.write_bytes(archive.read_bytes()[:-300])
    assert str(archive.name) in fails(split_images.main)


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
from similar_images.splitting import cifar10
from similar_images.splitting.digits import ImageSetError

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
    values = {"project": str(PROJECT), "tests": str(PROJECT / "tests/support"), "count": MUTANTS}
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
