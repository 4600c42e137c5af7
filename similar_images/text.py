"""Words and numbers for people: counted nouns, shares, text that stays on its line."""


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


def printable(text: str) -> str:
    r"""Return text with all that could forge or reorder a line escaped: controls, bidi marks.

    >>> printable("a\tb")
    'a\\tb'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode()
        for char in text
    )
