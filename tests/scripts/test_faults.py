"""What goes wrong while the scripts run: kills, interrupts, full disks, other programs, damage.

Nothing is simulated that can be done: processes are killed, file systems are full, files vanish.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    LOAD,
    MODEL,
    PROJECT,
    children,
    exact_embedder,
    load,
    rows,
    run_script,
    write_batches,
)
from PIL import Image

import embed_and_load
import query_code
import split_images
from similar_images.images import decode_workers
from similar_images.images.decoding import Preprocessing
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import ImageCollection, existing_collection
from similar_images.milvus.connection import connect
from similar_images.milvus.lite import LiteClient
from similar_images.network.openvino_embedder import OpenVinoEmbedder

Fails = Callable[..., str]
posix = pytest.mark.skipif(os.name != "posix", reason="signals and mounts are POSIX's")


# --- Killed -----------------------------------------------------------------------------------

# Where a load is held until it is killed, and at which time of coming there.
HOLDS = [
    ("embedding", 1),
    ("embedding", 9),
    ("upserting", 1),
    ("upserting", 2),
    ("upserting", 5),
    ("upserted", 1),
    ("upserted", 3),
    ("flushing", 1),
    ("counting", 1),
    ("noting", 2),
]


def held_load(folder: str, hold: tuple[str, int], workers: str, there: object) -> None:
    """In a process of its own: a load that stops at a place, says so, and waits to be killed."""
    os.chdir(folder)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    LiteClient.upsert_rows = 4
    times = 0

    def wait_here() -> None:
        nonlocal times
        times += 1
        if times == hold[1]:
            there.send("held")  # type: ignore[attr-defined]
            threading.Event().wait()

    def stop(owner: type, method: str, before: bool = True) -> None:
        original = getattr(owner, method)

        def held(*args: object, **options: object) -> object:
            if before:
                wait_here()
            answer = original(*args, **options)
            if not before:
                wait_here()
            return answer

        setattr(owner, method, held)

    {
        "embedding": lambda: stop(OpenVinoEmbedder, "embed"),
        "upserting": lambda: stop(ImageCollection, "upsert"),
        "upserted": lambda: stop(ImageCollection, "upsert", before=False),
        "flushing": lambda: stop(ImageCollection, "flush"),
        "counting": lambda: stop(ImageCollection, "count"),
        "noting": lambda: stop(ImageCollection, "set_properties"),
    }[hold[0]]()
    embed_and_load.main([*MODEL, "--batch-size", "4", "--workers", workers])


@pytest.fixture(scope="module")
def forkserver() -> multiprocessing.context.ForkServerContext:
    """Processes that start in no time, since pymilvus is imported already."""
    if not Path("/proc/self/task").exists():
        pytest.skip("looks for children in /proc")
    context = multiprocessing.get_context("forkserver")
    # Not OpenVINO: its telemetry starts a thread, and a fork could copy what that has locked.
    context.set_forkserver_preload(["pymilvus", "milvus_lite", "test_faults"])
    return context


def has_ended(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # also between open and read
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_kills_lose_nothing(
    loaded: Path, forkserver: multiprocessing.context.ForkServerContext
) -> None:
    for path in sorted(Path("database_set").rglob("*.png"))[60:]:
        path.unlink()
    shutil.rmtree("milvus.db")
    assert load() == 0
    expected = rows()
    for (place, number), workers in zip(HOLDS, itertools.cycle("20")):
        shutil.rmtree("milvus.db")
        before = 0
        for again in range(2):  # the second goes on where the first was killed
            ours, theirs = forkserver.Pipe()
            arguments = (str(loaded), (place, number), workers, theirs)
            process = forkserver.Process(target=held_load, args=arguments)
            process.start()
            theirs.close()
            try:
                assert ours.recv() == "held"
            except EOFError:  # the rest was too little to come there so often
                assert again
                process.join()
                continue
            assert process.pid
            started = children(process.pid)
            assert again or place in ("flushing", "counting", "noting") or workers == "0" or started
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            while not all(map(has_ended, started)):  # for ever, if a worker outlives its parent
                threading.Event().wait(0.02)
            kept = len(rows()) if Path("milvus.db").exists() else 0
            assert kept >= before
            if place == "upserted" and not again:
                assert kept >= 4 * number
            before = kept
        assert load() == 0
        after = rows()
        assert set(after) == set(expected)
        for path, row in after.items():
            np.testing.assert_allclose(row["embedding"], expected[path]["embedding"], atol=1e-6)
            for name in ("file_size", "width", "height", "modified_at"):
                assert row[name] == expected[path][name]


# Run whole; its fifth upsert waits until the four before it were counted, says so, and waits until
# the interrupt. Two threads say something: a line goes out in one
# write, where print would take several and mix them.
INTERRUPTED_LOAD = """
import os
import signal
import sys
import threading
import embed_and_load
from similar_images import console
from similar_images.milvus.collection import ImageCollection
from similar_images.milvus.lite import LiteClient
LiteClient.upsert_rows = 16
upsert, calls = ImageCollection.upsert, []
four_counted, interrupted = threading.Event(), threading.Event()

