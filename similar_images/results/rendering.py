"""Fill in the templates of gallery.html and observations.md; untrusted text is escaped."""

import itertools
import re
import string
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from similar_images.text import byte_size, counted, interval, printable, share


def render(template: str, **values: object) -> str:
    """Return a file of templates/, filled in. A missing value is an error, not an empty place.

    In HTML every value is escaped; a Markdown template passes text through `md` or `code`.
    """
    return str(_environment().get_template(template).render(values))


def md(text: str) -> str:
    """Return text that can't start Markdown; a table's cells also pass through `row`."""
    return "".join("\\" + char if char in r"\`*_{}[]<>#+!~&" else char for char in printable(text))


def code(text: str) -> str:
    """Return text as a code span that it can't end."""
    text = printable(text)
    if "\\|" in text:  # a table would be split here: a code span knows no escaped backslash
        return md(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{text}{space}{fence}"


def row(cells: Sequence[object]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def letters() -> Iterator[str]:
    """Yield A to Z, then AA, AB and so on."""
    for length in itertools.count(1):
        for chars in itertools.product(string.ascii_uppercase, repeat=length):
            yield "".join(chars)


def _printable_in_html(context: Any, value: object) -> object:
    # In Markdown `md` and `code` have done it: twice would be wrong.
    return printable(value) if context.autoescape and type(value) is str else value


@cache
def _environment() -> Any:
    import jinja2  # here, so that importing this package stays fast

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        finalize=jinja2.pass_eval_context(_printable_in_html),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = [md, code, row, counted, share, interval, byte_size]
    environment.filters |= {function.__name__: function for function in filters}
    environment.filters["thousands"] = "{:,}".format
    return environment
