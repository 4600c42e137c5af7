"""text.py: what comes from outside stays on its line."""

from hypothesis import given
from hypothesis import strategies as st

from similar_images.text import printable


@given(st.text())
def test_printable_text_stays_on_its_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
