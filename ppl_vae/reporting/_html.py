"""One self-contained page of results: numbers, verdicts, sections, tables, pictures; nothing is fetched."""

from __future__ import annotations

import base64
import html
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ppl_vae.errors import UserError, escaped
from ppl_vae.reporting._assets import policy, script, style

__all__ = ["Picture", "Section", "Verdict", "Widget", "render"]

Level = Literal["believed", "doubtful", "not", "read"]

LEVELS: Mapping[Level, str] = {
    "believed": "Believed",
    "doubtful": "Doubtful",
    "not": "Not believed",
    "read": "To be read",
}


class Verdict(NamedTuple):
    """A line under the numbers: whether to believe something, why, and the title of the section that says more."""

    level: Level
    words: str
    section: str


class Picture(NamedTuple):
    """A figure of a section: the bytes of a PNG or SVG, its caption, and words for those who cannot see.

    A `photo` is made of pictures of rows, which are not turned round in the dark. What is `folded` is shown on request,
    under those words, as a widget of the section shows the same.
    """

    image: bytes
    caption: str
    words: str
    photo: bool = False
    folded: str = ""


class Widget(NamedTuple):
    """Something to move or to point at: its kind, which the script knows, its data, and what it is, in a sentence."""

    kind: Literal["explorer", "map", "frames"]
    name: str
    data: Mapping[str, Any]
    words: str


@dataclass(frozen=True)
class Section:
    """One chapter of a page.

    `text` is plain words: a blank line starts a paragraph, lines that begin with "- " make a list, `**bold**`
    and `` `code` `` are understood, and everything else is escaped. `table` is (header, rows); None is an
    empty cell and floats are rounded for reading; one that is `folded` is shown on request, under those words.
    """

    title: str
    text: str = ""
    table: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None
    figures: tuple[Picture, ...] = ()
    widgets: tuple[Widget, ...] = ()
    folded: str = ""


def render(
    title: str,
    subtitle: str,
    headline: Iterable[tuple[str, str, str]],
    sections: Sequence[Section],
    footer: str,
    verdicts: Sequence[Verdict] = (),
) -> str:
    """One HTML page as text; the headline is (label, value, explanation), shown as large numbers.

    Verdicts stand under them, each with a link to the first section of its title.

    Raises UserError when a picture is neither PNG nor SVG or a table's row is not as long as its header.

    Example:
        >>> page = render("A <run>", "", [("evidence", "-98.2", "nats")], [Section("Data", "1797 rows")], "")
        >>> "A &lt;run&gt;" in page, '<a href="#s1">Data</a>' in page
        (True, True)
    """
    # Sections are numbered, not named after their titles: two may share one, and it may hold any character.
    links = "".join(f'<a href="#s{i}">{_escape(s.title)}</a>' for i, s in enumerate(sections, 1))
    body = "\n".join(_section(i, s) for i, s in enumerate(sections, 1))
    cards = "".join(
        f'<div class="card"><dt>{_escape(label)}</dt><dd class="value">{_value(value)}</dd>'
        f'<dd class="why">{_escape(why)}</dd></div>'
        for label, value, why in headline
    )
    numbers = {s.title: i for i, s in reversed(list(enumerate(sections, 1)))}
    return _PAGE.format(
        policy=policy(),
        style=style(),
        script=script(),
        verdicts=_strip(verdicts, numbers),
        title=_escape(title),
        subtitle=f'<p class="subtitle">{_escape(subtitle)}</p>' if subtitle else "",
        cards=f'<dl class="cards">{cards}</dl>' if cards else "",
        nav=f'<nav aria-label="Sections">{links}</nav>' if links else "",
        body=body,
        footer=f'<footer>{_text(footer)}<p class="top"><a href="#top">Back to the top</a></p></footer>'
        if footer
        else "",
    )


def _escape(words: object) -> str:
    # control characters are no text; line ends are
    return html.escape("\n".join(map(escaped, str(words).split("\n"))), quote=True)


def _strip(verdicts: Sequence[Verdict], numbers: Mapping[str, int]) -> str:
    """The verdicts, worst first."""
    order: list[Level] = ["not", "doubtful", "believed", "read"]
    lines = "".join(
        f'<li class="{v.level}"><a href="#s{numbers.get(v.section, 1)}"><strong>{LEVELS[v.level]}</strong> '
        f'<span class="words">{_escape(v.words)}</span></a></li>'
        for v in sorted(verdicts, key=lambda v: order.index(v.level))
    )
    return f'<ul class="verdicts" aria-label="What can be believed">{lines}</ul>' if lines else ""


def _value(value: str) -> str:
    # "-97.4 ± 0.6 nats": the number is what the eye should meet first, its unit follows in smaller letters.
    parts = re.fullmatch(r"([^A-Za-z]*\d[^A-Za-z]*) ([A-Za-z].*)", str(value), re.DOTALL)
    number, sign, error = str(value).partition(" ± ")
    if parts is None and sign:
        return f'{_escape(number)} <span class="error">± {_escape(error)}</span>'
    if parts is None:
        return _escape(value)
    return f'{_escape(parts[1])} <span class="unit">{_escape(parts[2])}</span>'


