"""Text for people: counted nouns, percentages, names from outside that stay on their line."""

import re

# Control characters, bidirectional controls, line and paragraph separators, and surrogates (bytes
# of a file name that are not UTF-8). A backslash only where it would read as one of our escapes.
_ESCAPED = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    r"|\\(?=u[0-9a-f]{4})"
)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> counted(1, "pair"), counted(2000, "pair"), counted(0, "query", "queries")
    ('1 pair', '2,000 pairs', '0 queries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def share(part: int, whole: int) -> str:
    """Return a share in percent with one decimal.

    >>> share(3741, 5000)
    '74.8%'
    """
    return f"{100 * part / whole:.1f}%" if whole else "n/a"


def megabytes(size: int) -> str:
    """Return a number of bytes in megabytes.

    >>> megabytes(1_234_567_890)
    '1,234.6 MB'
    """
    return f"{size / 1e6:,.1f} MB"


def printable(text: str) -> str:
    r"""Return text without the characters that could forge or reorder a line.

    Each of them becomes \uNNNN, with four lower-case hexadecimal digits; everything else stays as
    it is. A backslash that such digits follow already becomes \u005c, so that no two texts look
    the same: replacing every \uNNNN by its character gives the text back. Apply it once, when
    printing.

    >>> printable("a\tb"), printable(r"C:\new\猫\u.png"), printable(r"C:\uface.png")
    ('a\\u0009b', 'C:\\new\\猫\\u.png', 'C:\\u005cuface.png')
    """
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
