"""pairs.py: no path can forge a line of the pairings."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from similar_images.matching.pairs import Pair
from similar_images.results.tables import pairings_text
from similar_images.text import printable


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), max_size=5))
def test_no_path_can_forge_a_line(names: list[tuple[str, str]]) -> None:
    text = "".join(pairings_text([[Pair(query, match, 0.25)] for query, match in names]))
    rows = list(csv.reader(io.StringIO(text), delimiter="\t"))
    assert rows[0] == ["query", "rank", "match", "similarity"]
    assert len(text.splitlines()) == len(rows) == len(names) + 1
    for row, (query, match) in zip(rows[1:], names, strict=True):
        assert row == [printable(query), "1", printable(match), "0.250000"]