def _text(words: str) -> str:
    """Paragraphs and lists; the markup comes after the escaping, so it can add no other tag."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", words) if block.strip()]
    out = []
    for block in blocks:
        lines = [line.strip() for line in block.splitlines()]
        if all(line.startswith("- ") for line in lines):
            out.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        else:
            out.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "\n".join(out)


def _inline(words: str) -> str:
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", _escape(words))
    return re.sub(r"\*\*(\S(?:.*?\S)?)\*\*", r"<strong>\1</strong>", escaped)


def _section(number: int, section: Section) -> str:
    table = _table(section) if section.table is not None else ""
    if table and section.folded:
        table = f"<details><summary>{_escape(section.folded)}</summary>{table}</details>"
    figures = "".join(_figure(Picture(*figure)) for figure in section.figures)
    if figures:
        figures = f'<div class="figures">{figures}</div>'
    widgets = "".join(map(_widget, section.widgets))
    return (
        f'<section id="s{number}"><h2>{_escape(section.title)}</h2>\n{_text(section.text)}\n'
        f"{table}\n{widgets}{figures}</section>"
    )


def _widget(widget: Widget) -> str:
    # "<" would end the element, whatever stands before it
    data = json.dumps(widget.data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    name = _escape(widget.name)
    place = f'<div data-widget="{widget.kind}" data-from="{name}-data" id="{name}"></div>'
    held = f'<script type="application/json" id="{name}-data">{data}</script>'
    return f'<p class="try">{_inline(widget.words)}</p>{place}{held}'


def _table(section: Section) -> str:
    header, rows = section.table if section.table is not None else ((), ())
    for i, row in enumerate(rows):
        if len(row) != len(header):
            raise UserError(
                f"table of section {section.title!r}: expected {len(header)} cells as in the header, "
                f"row {i} has {len(row)}"
            )
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    numeric = [any(map(_is_number, c)) and all(v is None or _is_number(v) for v in c) for c in columns]
    css = [' class="number"' if flag else "" for flag in numeric]
    head = "".join(f'<th scope="col"{c}>{_escape(h)}</th>' for h, c in zip(header, css, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td{c} data-label="{_escape(h)}">{_cell(v)}</td>' for h, v, c in zip(header, row, css, strict=True))
        + "</tr>"
        for row in rows
    )
    stacked = ' class="stacked"' if len(header) > 2 else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Table: {_escape(section.title)}"><table{stacked}>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_number(value: object) -> bool:
    # Text such as "-98.2 ± 0.3", "12 %" and "97.1 nats" is a number to a reader: it belongs on the right too.
    if isinstance(value, (int, float)):
        return not isinstance(value, bool)
    return isinstance(value, str) and re.match(r"[-+\u2212±<>≈ ]*\d[\d.,]*(e[-+]?\d+)?($|[ %±])", value) is not None


def _cell(value: object) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        value = f"{value:,.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"
    return _escape(str(value).replace("-", "\N{MINUS SIGN}") if _is_number(value) and "e" not in str(value) else value)


def _figure(picture: Picture) -> str:
    kind, width, height = _size(picture.image)
    drawn = (
        f'<figure class="{"photo" if picture.photo else "plot"}" style="--width:{width}px"><div class="paper">'
        f'<img width="{width}" height="{height}" alt="{_escape(picture.words)}" '
        f'src="data:image/{kind};base64,{base64.b64encode(picture.image).decode()}"></div>'
        f"<figcaption>{_escape(picture.caption)}</figcaption></figure>"
    )
    return f"<details><summary>{_escape(picture.folded)}</summary>{drawn}</details>" if picture.folded else drawn


def _size(picture: bytes) -> tuple[str, int, int]:
    """The kind of a picture, and its width and height on the page."""
    if drawn := re.match(rb'<svg [^>]*viewBox="0 0 (\d+) (\d+)"', picture):
        return "svg+xml", int(drawn[1]), int(drawn[2])
    if len(picture) < 24 or not picture.startswith(b"\x89PNG\r\n\x1a\n"):
        raise UserError(f"a figure of the page must be the bytes of a PNG or SVG file, got {bytes(picture[:8])!r}")
    width, height = struct.unpack(">II", picture[16:24])
    # drawn with two pixels for each one on the page, to be sharp on fine screens and in print
    return "png", width // 2, height // 2


_TOP = '<p class="top"><a href="#top">Back to the top</a></p>'

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the sections</a>
<header id="top"><h1>{title}</h1>{subtitle}</header>
<div role="region" aria-label="Numbers and verdicts">
{cards}
{verdicts}
</div>
{nav}
<main id="main">
{body}
</main>
{footer}
<script>{script}</script>
</body>
</html>
"""
