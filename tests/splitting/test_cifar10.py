"""cifar10.py: batches are read as they were written; damaged and hostile ones are named."""

import copyreg
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import python2_batch, write_batches, written
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import split_images
from similar_images.splitting.cifar10 import read_batch

Fails = Callable[..., str]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 5), st.randoms())
def test_reader_returns_what_a_batch_holds(labels: list[int], number: int, rnd: Any) -> None:
    planes = np.frombuffer(rnd.randbytes(len(labels) * 3072), np.uint8).reshape(-1, 3072)
    python3 = {"batch_label": f"training batch {number} of 5", "labels": labels, "data": planes}
    python3["filenames"] = [f"{label}.png".encode() for label in labels]
    for data in (
        python2_batch(number, planes, labels),
        *(pickle.dumps(python3, protocol=protocol) for protocol in range(1, 5)),
        pickle.dumps({key.encode(): value for key, value in python3.items()}, protocol=2),
        pickle.dumps({key.encode(): value for key, value in python3.items()}, protocol=4),
    ):
        images, read = read_batch(data)
        assert list(read) == labels
        expected = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(images, expected)


GOOD = np.zeros((4, 3072), np.uint8)
DAMAGED = {
    "truncated": python2_batch(3, GOOD, [1] * 4)[:-9000],
    "shape": python2_batch(3, GOOD[:, :-1], [1] * 4),
    "dtype": python2_batch(3, GOOD, [1] * 4).replace(b"U\x02u1", b"U\x02i1"),
    "label": python2_batch(3, GOOD, [1, 2, 3, 10]),
    "count": python2_batch(3, GOOD, [1, 2, 3]),
    "empty": b"",
    "list": pickle.dumps([1], protocol=2),
    "missing": None,
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_batch_stops_before_anything_is_written(
    what: str, own_folder: Path, fails: Fails
) -> None:
    write_batches(own_folder / "cifar-10-batches-py", per_batch=4)
    third, data = own_folder / "cifar-10-batches-py/data_batch_3", DAMAGED[what]
    third.unlink() if data is None else third.write_bytes(data)
    assert "data_batch_3" in fails(split_images.main)
    assert os.listdir(own_folder) == ["cifar-10-batches-py"]


def _archive(folder: Path, target: Path) -> None:
    """Pack batches, after files and a link that unpacking would put elsewhere."""
    with tarfile.open(target, "w:gz") as tar:
        for name in ("../evil.png", "/tmp/evil.png"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.add(folder, "cifar-10-batches-py")


def test_the_archive_is_read_without_unpacking_it(own_folder: Path) -> None:
    pixels = write_batches(own_folder / "elsewhere", per_batch=4)
    _archive(own_folder / "elsewhere", own_folder / "cifar-10-python.tar.gz")
    assert split_images.main(["--query-fraction", "0.5"]) == 0
    images = written(Path("database_set")) | written(Path("query_set"))
    assert sorted(images) == list(range(20))
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


CALL = b"(S'pwned'\nt"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
OBJECTS = b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI8\nI8\nI0\ntb"
POINTER = ARRAY + b"(I1\n(I2\nt" + OBJECTS + b"I00\nS'AAAAAAAAAAAAAAAA'\ntb"
HOSTILE = {
    "GLOBAL and REDUCE": b"cos\nmkdir\n" + CALL + b"R.",
    "os.system": b"cos\nsystem\n(S'mkdir pwned'\ntR.",
    "eval": b'cbuiltins\neval\n(S\'__import__("os").mkdir("pwned")\'\ntR.',
    "getattr": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'__init__'\ntR.",
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
    "BUILD": b"cnumpy\nndarray\n(N(dS'__class__'\ncos\nmkdir\nstb.",
    "another name of _codecs": b"c_codecs\nlookup\n(S'rot13'\ntR.",
    "an array of pointers as a shape": b"cnumpy\nndarray\n(" + POINTER + b"tR.",
    "an attribute of what is admitted": b"cnumpy\ndtype.__class__\n" + CALL + b"R.",
    "a state of a function": b"c_codecs\nencode\n(N(dS'__code__'\nNstb.",
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_run_nothing(
    name: str, inside: bool, own_folder: Path, fails: Fails
) -> None:
    write_batches(own_folder / "cifar-10-batches-py", per_batch=4)
    third = own_folder / "cifar-10-batches-py/data_batch_3"
    data, good = HOSTILE[name], third.read_bytes()
    if inside:  # as the first value of an otherwise good batch
        body = re.sub(rb"^\x80.|\.$", b"", data)
        data = good[:3] + b"(U\x04data" + body + b"U\x0bbatch_label" + body + b"u."
    third.write_bytes(data)
    copyreg.add_extension("os", "mkdir", 1)
    try:
        assert "data_batch_3 can't be read as CIFAR-10" in fails(split_images.main)
    finally:
        copyreg.remove_extension("os", "mkdir", 1)
    assert os.listdir(own_folder) == ["cifar-10-batches-py"]
