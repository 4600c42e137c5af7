"""results.py: the pairings, and files that appear whole."""

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import results
from results import Pair, pairings_text


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), max_size=5))
def test_no_path_can_forge_a_line(names: list[tuple[str, str]]) -> None:
    text = pairings_text([Pair(query, match, 0.25) for query, match in names])
    rows = list(csv.reader(io.StringIO(text), delimiter="\t"))
    assert rows[0] == ["query", "rank", "match", "similarity"]
    assert len(text.splitlines()) == len(rows) == len(names) + 1
    for row, (query, match) in zip(rows[1:], names, strict=True):
        assert row == [results.printable(query), "1", results.printable(match), "0.250000"]


def test_a_file_appears_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    results.write_whole(Path("out/x.txt"), b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        results.write_whole(Path("out/x.txt"), b"new")
    assert os.listdir("out") == ["x.txt"]
    assert Path("out/x.txt").read_bytes() == b"old"
