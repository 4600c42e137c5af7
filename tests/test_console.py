"""console.py: exit statuses, closed pipes, escaping, progress without a terminal."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers import LOAD, PROJECT, pairings, run_script
from PIL import Image

import embed_and_load
import image_to_embedding
import query_code
import split_images
from similar_images import console
from similar_images.console import Console, Progress, escaped, script_parser, status_of, warn

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
HOSTILE = "\x1b]0;title\x07\x1b[2J\rerror: \x9b31m\u202egnp\u2066\u2028\nwarning: forged"


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(lambda: None, (ValueError,), "all is kept") == 0
    assert capsys.readouterr().err == ""
    assert status_of(raising(ValueError("no; do this")), (ValueError,), "all is kept") == 1
    assert capsys.readouterr().err == "error: no; do this\n"
    assert status_of(raising(KeyboardInterrupt()), (ValueError,), "all is kept") == 130
    assert capsys.readouterr().err == "interrupted: all is kept\n"
    assert status_of(raising(KeyboardInterrupt()), (ValueError,), lambda: "half is") == 130
    assert capsys.readouterr().err == "interrupted: half is\n"
    with pytest.raises(ZeroDivisionError):
        status_of(raising(ZeroDivisionError()), (ValueError,), "all is kept")


def test_an_error_of_the_system_is_one_line_with_advice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "a.png")
    assert status_of(raising(full), (KeyError,), "") == 1
    advice = "check that path, its permissions and the free space"
    wanted = f"error: [Errno {errno.ENOSPC}] No space left on device: 'a.png'; {advice}\n"
    assert capsys.readouterr().err == wanted


def test_no_text_controls_the_terminal_or_begins_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for speaker in (Console(), Console(quiet=True), Console(results_only=True)):
        speaker.say(f"say {HOSTILE}")
        speaker.trouble(f"trouble {HOSTILE}")
    warn(HOSTILE)
    error = ValueError(f"{HOSTILE}; do this")
    assert status_of(raising(error), (ValueError,), "", f"rank {HOSTILE}: ") == 1
    assert status_of(raising(KeyboardInterrupt()), (), HOSTILE) == 130
    with pytest.raises(SystemExit):
        script_parser("").parse_args([f"--{HOSTILE}"])
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert not CONTROLS.search(text)
    words = ("say ", "trouble ", "warning: ", "error: ", "interrupted: ", "usage: ", "pytest")
    lines = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert all(line.startswith(words) or "unrecognized" in line for line in lines), lines
    assert len([line for line in lines if "forged" in line]) == 9


def test_each_script_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    for script in (split_images, embed_and_load, query_code, image_to_embedding):
        with pytest.raises(SystemExit) as ended:
            script.main(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == "similar-images 1.0.0\n"


def test_what_is_escaped_already_is_not_escaped_again() -> None:
    assert escaped(escaped(HOSTILE)) == escaped(HOSTILE)
    for plain in (r"C:\uface.png \x1b", "Straße 猫 e\u0301 😀 a  b", ""):
        assert escaped(plain) == plain


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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are in UTF-8")
def test_a_name_that_the_locale_lacks_is_one_line(own_folder: Path) -> None:
    Path("images").mkdir()
    for name in ("猫", "another"):
        Image.new("RGB", (9, 9)).save(f"images/{name}.png")
    assert embed_and_load.main([*LOAD, "--images", "images"]) == 0
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = run_script("query_code.py", "images/another.png", cwd=own_folder, env=ascii_only)
    error = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert "images/\\u732b.png is no file name in the locale's encoding" in error
    assert error.endswith("; set PYTHONUTF8=1, or a locale with UTF-8")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("script", "option"),
    [
        *((query_code, f"--{x}") for x in ("queries", "collection-images", "output", "keep-in")),
        (query_code, "--milvus-uri"),
        (query_code, "--"),
        (embed_and_load, "--images"),
        (split_images, "--query-set"),
        (image_to_embedding, "--"),
    ],
)
def test_an_empty_path_is_wrong_usage_and_no_folder(
    script: ModuleType, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        script.main([option, ""])
    assert ended.value.code == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="shells are POSIX's")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing_but_what_is_printed(loaded: Path, closed: str) -> None:
    command = f'"{sys.executable}" "{PROJECT}/query_code.py" {closed}'
    assert subprocess.run(["bash", "-c", command], capture_output=True).returncode == 0
    assert len(pairings()) == 20
    command = f'"{sys.executable}" "{PROJECT}/embed_and_load.py" --images nowhere {closed}'
    assert subprocess.run(["bash", "-c", command], capture_output=True).returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' terminals are of another kind")
def test_letters_that_stdout_lacks_are_escaped(own_folder: Path) -> None:
    Path("images").mkdir()
    for name in ("кошка", "another"):
        Image.new("RGB", (9, 9)).save(f"images/{name}.png")
    Path("images/猫.png").write_bytes(b"bad")
    latin = {"PYTHONIOENCODING": "latin-1"}
    done = run_script("embed_and_load.py", *LOAD, "--images", "images", cwd=own_folder, env=latin)
    assert done.returncode == 0, done.stderr
    assert "\\u732b.png: not an image" in done.stdout
    done = run_script("query_code.py", "images/кошка.png", cwd=own_folder, env=latin)
    assert done.returncode == 0, done.stderr
    assert "\\u043a" in done.stdout


def test_where_there_is_no_terminal_a_line_says_where_a_run_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 60)
    now = [1000.0]
    for total, quiet in ((45_000, False), (None, False), (45_000, True)):
        with Progress("images", total, quiet, "rank 1: ") as progress:
            progress._time = lambda: now[0]
            progress.start_t = progress.last_print_t = now[0]
            for _ in range(30):
                now[0] += 10
                progress.update(1000)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (0 if quiet else 5)
        of = " 13% 6000/45000 [01:00<06:30" if total else "6000 images [01:00"
        assert quiet or lines[0] == f"rank 1: {of}, 100.00 images/s]", lines