def interrupt(*args):
    interrupted.set()
    signal.default_int_handler(*args)

def held(self, *rows):
    calls.append(1)
    if len(calls) == 5:
        four_counted.wait()
        os.write(2, b"HELD\\n")
        interrupted.wait()
    upsert(self, *rows)

def update(self, count):
    self.n += count
    if self.unit != " images":
        return
    if count:
        os.write(2, f"TAKEN {count}\\n".encode())
    if self.n == 64:
        four_counted.set()

signal.signal(signal.SIGINT, interrupt)
ImageCollection.upsert = held
console.Progress.update = update
sys.exit(embed_and_load.main(sys.argv[1:]))
"""


@posix
def test_ctrl_c_keeps_every_row_that_was_reported(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("milvus.db")
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_LOAD, *MODEL, "--batch-size", "8", "--workers", "2"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    taken, errors = 0, []
    for line in process.stderr:
        errors.append(line)
        if line.startswith("TAKEN"):
            taken += int(line.split()[1])
        if line.startswith("HELD"):
            process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    messages = [line for line in errors if not line.startswith(("TAKEN", "HELD", "warning"))]
    assert messages == ["interrupted: loaded rows are kept; run it again to resume\n"]
    stored = rows()
    assert taken == 64
    assert taken <= len(stored) < 180
    assert query_code.main([]) == 0
    assert "was interrupted, or is still running: it holds" in capsys.readouterr().err
    assert load() == 0
    assert len(rows()) == 180
    assert query_code.main([]) == 0
    assert "interrupted" not in capsys.readouterr().err


# --- Disks ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(own_folder: Path) -> Iterator[Path]:
    """A folder on a file system of its own with room for 3 MB."""
    folder = own_folder / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_full_disk_leaves_no_half_split(small_disk: Path, fails: Fails) -> None:
    write_batches(small_disk.parent / "cifar-10-batches-py", per_batch=600)
    sets = ["--database-set", small_disk / "d", "--query-set", small_disk / "q"]
    assert "No space left" in fails(split_images.main, *sets)
    assert not os.listdir(small_disk)
    remount(small_disk, "ro")
    assert "Read-only" in fails(split_images.main, "--sample", *sets)


RESULTS = ["comparison.png", "gallery.html", "observations.md", "pairings.txt"]


def test_a_full_disk_damages_no_finished_results(
    loaded: Path, small_disk: Path, fails: Fails
) -> None:
    output = ["--output", str(small_disk / "results")]
    assert query_code.main(output) == 0
    before = contents(small_disk)
    assert set(before) == {f"results/{name}" for name in RESULTS}
    sizes = sorted(len(content) for content in before.values())
    room = shutil.disk_usage(small_disk).free
    for left in (8192, sizes[-1] // 2, sizes[-1] + 8192, sum(sizes) - 16384):  # ever later files
        (small_disk / "other").write_bytes(bytes(max(0, room - left)))
        assert "No space left" in fails(query_code.main, *output, "--seed", "1")
        (small_disk / "other").unlink()
        assert contents(small_disk) == before
    remount(small_disk, "ro")
    assert "Read-only" in fails(query_code.main, *output, "--seed", "1")
    assert contents(small_disk) == before


def test_a_full_disk_for_temporary_files_ends_a_query_in_one_line(
    loaded: Path, small_disk: Path
) -> None:
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 65536))
    Path("noise").mkdir()
    rng = np.random.default_rng(0)
    for number in range(100):  # their thumbnails take more than SQLite keeps in memory
        pixels = rng.integers(0, 256, (192, 192, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"noise/{number}.bmp")
    place = {"SQLITE_TMPDIR": str(small_disk)}
    ended = run_script("query_code.py", "--queries", "noise", "--quiet", cwd=loaded, env=place)
    assert ended.returncode == 1
    error = ended.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert "disk is full" in error
    assert "make room" in error
    assert "Traceback" not in ended.stderr
    assert not Path("results").exists()


def test_a_full_disk_during_a_load_loses_nothing_that_was_in(
    loaded: Path, small_disk: Path
) -> None:
    """Each run in a process of its own: an open file would keep the disk from being remounted."""
    uri = ["--milvus-uri", small_disk / "m.db"]

    def error_of(script: str, *args: object) -> str:
        done = run_script(script, *args, *uri, "--quiet", cwd=loaded)
        assert done.returncode == 1, done.stdout
        errors = [line for line in done.stderr.splitlines() if not line.startswith("warning")]
        assert len(errors) == 1, done.stderr
        assert errors[0].startswith("error: ")
        return errors[0]

    (small_disk / "other").write_bytes(bytes(2_900_000))
    assert "No space left" in error_of("embed_and_load.py", *LOAD)
    remount(small_disk, "size=64m")
    assert run_script("embed_and_load.py", *LOAD, *uri, cwd=loaded).returncode == 0
    remount(small_disk, "ro")
    Image.new("RGB", (9, 9)).save("database_set/new.png")
    assert "Read-only" in error_of("embed_and_load.py", *LOAD)
    assert "Read-only" in error_of("query_code.py")
    remount(small_disk, "rw")
    assert run_script("embed_and_load.py", *LOAD, *uri, cwd=loaded).returncode == 0
    shutil.copytree(small_disk / "m.db", "copy.db")
    assert set(rows("copy.db")) == {*rows(), "new.png"}


# --- Other programs ---------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["embed_and_load.py", "query_code.py"])
def test_a_file_in_use_is_said_to_be_so(script: str, loaded: Path) -> None:
    with connect("./milvus.db"):
        weights = MODEL[:4] if script == "embed_and_load.py" else []
        command = [sys.executable, str(PROJECT / script), *weights]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning")]
    assert len(lines) == 1, done.stderr
    assert "milvus.db is in use by" in lines[0]
    for harmful in ("rm ", "delete", "remove", "recreate", "move"):
        assert harmful not in lines[0]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def noise(file: Path) -> None:
    file.write_bytes(bytes(9999))


@pytest.mark.parametrize("pattern", ["manifest.json*", "schema.json", "*.parquet", "*.idx"])
@pytest.mark.parametrize("damage", [cut, noise])
def test_a_damaged_file_is_said_plainly_with_the_way_out(
    pattern: str, damage: Callable[[Path], None], loaded: Path, fails: Fails
) -> None:
    assert load("--index", "hnsw" if pattern == "*.idx" else "auto") == 0
    files = list(Path("milvus.db").rglob(pattern))
    assert files
    for file in files:
        damage(file)
    before = contents(loaded / "milvus.db")
    for error in (fails(query_code.main), fails(embed_and_load.main, *LOAD)):
        assert "milvus.db" in error
        assert "move it away and run python embed_and_load.py" in error
    after = contents(loaded / "milvus.db")
    assert {name for name in before if ".parquet" in name} <= set(after), "nothing is deleted"
    os.rename("milvus.db", "damaged.db")
    assert load() == 0
    assert len(rows()) == 180


def test_a_file_of_another_kind_is_no_database(loaded: Path, fails: Fails) -> None:
    shutil.rmtree("milvus.db")
    Path("milvus.db").write_bytes(b"SQLite format 3\0")
    for error in (fails(query_code.main), fails(embed_and_load.main, *LOAD)):
        assert "move it away" in error
    assert Path("milvus.db").read_bytes() == b"SQLite format 3\0"


@pytest.mark.parametrize("pattern", ["manifest.json*", "*.parquet"])
def test_lost_files_are_noticed_and_their_rows_loaded_again(
    pattern: str, loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = rows()
    for file in Path("milvus.db").rglob(pattern):
        file.unlink()
    assert query_code.main([]) == 1
    assert "run python embed_and_load.py" in capsys.readouterr().err
    assert load() == 0
    assert set(rows()) == set(expected)
    assert query_code.main([]) == 0


def test_a_query_says_that_rows_were_lost(loaded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with connect("./milvus.db") as client:
        collection = existing_collection(client, "images")
        collection.delete([image.path for image in collection.stored_images()][:7])
    assert query_code.main([]) == 0
    assert "holds 173 of the 180 images that were loaded" in capsys.readouterr().err
    assert load() == 0
    assert query_code.main([]) == 0
    assert "of the 180" not in capsys.readouterr().err


# --- A folder that changes --------------------------------------------------------------------


def test_a_folder_that_changes_under_a_load(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = own_folder / "images"
    root.mkdir()
    draw = random.Random(2)

    def paint(path: Path) -> None:
        """Write an image of one colour, its file as long as its red is strong."""
        red = draw.randrange(200)
        other = path.with_name(".new")  # an image appears whole, as programs should write
        image = Image.new("RGB", (8, 8), (red, 40, 90))
        image.save(other, "BMP")
        with open(other, "ab") as file:
            file.write(bytes(red))
        os.replace(other, path)

    def disturb(path: Path) -> None:
        if draw.random() < 0.4:
            path.unlink(missing_ok=True)
        else:
            paint(path)

    decode = decode_workers.decode

    def decode_disturbed(folder: Path, path: str, *least_side: int) -> object:
        """Before each image is read, this one or another changes, comes or goes."""
        for _ in range(draw.randrange(3)):
            disturb(root / f"{draw.randrange(260):03d}.bmp")
        if draw.random() < 0.1:
            disturb(root / path)
        return decode(folder, path, *least_side)

    for number in range(200):
        paint(root / f"{number:03d}.bmp")
    monkeypatch.setattr(LiteClient, "upsert_rows", 16)
    options = ["--images", root, "--batch-size", "8", "--prune", "--prune-most"]
    with monkeypatch.context() as patch:
        patch.setattr(decode_workers, "decode", decode_disturbed)
        for _ in range(3):
            assert load(*options) == 0
    out = capsys.readouterr().out
    assert "No such file" in out, "files that vanished are named"
    embedder = exact_embedder()
    preprocess = Preprocessing(256, 224)
    solid = np.zeros((256, 8, 8, 3), np.uint8)
    solid[..., 0], solid[..., 1], solid[..., 2] = np.arange(256)[:, None, None], 40, 90
    pixels = np.stack([preprocess(Image.fromarray(image)) for image in solid])
    by_red = np.concatenate([embedder.embed(pixels[i : i + 16]) for i in range(0, 256, 16)])
    Image.new("RGB", (8, 8)).save("one.bmp")
    header = os.path.getsize("one.bmp")
    for row in rows().values():  # what is stored belongs together, whenever it was read
        red = int(row["file_size"]) - header  # type: ignore[call-overload]
        assert np.dot(row["embedding"], by_red[red]) > 0.999999  # type: ignore[arg-type]
    assert load(*options) == 0
    assert set(rows()) == {path.name for path in root.glob("*.bmp")}
    for path, row in rows().items():
        assert row["file_size"] == (root / path).stat().st_size


def test_secrets_are_never_printed(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (own_folder / "images").mkdir()
    Image.new("RGB", (8, 8)).save("images/one.png")
    monkeypatch.setenv("MILVUS_TOKEN", "root:hush%20hush")
    addresses = [
        "http://me:very%40mum@127.0.0.1:9",
        "http://me:very%40mum@127.0.0.1:nine",
        "https://me:very%40mum@[::1:9",
        "nonsense://me:very%40mum@host",
        "http://very%40mum@127.0.0.1:9?token=very%40mum",
    ]
    for uri in addresses:
        assert load("--images", "images", "--milvus-uri", uri) == 1
        assert query_code.main(["--queries", "images", "--milvus-uri", uri]) == 1
        monkeypatch.setenv("MILVUS_URI", uri)
        assert query_code.main(["--queries", "images"]) == 1
        monkeypatch.delenv("MILVUS_URI")
    assert load("--images", "images") == 0
    with connect("./milvus.db") as client:
        properties = client.milvus.describe_collection("images")["properties"]
    printed = capfd.readouterr()
    everything = printed.out + printed.err + json.dumps(properties)
    assert "127.0.0.1" in everything
    for secret in ("hush", "very", "mum", "me:"):
        assert secret not in everything
    with pytest.raises(CollectionError) as caught:
        connect(addresses[0])
    assert "mum" not in str(caught.value)
