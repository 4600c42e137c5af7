"""split_images.py: from batches or digits to two folders of PNGs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import LABELS, PROJECT, write_batches, written
from PIL import Image

import split_images
from similar_images.splitting.cifar10 import read_batch

Fails = Callable[..., str]


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
    labels = np.concatenate([read_batch(data)[1] for data in contents])
    for position, path in {**database, **queries}.items():
        np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels[position])
        assert path.parent.name == LABELS[labels[position]]
        assert path.name == f"{position:05d}.png"


def test_sample_needs_no_download_and_limit_takes_the_first(capsys: pytest.CaptureFixture) -> None:
    assert split_images.main(["--sample", "--limit", "50", "--query-fraction", "0.2"]) == 0
    database, queries = written(Path("database_set")), written(Path("query_set"))
    assert sorted([*database, *queries]) == list(range(50))
    assert len(queries) == 10
    image = Image.open(database[min(database)])
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert "database_set: 40 images" in capsys.readouterr().out


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


# Run whole; once it has written an image, it waits.
HELD_SPLIT = """
import sys, threading
import split_images
from similar_images.console import Progress

def held(*arguments):
    print("HELD", flush=True)
    threading.Event().wait()

Progress.update = held
sys.exit(split_images.main(["--sample"]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_in_the_way(
    own_folder: Path, stop: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HELD_SPLIT],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "HELD\n" in iter(process.stdout.readline, "")
    assert any(own_folder.glob(".database_set.*/database_set/*/*.png"))
    process.send_signal(stop)
    _, errors = process.communicate()
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert not list(own_folder.glob("*_set"))
    if stop == signal.SIGINT:
        assert errors.startswith("interrupted: nothing was written")
        assert not os.listdir(own_folder)
    assert split_images.main(["--sample", "--limit", "50"]) == 0
    assert len(written(Path("database_set"))) == 45
