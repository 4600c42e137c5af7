"""interrupts.py: Ctrl-C ends a script in at most one line, whenever and however often it comes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PROJECT, raising_at, run_script

import query_code

SCRIPTS = ["split_images.py", "embed_and_load.py", "query_code.py", "image_to_embedding.py"]
START = """
import signal, time, weakref
from similar_images import interrupts
from similar_images.console import leave, status_of
class Something: pass
def press(*_): signal.raise_signal(signal.SIGINT)
def work():
"""
END = """
leave(status_of(work, (), "all is kept"))
"""
PRESSED = {
    "once": ("press()", "interrupted: all is kept\n"),
    "again while it cleans up": (
        "try: press()\n    finally: press(); press(); print('cleaned up', flush=True)",
        "cleaned up\ninterrupted: all is kept\n",
    ),
    "again when that takes too long": (
        "interrupts.GRACE = 0\n    try: press()\n    finally: time.sleep(0.1); press(); print(0)",
        "",
    ),
    "where exceptions are lost": (
        "one = Something(); ref = weakref.ref(one, press); del one; time.sleep(100)",
        "interrupted: all is kept\n",
    ),
    "after the work": (
        "import atexit; atexit.register(press)\n    print('done', flush=True)",
        "done\n",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_is_printed_while_a_script_imports(script: str, own_folder: Path) -> None:
    Path("early").mkdir()
    for name in ("tqdm.py", "numpy.py"):  # whichever comes first
        text = "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(100)\n"
        Path("early", name).write_text(text)
    done = run_script(script, cwd=own_folder, env={"PYTHONPATH": str(own_folder / "early")})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("when", PRESSED)
def test_once_is_enough(when: str) -> None:
    work, printed = PRESSED[when]
    done = subprocess.run(
        [sys.executable, "-c", f"{START}    {work}{END}"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (130, printed)


def test_an_interrupted_query_says_whether_its_results_are_there(
    loaded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name, left in (
        (query_code, "find_all", "nothing was changed; run it again"),
        (os, "replace", "the results may be of two runs; run it again"),
        (query_code, "print_results", "the results are written"),
    ):
        with monkeypatch.context() as patch:
            stopped = raising_at(1, KeyboardInterrupt(), getattr(module, name))
            patch.setattr(module, name, stopped)
            assert query_code.main([]) == 130
        assert f"interrupted: {left}\n" in capsys.readouterr().err
