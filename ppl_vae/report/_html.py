"""One self-contained page of results: numbers, sections, tables, pictures; no scripts, nothing fetched."""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ppl_vae.errors import UserError, escaped

__all__ = ["Section", "render"]


@dataclass(frozen=True)
class Section:
    """One chapter of a page.

    `text` is plain words: a blank line starts a paragraph, lines that begin with "- " make a list, `**bold**`
    and `` `code` `` are understood, and everything else is escaped. `table` is (header, rows); None is an
    empty cell and floats are rounded for reading. `figures` holds (bytes of a PNG or SVG, caption, words for
    those who cannot see).
    """

    title: str
    text: str = ""
    table: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None
    figures: tuple[tuple[bytes, str, str], ...] = ()


def render(
    title: str,
    subtitle: str,
    headline: Iterable[tuple[str, str, str]],
    sections: Sequence[Section],
    footer: str,
) -> str:
    """One HTML page as text; the headline is (label, value, explanation), shown as large numbers.

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
    return _PAGE.format(
        policy=_POLICY,
        style=_STYLE,
        title=_escape(title),
        subtitle=f'<p class="subtitle">{_escape(subtitle)}</p>' if subtitle else "",
        cards=f'<dl class="cards">{cards}</dl>' if cards else "",
        nav=f'<nav aria-label="Sections">{links}</nav>' if links else "",
        body=body,
        footer=f"<footer>{_text(footer)}</footer>" if footer else "",
    )


def _escape(words: object) -> str:
    # control characters are no text; line ends are
    return html.escape("\n".join(map(escaped, str(words).split("\n"))), quote=True)


def _value(value: str) -> str:
    # "-97.4 ± 0.6 nats": the number is what the eye should meet first, its unit follows in smaller letters.
    parts = re.fullmatch(r"([^A-Za-z]*\d[^A-Za-z]*) ([A-Za-z].*)", str(value), re.DOTALL)
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
    figures = "".join(_figure(*figure) for figure in section.figures)
    if figures:
        figures = f'<div class="figures">{figures}</div>'
    return (
        f'<section id="s{number}"><h2>{_escape(section.title)}</h2>\n{_text(section.text)}\n'
        f"{table}\n{figures}</section>"
    )


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
        "<tr>" + "".join(f"<td{c}>{_cell(v)}</td>" for v, c in zip(row, css, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


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


def _figure(picture: bytes, caption: str, alt: str) -> str:
    kind, width, height = _size(picture)
    return (
        f'<figure style="--width:{width}px"><div class="paper">'
        f'<img width="{width}" height="{height}" alt="{_escape(alt)}" '
        f'src="data:image/{kind};base64,{base64.b64encode(picture).decode()}"></div>'
        f"<figcaption>{_escape(caption)}</figcaption></figure>"
    )


def _size(picture: bytes) -> tuple[str, int, int]:
    """The kind of a picture, and its width and height on the page."""
    if drawn := re.match(rb'<svg [^>]*viewBox="0 0 (\d+) (\d+)"', picture):
        return "svg+xml", int(drawn[1]), int(drawn[2])
    if len(picture) < 24 or not picture.startswith(b"\x89PNG\r\n\x1a\n"):
        raise UserError(f"a figure of the page must be the bytes of a PNG or SVG file, got {bytes(picture[:8])!r}")
    width, height = struct.unpack(">II", picture[16:24])
    # drawn with two pixels for each one on the page, to be sharp on fine screens and in print
    return "png", width // 2, height // 2


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

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
<header><h1>{title}</h1>{subtitle}</header>
{cards}
{nav}
<main>
{body}
</main>
{footer}
</body>
</html>
"""

_STYLE = """
:root { --ink: #1d2430; --soft: #5b6676; --line: #dfe3e9; --ground: #fafbfc; --card: #ffffff;
  --accent: #005f95; --paper: #ffffff; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #a3adbb; --line: #333c49;
  --ground: #14181e; --card: #1c222b; --accent: #7cc0ee; --paper: #fdfdfd; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62.5rem; color: var(--ink);
  background: var(--ground);
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 2.125rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.4rem; line-height: 1.3; letter-spacing: -0.01em; margin: 0 0 .6rem;
  overflow-wrap: anywhere; }
p, ul { max-width: 44rem; margin: 0 0 1rem; overflow-wrap: break-word; }
ul { padding-left: 1.3rem; } li { margin: .25rem 0; }
.subtitle { color: var(--soft); font-size: 1.15rem; margin: .4rem 0 0; }
code { font: .9em ui-monospace, "Cascadia Mono", Menlo, "DejaVu Sans Mono", monospace; padding: .08em .3em;
  background: color-mix(in srgb, var(--ink) 8%, transparent); border-radius: .25em; overflow-wrap: anywhere; }
a { color: var(--accent); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem;
  margin: 2rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1rem 1.15rem 1.05rem; }
.card dt { color: var(--soft); font-size: .9rem; font-weight: 600; }
.card dd { margin: 0; overflow-wrap: anywhere; }
.card .value { font-size: 1.7rem; line-height: 1.25; font-weight: 650; letter-spacing: -0.02em;
  margin: .15rem 0 .3rem; font-variant-numeric: tabular-nums; }
.card .unit { font-size: 1rem; font-weight: 500; letter-spacing: 0; }
.card .why { color: var(--soft); font-size: .9rem; line-height: 1.45; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding: .8rem 0; margin: 2rem 0 0;
  border-block: 1px solid var(--line); font-size: .95rem; }
nav a { text-decoration: none; font-weight: 550; } nav a:hover { text-decoration: underline; }
section { margin-top: 2.75rem; scroll-margin-top: 1rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem 1.6rem .45rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
th.number, td.number { text-align: right; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem 1.75rem; align-items: flex-start;
  margin: 1.25rem 0 0; }
figure { margin: 0; width: calc(var(--width) + 1.8rem); min-width: min(20rem, 100%); max-width: 100%; }
.paper { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem;
  overflow-x: auto; }
.paper img { display: block; width: min(100%, var(--width)); height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: .92rem; line-height: 1.5; margin: .55rem .15rem 0;
  max-width: 44rem; }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .9rem; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; font-size: 1rem; } h1 { font-size: 1.65rem; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; }
  .card { padding: .8rem .9rem; } .card .value { font-size: 1.35rem; }
  /* A wide figure is scrolled rather than shrunk until its labels cannot be read. */
  .paper img { min-width: calc(.6 * var(--width)); }
}
@media print {
  :root { --ink: #000; --soft: #444; --line: #ccc; --ground: #fff; --card: #fff; --accent: #000;
  --paper: #fff; }
  body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  figure, .card, tr { break-inside: avoid; } h2 { break-after: avoid; } .paper { border: 0; padding: 0; }
}
"""
