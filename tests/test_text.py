"""text.py: what comes from outside stays on its line, and can be read back."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from similar_images.text import printable

# Texts that hold escapes, parts of escapes and what is escaped, as well as any other characters.
TRICKY = st.text(st.sampled_from("\\u0059cfx\x00\n\x85\u2028\u202e\udce9\ud83d猫\U0001f600 "))
TEXTS = st.one_of(st.text(), st.text(st.characters()), TRICKY)
HARMLESS = ["\u202f", "\u3000", "\xa0", "\u200d", "\u200c", "\ufe0f", "\xad", "\U0001f600", "\\"]


def read_back(shown: str) -> str:
    """The documented rule, for a reader of a TSV file."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), shown)


@given(TEXTS)
def test_printable_text_stays_on_its_line_and_can_be_read_back(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert read_back(shown) == text


def test_every_character_with_a_direction_of_its_own_is_escaped() -> None:
    """By Unicode's data: embeddings, overrides and isolates, and the three marks."""
    controls = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    directed = [chr(n) for n in range(0x110000) if unicodedata.bidirectional(chr(n)) in controls]
    assert len(directed) == 9
    for char in [*directed, "\u061c", "\u200e", "\u200f"]:
        assert printable(f"a{char}b") == f"a\\u{ord(char):04x}b"


@pytest.mark.parametrize("char", HARMLESS)
def test_names_that_can_be_opened_as_they_are_stay_so(char: str) -> None:
    """Such as macOS's screenshots, which have U+202F before AM and PM, and Windows's paths."""
    for name in (f"Screenshot 9.41{char}AM.png", rf"C:\Users\new{char}.png"):
        assert printable(name) == name
