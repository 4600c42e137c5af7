"""Text for people: counted nouns, percentages, names from outside that stay on their line."""

import re
import typing

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


def share(part: float, whole: float) -> str:
    """Return a share in percent with one decimal, or with as many as tell it from none and all.

    >>> share(3741, 5000), share(4999, 5000), share(0, 0)
    ('74.8%', '99.98%', 'n/a')
    """
    decimals = 1
    while 0 < part < whole and float(f"{100 * part / whole:.{decimals}f}") in (0, 100):
        decimals += 1
    return f"{100 * part / whole:.{decimals}f}%" if whole else "n/a"


def wilson_interval(part: float, whole: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share, both ends from 0 to 1.

    >>> [round(end, 4) for end in wilson_interval(3741, 5000)]
    [0.736, 0.76]
    """
    z = 1.959964  # half of the normal distribution's middle 95%
    centre = (part + z * z / 2) / (whole + z * z)
    half = z / (whole + z * z) * (part * (whole - part) / whole + z * z / 4) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def interval(part: float, whole: int) -> str:
    """Return Wilson's interval in words.

    >>> interval(0, 50)
    '95% confidence interval 0.0% to 7.1%'
    """
    low, high = wilson_interval(part, whole)
    return f"95% confidence interval {100 * low:.1f}% to {100 * high:.1f}%"


def byte_size(size: int) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> byte_size(931), byte_size(2_300), byte_size(1_234_567_890)
    ('931 bytes', '2.3 kB', '1.2 GB')
    """
    power = min(3, (len(str(size)) - 1) // 3)
    units = ("kB", "MB", "GB")
    return f"{size / 1000**power:.1f} {units[power - 1]}" if power else counted(size, "byte")


def natural(text: str) -> list[typing.Any]:
    """Return a key that sorts numbers in texts by their value.

    >>> sorted(["b 10", "10", "b 2", "b", "2"], key=natural)
    ['2', '10', 'b', 'b 2', 'b 10']
    """
    parts = re.split("([0-9]{1,18})", text)  # every second one is a number
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


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


def table_cell(text: str) -> str:
    """Return text for a table separated by tabs: printable, without what readers of CSV quote."""
    return printable(text).replace('"', "\\u0022")
