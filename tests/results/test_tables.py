"""tables.py: no path can forge a line or a cell, whatever reads the pairings."""

import csv
import io
import re

from hypothesis import given
from hypothesis import strategies as st

from similar_images.matching.pairs import Pair
from similar_images.results.tables import pairings_text

NAMES = st.one_of(st.text(min_size=1), st.text(st.sampled_from('"\t\\\nu0022a'), min_size=1))


@given(st.lists(st.tuples(NAMES, NAMES), max_size=5))
def test_no_path_can_forge_a_line_or_a_cell(names: list[tuple[str, str]]) -> None:
    text = "".join(pairings_text([[Pair(query, match, 0.25)] for query, match in names]))
    rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    assert list(csv.reader(io.StringIO(text), delimiter="\t")) == rows, "nothing is quoted"
    assert rows[0] == ["query", "rank", "match", "similarity"]
    assert len(text.splitlines()) == len(rows) == len(names) + 1
    for row, (query, match) in zip(rows[1:], names, strict=True):
        read = [re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), cell) for cell in row]
        assert read == [query, "1", match, "0.250000"]
