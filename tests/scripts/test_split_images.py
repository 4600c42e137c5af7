"""split_images.py: from batches or digits to two folders of PNGs."""

import hashlib
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LABELS, PROJECT, python2_batch, write_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import split_images
from similar_images.cifar10 import read_batch
from similar_images.split import SplitError, check_targets, split_positions

Fails = Callable[..., str]
# Of the original homework's 5,000 query positions, sorted, as little-endian int64.
ORIGINAL_QUERIES = "640395c866c54d0e929c6cfb9a552f3d1aa15d216e47ad12a73c5fe76e88e03d"


def written(folder: Path) -> dict[int, Path]:
    return {int(path.stem): path for path in folder.rglob("*.png")}


def test_pixels_and_labels_survive_bit_for_bit(own_folder: Path) -> None:
    pixels = write_batches(own_folder / "cifar-10-batches-py", per_batch=30)
    assert split_images.main([]) == 0
    database, queries = written(Path("database_set")), written(Path("query_set"))
    assert len(database) == 135
    assert len(queries) == 15
    assert set(database) | set(queries) == set(range(150))
    contents = [
        (own_folder / "cifar-10-batches-py" / f"data_batch_{n}").read_bytes() for n in range(1, 6)
    ]
    labels = np.concatenate([read_batch(data, n, 10)[1] for n, data in enumerate(contents, 1)])
    for position, path in {**database, **queries}.items():
        np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels[position])
        assert path.parent.name == LABELS[labels[position]]
        assert path.name == f"{position:05d}.png"


def test_default_split_is_the_original_homeworks() -> None:
    database, queries = split_positions(50_000, 0.1, 42)
    assert hashlib.sha256(queries.astype("<i8").tobytes()).hexdigest() == ORIGINAL_QUERIES
    assert len(database) == 45_000
    assert not set(database) & set(queries)


