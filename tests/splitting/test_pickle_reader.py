"""pickle_reader.py: no pickle runs code, hangs, exhausts the memory or crashes the process."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import PROJECT, python2_batch, python2_meta

import split_images
from similar_images.splitting.cifar10 import read_batch

Fails = Callable[..., str]


def write_with_third(data: bytes) -> None:
    """Write a small CIFAR-10 here, with these bytes as its third batch."""
    folder = Path("cifar-10-batches-py")
    folder.mkdir()
    (folder / "batches.meta").write_bytes(python2_meta())
    batch = python2_batch(3, np.zeros((2, 3072), np.uint8), [1, 2])
    for number in range(1, 6):
        good = batch.replace(b"batch 3", b"batch %d" % number)
        (folder / f"data_batch_{number}").write_bytes(data if number == 3 else good)


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_that_would_run_code_is_refused(protocol: int, own_folder: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(own_folder / "pwned"),)

    with pytest.raises(ValueError, match=r"it names|pickle opcode"):
        read_batch(pickle.dumps({"data": Exploit()}, protocol=protocol), 1, 10)
    assert not (own_folder / "pwned").exists()


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
        write_with_third(data)
        error = fails(split_images.main)
    finally:
        copyreg.remove_extension("os", "mkdir", 1)
    assert "data_batch_3 is not a CIFAR-10 batch" in error
    assert len(error) < 600
    assert os.listdir(own_folder) == ["cifar-10-batches-py"]


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
from similar_images.splitting import cifar10, pickle_reader
from similar_images.splitting.split import ImageSetError

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
    if watched and event not in ("object.__getattr__", "sys._getframe"):
        seen.append(f"{event} {args!r}"[:200])

sys.addaudithook(hook)
cifar10.read_folder = lambda folder: dict(contents)
here, errors, taken, other = Path(), 0, 0, []
before = {name: repr(vars(value)) for name, value in vars(pickle_reader).items()
          if callable(value) and hasattr(value, "__dict__")}
for data in mutants:
    contents["data_batch_3"] = data
    watched = True
    try:
        cifar10.read_source(here)
        taken += 1
    except ImageSetError as error:
        errors += 1
        if len(str(error).splitlines()) != 1 or len(str(error)) > 600: other.append(repr(error))
    except BaseException as error:
        other.append(repr(error)[:300])
    watched = False
after = {name: repr(vars(value)) for name, value in vars(pickle_reader).items()
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


def titled(value: bytes) -> bytes:
    """Return a batch that is good but for its batch_label."""
    good = python2_batch(3, np.zeros((2, 3072), np.uint8), [1, 2])
    title = b"U\x15training batch 3 of 5"
    assert title in good
    return good.replace(title, value)


def encoded(times: int) -> bytes:
    """Return a list of a text of 20 MB, a function, and what the function makes of the text."""
    text = b"X" + (20_000_000).to_bytes(4, "little") + b"x" * 20_000_000
    call = b"h\x00h\x01U\x06latin1\x86R"
    return b"(c_codecs\nencode\nq\x00" + text + b"q\x01" + call * times + b"l"


NESTED = {
    "doubled tuples": b"N" + b"q\x00h\x00\x86" * 60,  # 2 ** 60 times None
    "doubled lists": b"(" * 60 + b"]" + b"q\x00h\x00l" * 60,
    "nested tuples": b"N" + b"\x85" * 400_000,
    "nested lists": b"(" * 200_000 + b"l" * 200_000,
}
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\nq\x00)R"
BOMBS: dict[str, Callable[[], bytes]] = {
    "doubled tuples as a key": lambda: b"}" + NESTED["doubled tuples"] + b"Ns.",
    "nested tuples as a key": lambda: b"}" + NESTED["nested tuples"] + b"Ns.",
    "doubled tuples": lambda: titled(NESTED["doubled tuples"]),
    "doubled lists": lambda: titled(NESTED["doubled lists"]),
    "nested tuples": lambda: titled(NESTED["nested tuples"]),
    "nested lists": lambda: titled(NESTED["nested lists"]),
    "nested states": lambda: titled(ARRAY + b"h\x00)R" * 60_000 + b"b" * 60_000),
    "many lists": lambda: b"]" * 30_000_000 + b".",
    "a long number": lambda: titled(b"L" + b"9" * 30_000_000 + b"L\n"),
    "a long name": lambda: b"c" + b"\x01" * 30_000_000 + b"\nx\n.",
    "a long frame": lambda: b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "a text encoded many times": lambda: titled(encoded(60)),
}
MEASURED = """
import re, sys
from pathlib import Path
import split_images

status = split_images.main([])
kilobytes = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(int(kilobytes[1]) // 1000)
sys.exit(status)
"""


def refused(folder: Path) -> str:
    """Split in a process of its own; return its error, which comes soon and with little memory."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,  # seconds; what is meant to take for ever takes longer
    )
    assert done.returncode == 1, done.stderr[-500:]
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < 600
    assert int(done.stdout.splitlines()[-1]) < 700, "megabytes"
    return done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_neither_long_nor_much_memory(name: str, own_folder: Path) -> None:
    write_with_third(BOMBS[name]())
    assert "data_batch_3 is not a CIFAR-10 batch" in refused(own_folder)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("name", NESTED)
def test_label_names_are_text(name: str, own_folder: Path) -> None:
    write_with_third(b"")
    meta = b"\x80\x02}U\x0blabel_names](" + NESTED[name] + b"es."
    (own_folder / "cifar-10-batches-py/batches.meta").write_bytes(meta)
    assert "batches.meta is not a CIFAR-10 batch" in refused(own_folder)


def test_a_batch_is_read_the_same_after_a_hostile_one() -> None:
    good = python2_batch(1, np.ones((2, 3072), np.uint8), [1, 2])
    for module, name in (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray")):
        poison = f"c{module}\n{name}\n}}S'poison'\nI1\nsb.".encode()
        with pytest.raises(ValueError, match="sets the state"):
            read_batch(poison, 1, 10)
    assert read_batch(good, 1, 10)[0].sum() == 2 * 3072
