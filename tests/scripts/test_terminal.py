"""What a terminal sees: first and last lines, bars, --quiet, --json, exit statuses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LOAD, PROJECT, run_script

import embed_and_load
import query_code
import split_images


def on_a_terminal(script: str, *args: str) -> str:
    """Run a script with stderr on a terminal; return what stands there in the end."""
    pty = pytest.importorskip("pty", reason="terminals are POSIX's")
    termios = pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    command = [sys.executable, str(PROJECT / script), *args]
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65536):
            text += part
    except OSError:  # so a terminal's other end closes
        pass
    process.communicate()
    os.close(ours)
    return text.decode()


def test_each_script_begins_with_its_task_and_ends_with_the_next_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps: list[tuple[Callable[[list[str]], int], list[str], str, str]] = [
        (split_images.main, ["--sample", "--limit", "60"], "Splitting", "python embed_and_load.py"),
        (
            embed_and_load.main,
            LOAD,
            'Loading database_set into collection "images"',
            "python query_code.py",
        ),
        (query_code.main, [], "Matching 6 images from query_set", "open results/comparison.png"),
    ]
    for main, args, first, last in steps:
        assert main(args) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(first)
        assert lines[-1].endswith(f"Next: {last}")
        assert any(" s" in line for line in lines[-4:]), "how long it took"


def test_bars_show_on_a_terminal_alone_and_never_when_quiet(loaded: Path) -> None:
    for args in (["--prune"], []):
        for number, path in enumerate(sorted(Path("database_set").rglob("*.png"))[:2]):
            path.write_bytes(path.read_bytes() + b"%d" % number)
        assert "2/2" in on_a_terminal("embed_and_load.py", *LOAD, *args)
    path.write_bytes(path.read_bytes() + b"2")
    assert "1/1" not in on_a_terminal("embed_and_load.py", *LOAD, "--quiet")
    assert "20/20" in on_a_terminal("query_code.py")
    assert "20/20" not in on_a_terminal("query_code.py", "--quiet")
    assert "20/20" not in run_script("query_code.py", cwd=loaded).stderr


def test_each_phase_of_a_query_has_its_bar(loaded: Path) -> None:
    text = on_a_terminal("query_code.py", "--top-k", "3", "--recall-sample", "5")
    phases = ["images", "queries", "rows compared", "images read", "pairs compared"]
    for phase in phases:
        assert f" {phase}/s" in text, phase
    assert "? whole images compared/s" not in text, "a bar of nothing"


def test_quiet_prints_results_and_troubles_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert split_images.main(["--sample", "--limit", "60", "--quiet"]) == 0
    Path("database_set/broken.png").write_text("no image")
    assert embed_and_load.main([*LOAD, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "broken.png" in captured.err
    assert query_code.main(["--quiet"]) == 0
    assert capsys.readouterr().out == ""
    query = str(next(Path("query_set").rglob("*.png")))
    assert query_code.main([query, "--quiet", "--top-k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_many_unreadable_files_are_counted_by_reason(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(50):
        Path(f"query_set/{number}.png").write_bytes(b"" if number else b"no image")
    load = [*LOAD, "--images", "query_set", "--collection", "queries"]
    for main, args in ((embed_and_load.main, load), (query_code.main, [])):
        capsys.readouterr()
        assert main(args) == 0
        captured = capsys.readouterr()
        text = captured.out + captured.err
        lines = [line for line in text.splitlines() if ".png: " in line]
        assert len(lines) == 20
        assert sum(line.endswith(".png: an empty file") for line in lines) >= 19
        assert "30 more: an empty file (" in text
        assert text.count("not an image format that Pillow supports") == 1


def test_json_is_an_object_for_each_match_and_nothing_else(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert query_code.main(["--json", "--top-k", "3"]) == 0
    captured = capsys.readouterr()
    matches = [json.loads(line) for line in captured.out.splitlines()]
    assert len(matches) == 60
    assert "Matching 20 images" in captured.err
    written = Path("results/pairings.txt").read_text().splitlines()[1:]
    for match, line in zip(matches, written, strict=True):
        query, rank, path, similarity = line.split("\t")
        assert [match["query"], str(match["rank"]), match["match"]] == [query, rank, path]
        assert match["similarity"] == pytest.approx(float(similarity), abs=1e-6)
        assert match["query_label"] == query.split("/")[1]
        assert match["match_label"] == path.split("/")[1]
