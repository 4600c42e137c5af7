"""decode_workers.py: batches are the same whoever decodes them, and whoever dies of it."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import wait_until
from PIL import Image

from similar_images.images import decode_workers
from similar_images.images.decode_workers import Decoder, Task
from similar_images.images.decoding import Decoded, Preprocessing, decode
from similar_images.images.image_files import ImageError, Listing, Skipped, iter_images

preprocess = Preprocessing(256, 224)


# Every Python process that starts with this in a folder of $PYTHONPATH reads it first.
HOOK = """
import os, re, signal, sys

open_file = os.open

def open_or_die(path, *args, **options):
    name = os.path.basename(path)
    if "kills" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "crashes" in name:
        os.abort()
    if "hangs" in name:
        re.match("(a+)+$", "a" * 99 + "b")  # in C code, for ever, while no other thread runs
    return open_file(path, *args, **options)

os.open = open_or_die
if os.environ.get("DIE_AT_ONCE") and "--multiprocessing-fork" in sys.argv:
    os._exit(1)
"""


@pytest.fixture
def deadly(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder; worker processes die of those of its images whose names say so."""
    (own_folder / "hook").mkdir()
    (own_folder / "hook/sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(own_folder / "hook"))
    return own_folder


def draw(folder: Path, names: list[str]) -> None:
    """Write images, each of a colour of its own."""
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 255 - number, 7)).save(folder / name, "PNG")


def decoded(decoder: Decoder, names: Iterator[str] | list[str]) -> tuple[list[str], list[Skipped]]:
    """Return which images came, in their order, and which were skipped; check their pixels."""
    came: list[str] = []
    skipped: list[Skipped] = []
    for batch in decoder.batches(names):
        for image, pixels in zip(batch.images, batch.pixels, strict=True):
            expected = preprocess(decode(decoder.task.root, image.path).rgb)
            np.testing.assert_array_equal(pixels, expected)
            came.append(image.path)
        skipped += batch.skipped
    return came, skipped


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_cost_no_other(workers: int, photos: Path) -> None:
    """Of these, one batch at least holds nothing else."""
    broken = [f"broken/{number}.jpg" for number in range(5)]
    (photos / "broken").mkdir()
    for name in broken:
        (photos / name).write_bytes(b"nothing")
    paths = sorted(image.path for image in iter_images(photos, Listing()))
    with Decoder(Task(root=photos, preprocessing=preprocess), 3, workers) as decoder:
        came, skipped = decoded(decoder, paths)
    assert [item.path for item in skipped] == broken
    assert came == [path for path in paths if path not in broken]


def full_at_one(image: Decoded) -> None:
    """Run out of memory at an image."""
    if image.info.path == "1.png":
        raise MemoryError


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_memory_does_not_suffice_for_is_skipped(
    workers: int, own_folder: Path
) -> None:
    draw(own_folder, ["0.png", "1.png", "2.png"])
    with Decoder(Task(root=own_folder, examine=full_at_one), 3, workers) as decoder:
        (batch,) = decoder.batches(["0.png", "1.png", "2.png"])
    assert [image.path for image in batch.images] == ["0.png", "2.png"]
    assert batch.skipped == [Skipped("1.png", "MemoryError", unseen=True)]


KILLERS = {0: "kills", 9: "crashes", 10: "kills", 20: "crashes", 29: "kills"}


@pytest.mark.parametrize("workers", [1, 3])
def test_an_image_that_its_worker_dies_of_costs_no_other(workers: int, deadly: Path) -> None:
    names = [f"{number:02d} {KILLERS.get(number, '')}.png" for number in range(30)]
    draw(deadly, names)
    with Decoder(Task(root=deadly, preprocessing=preprocess), 4, workers) as decoder:
        came, skipped = decoded(decoder, names)
    culprits = [names[number] for number in KILLERS]
    assert came == [name for name in names if name not in culprits]
    reason = "its decode worker ran out of memory, crashed, or took more than 120 s"
    assert skipped == [Skipped(name, reason, unseen=True) for name in culprits]
    wait_until(lambda: not multiprocessing.active_children(), "its end", lambda: True)


def test_an_image_that_takes_too_long_is_skipped(
    deadly: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_workers, "IMAGE_SECONDS", 2)
    names = [f"{number}.png" for number in range(5)] + ["hangs.png", "6.png", "7.png"]
    draw(deadly, names)
    with Decoder(Task(root=deadly, preprocessing=preprocess), 2, workers=2) as decoder:
        came, skipped = decoded(decoder, names)
    assert came == [name for name in names if name != "hangs.png"]
    assert skipped == [
        Skipped(
            "hangs.png",
            "its decode worker ran out of memory, crashed, or took more than 2 s",
            unseen=True,
        )
    ]


def in_turn(image: Decoded) -> bool:
    """Return whether no other image is examined at the same time; die of one, once."""
    if "once" in image.info.path and not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        Path("busy").mkdir()
    except FileExistsError:
        return False
    time.sleep(0.1)
    Path("busy").rmdir()
    return True


def test_large_images_are_decoded_one_at_a_time(own_folder: Path) -> None:
    """Even if the worker of one is killed; what is larger than the limit is skipped."""
    names = [f"{number}{' once' if number == 5 else ''}.png" for number in range(12)]
    for name in [*names, "larger.png"]:
        Image.new("L", (1000, 1001 if name == "larger.png" else 1000)).save(name)
    task = Task(root=own_folder, megapixels=1, examine=in_turn)
    with Decoder(task, 1, workers=4) as decoder:
        batches = list(decoder.batches([*names, "larger.png"]))
    assert [image.path for batch in batches for image in batch.images] == names
    assert all(alone for batch in batches for alone in batch.examined)
    reason = "it has more than 1 megapixels; see --max-megapixels"
    assert batches[-1].skipped == [Skipped("larger.png", reason)]


def test_workers_that_the_system_kills_cost_no_image(own_folder: Path) -> None:
    """Idle or busy, at many moments of a run: an image that is in order is never skipped."""
    names = [f"{number:02d}.png" for number in range(48)]
    draw(own_folder, names)
    kills = 0

    def killing() -> Iterator[str]:
        nonlocal kills
        for number, name in enumerate(names):
            if number % 7 == 6:
                for process in multiprocessing.active_children():
                    process.kill()
                    kills += 1
            yield name

    with Decoder(Task(root=own_folder, preprocessing=preprocess), 3, workers=2) as decoder:
        came, skipped = decoded(decoder, killing())
        idle = multiprocessing.active_children()
        for process in idle:
            process.kill()
            process.join()
        came_later, skipped_later = decoded(decoder, names)
    assert kills
    assert idle
    assert came == came_later == names
    assert skipped == skipped_later == []


def test_workers_that_cannot_start_end_in_an_error(
    deadly: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIE_AT_ONCE", "1")
    draw(deadly, ["x.png"])
    with (
        Decoder(Task(root=deadly, preprocessing=preprocess), 4, workers=2) as decoder,
        pytest.raises(ImageError, match="as soon as they start; try --workers 0"),
    ):
        list(decoder.batches(["x.png"]))


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="POSIX only")
def test_ctrl_c_does_not_reach_a_worker_that_is_starting(own_folder: Path) -> None:
    draw(own_folder, ["x.png"])
    with Decoder(Task(root=own_folder, preprocessing=preprocess), 4, workers=1) as decoder:
        assert len(list(decoder.batches(["x.png"]))) == 1
        blocked = decoder._pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT in blocked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