@given(st.integers(2, 400), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_every_image_lands_on_exactly_one_side(count: int, fraction: float, seed: int) -> None:
    try:
        database, queries = split_positions(count, fraction, seed)
    except SplitError:
        assert int(count * (1 - fraction)) == 0  # nothing would be left for the database
        return
    assert sorted([*database, *queries]) == list(range(count))
    assert len(queries) == int(np.ceil(count * fraction))


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


def test_sample_needs_no_download_and_limit_takes_the_first(capsys: pytest.CaptureFixture) -> None:
    assert split_images.main(["--sample", "--limit", "50", "--query-fraction", "0.2"]) == 0
    database, queries = written(Path("database_set")), written(Path("query_set"))
    assert sorted([*database, *queries]) == list(range(50))
    assert len(queries) == 10
    image = Image.open(database[min(database)])
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert "database_set: 40 images" in capsys.readouterr().out


def test_nothing_is_overwritten_unless_asked_and_never_foreign_files(
    own_folder: Path, fails: Fails
) -> None:
    Path("database_set").mkdir()  # an empty folder is fine
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    assert "--overwrite" in fails(split_images.main, "--sample")
    assert split_images.main(["--sample", "--limit", "30", "--overwrite"]) == 0
    assert len(written(Path("database_set"))) == 27
    Path("query_set/holiday.jpg").write_bytes(b"mine")
    assert "query_set" in fails(split_images.main, "--sample", "--overwrite")
    assert Path("query_set/holiday.jpg").read_bytes() == b"mine"
    assert set(os.listdir(own_folder)) == {"database_set", "query_set"}


@pytest.mark.parametrize(
    "args",
    [
        ["--query-fraction", "1"],
        ["--query-fraction", "nan"],
        ["--seed", "-1"],
        ["--limit", "1"],
        ["--sample", "--cifar", "x"],
        ["--database-set", "a", "--query-set", "a/b"],
        ["--no-such-option"],
    ],
)
def test_wrong_usage_ends_with_status_2(args: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        split_images.main(args)
    assert stopped.value.code == 2


def test_other_mistakes_end_in_one_line(fails: Fails) -> None:
    Path("a_file").write_text("x")
    assert "a_file" in fails(split_images.main, "--sample", "--database-set", "a_file")
    assert "nowhere" in fails(split_images.main, "--cifar", "nowhere")
    fraction = ["--limit", "2", "--query-fraction", "0.9"]
    assert "can't be split" in fails(split_images.main, "--sample", *fraction)


# Run whole; once it has given a worker something to write, it waits.
HELD_SPLIT = """
import concurrent.futures, sys, threading
import split_images
from similar_images import split

def held(futures):
    concurrent.futures.wait(futures[:1])
    print("HELD", flush=True)
    threading.Event().wait()

if __name__ == "__main__":
    split.concurrent.futures.as_completed = held
    sys.exit(split_images.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_run_leaves_what_was_there(
    own_folder: Path, stop: signal.Signals, overwrite: bool
) -> None:
    write_batches(own_folder / "cifar-10-batches-py", per_batch=200)
    if overwrite:
        assert split_images.main(["--sample", "--limit", "50"]) == 0
    before = {path: path.read_bytes() for path in own_folder.rglob("*_set/*/*.png")}
    (own_folder / "held.py").write_text(HELD_SPLIT)
    process = subprocess.Popen(
        [sys.executable, "held.py", *(["--overwrite"] if overwrite else [])],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "HELD\n" in iter(process.stdout.readline, "")
    assert any(own_folder.glob(".database_set.partial/*/*.png"))
    process.send_signal(stop)
    _, errors = process.communicate()
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert {path: path.read_bytes() for path in own_folder.rglob("*_set/*/*.png")} == before
    if stop == signal.SIGINT:
        assert errors == "interrupted: both folders are as they were, or whole; run it again\n"
        assert not list(own_folder.glob(".*"))
    assert split_images.main(["--overwrite"] if overwrite else []) == 0  # what was left is gone
    assert len(written(Path("database_set"))) == 900
    assert not list(own_folder.glob(".*"))


STEPS = 4  # both old folders out of the way, both new ones into their places


@pytest.mark.parametrize("number", range(1, STEPS + 1))
@pytest.mark.parametrize("error", [OSError(16, "busy"), KeyboardInterrupt()])
def test_no_step_of_overwriting_is_without_a_way_back(
    number: int, error: BaseException, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert split_images.main(["--sample", "--limit", "50"]) == 0
    before = contents(own_folder)
    replace, calls = os.replace, []

    def stopped(*places: Any) -> None:
        calls.append(places)
        if len(calls) == number:
            raise error
        replace(*places)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        status = split_images.main(["--sample", "--limit", "60", "--overwrite"])
    assert status == (1 if isinstance(error, OSError) else 130)
    assert contents(own_folder) == before


KILLED = """
import os, signal, sys
import split_images
replace, calls = os.replace, []

def killed(*places):
    calls.append(1)
    if len(calls) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*places)

if __name__ == "__main__":
    os.replace = killed
    split_images.main(sys.argv[2:])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("number", range(1, STEPS + 1))
def test_a_run_killed_between_its_steps_is_undone_by_the_next(
    number: int, own_folder: Path
) -> None:
    assert split_images.main(["--sample", "--limit", "50"]) == 0
    before = contents(own_folder)
    (own_folder / "killed.py").write_text(KILLED)
    command = [sys.executable, "killed.py", str(number), "--sample", "--limit", "60", "--overwrite"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    (own_folder / "killed.py").unlink()
    with pytest.raises(SplitError, match="add --overwrite"):
        check_targets([Path("database_set"), Path("query_set")], overwrite=False)
    for partial in own_folder.glob(".*.partial"):
        shutil.rmtree(partial)
    assert contents(own_folder) == before
    assert split_images.main(["--sample", "--limit", "60", "--overwrite"]) == 0
    assert len(written(Path("database_set"))) == 54
    assert sorted(os.listdir(own_folder)) == ["database_set", "query_set"]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_link_to_a_folder_is_overwritten_again_and_again(own_folder: Path) -> None:
    (own_folder / "elsewhere").mkdir()
    os.symlink("elsewhere", "query_set")
    for count in (20, 30, 40, 50):
        assert split_images.main(["--sample", "--limit", str(count), "--overwrite"]) == 0
        assert len(written(Path("database_set"))) + len(written(Path("elsewhere"))) == count
        assert Path("query_set").is_symlink()


def test_a_mount_point_is_refused_before_anything_is_touched(
    fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    before = contents(Path())
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "query_set")
    assert "mount point" in fails(split_images.main, "--sample", "--overwrite")
    assert contents(Path()) == before


@pytest.mark.parametrize("folder", ["database_set", ".database_set.old", ".query_set.partial"])
def test_pictures_named_like_ours_are_never_deleted(folder: str, fails: Fails) -> None:
    mine = Path(folder, "clip1/00001.png")  # as ffmpeg names frames
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    error = fails(split_images.main, "--sample", "--limit", "20", "--overwrite")
    assert "did not write (clip1/00001.png)" in error
    assert mine.read_bytes() == b"mine"


def test_what_systems_leave_in_folders_is_in_nobodys_way() -> None:
    assert split_images.main(["--sample", "--limit", "20"]) == 0
    for place in ("database_set/.DS_Store", "query_set/1/Thumbs.db"):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_bytes(b"")
    assert split_images.main(["--sample", "--limit", "30", "--overwrite"]) == 0
    assert len(written(Path("database_set"))) == 27


WORKER_KILLED = """
import os, signal, sys
import split_images
from similar_images import split

def killed(paths, pixels):
    os.kill(os.getpid(), signal.SIGKILL)

split._write_chunk = killed
if __name__ == "__main__":
    sys.exit(split_images.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_killed_worker_ends_in_one_line(own_folder: Path) -> None:
    (own_folder / "killed.py").write_text(WORKER_KILLED)
    command = [sys.executable, "killed.py", "--sample"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a process that wrote images was killed")
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(own_folder) == ["killed.py"]
