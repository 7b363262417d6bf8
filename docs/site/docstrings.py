"""Docstrings are plain text with `code` in backticks; Sphinx reads "
"reStructuredText. This escapes what would be its markup."""

from __future__ import annotations

import re
from typing import Any

EXAMPLE = re.compile(r"^[ \t]*>>>.*?(?:\n[ \t]*(?=\n)|\Z)", re.S | re.M)
CODE = re.compile(r"(`[^`]+`)")
MARKUP = re.compile(r"\*(?=\S)|[|\\]|(?<=\w)_(?=\W|$)")


def escaped(text: str) -> str:
    """The text with its stars, bars and trailing underscores escaped, except in code and in examples.

    >>> escaped("p(x | z), shapes [..., *S], `a*b`, of x_ too")
    'p(x \\\\| z), shapes [..., \\\\*S], `a*b`, of x\\\\_ too'
    """
    out, last = [], 0
    for example in EXAMPLE.finditer(text):
        out += [_prose(text[last : example.start()]), example[0]]
        last = example.end()
    return "".join([*out, _prose(text[last:])])


def _prose(text: str) -> str:
    return "".join(
        piece if i % 2 else MARKUP.sub(lambda m: "\\" + m[0], piece) for i, piece in enumerate(CODE.split(text))
    )


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape the lines of one docstring in place, before napoleon reads their sections."""
    lines[:] = escaped("\n".join(lines)).split("\n")
    if what in ("property", "attribute"):
        lines.insert(0, "")  # napoleon takes what stands before a colon in the first line for a type


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
