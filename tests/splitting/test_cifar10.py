"""cifar10.py: batches are read as they were written, and damaged ones are named."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LABELS, python2_batch, write_batches, written
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import split_images
from similar_images.splitting.cifar10 import read_batch, read_label_names

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
        images, read = read_batch(data, number, 10)
        assert list(read) == labels
        expected = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(images, expected)


def test_label_names_are_read_in_the_text_protocol_of_python_2() -> None:
    names = b"".join(b"S'%s'\np%d\na" % (name.encode(), i) for i, name in enumerate(LABELS, 3))
    meta = b"(dp1\nS'num_vis'\np99\nI3072\nsS'label_names'\np2\n(lp98\n" + names + b"s."
    assert read_label_names(meta) == LABELS


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
