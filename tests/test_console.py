"""console.py: exit statuses, closed pipes, odd letters, lines where there is no terminal."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LOAD, PROJECT, run_script
from PIL import Image

from similar_images import console
from similar_images.console import LINE_SECONDS, Progress, status_of


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(lambda: None, (ValueError,), "all is kept") == 0
    assert capsys.readouterr().err == ""
    assert status_of(raising(ValueError("no; do this")), (ValueError,), "all is kept") == 1
    assert capsys.readouterr().err == "error: no; do this\n"
    assert status_of(raising(OSError(28, "No space left")), (ValueError,), "all is kept") == 1
    assert "No space left; make room" in capsys.readouterr().err
    assert status_of(raising(KeyboardInterrupt()), (ValueError,), "all is kept") == 130
    assert capsys.readouterr().err == "interrupted: all is kept\n"
    assert status_of(raising(KeyboardInterrupt()), (ValueError,), lambda: "half is") == 130
    assert capsys.readouterr().err == "interrupted: half is\n"
    with pytest.raises(ZeroDivisionError):
        status_of(raising(ZeroDivisionError()), (ValueError,), "all is kept")


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
def test_a_pipe_that_nobody_reads_any_more_ends_quietly(loaded: Path) -> None:
    """The reader has gone before the first line: more is written than a pipe holds."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(PROJECT / "query_code.py"), "--json", "--top-k", "100"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' terminals are of another kind")
def test_letters_that_stdout_lacks_are_escaped(own_folder: Path) -> None:
    Path("pictures").mkdir()
    Image.new("RGB", (9, 9)).save("pictures/кошка.png")
    Path("pictures/猫.png").write_bytes(b"bad")
    latin = {"PYTHONIOENCODING": "latin-1"}
    done = run_script("embed_and_load.py", *LOAD, "--images", "pictures", cwd=own_folder, env=latin)
    assert done.returncode == 0, done.stderr
    assert "\\u732b.png: not a picture" in done.stdout
    done = run_script("query_code.py", "pictures/кошка.png", cwd=own_folder, env=latin)
    assert done.returncode == 0, done.stderr
    assert "\\u043a" in done.stdout


def test_where_there_is_no_terminal_a_line_says_where_a_run_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", LINE_SECONDS)
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Progress("images", 45_000, quiet=False) as progress:
        for _ in range(30):
            now[0] += 10
            progress.update(1000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0] == "6,000 of 45,000 images, 100.0 images/s, about 6 min left"
    assert lines[-1].startswith("30,000 of 45,000 images")
    with Progress("images", None, quiet=False) as progress:
        now[0] += 100
        progress.update(500)
    assert capsys.readouterr().err == "500 images, 5.0 images/s\n"
    with Progress("images", 9, quiet=True) as progress:
        now[0] += 1000
        progress.update(1)
    assert capsys.readouterr().err == ""
