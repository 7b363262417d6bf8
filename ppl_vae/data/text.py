"""Delimited text (.csv, .tsv) as a table: its encoding, separator and decimal mark, and which cells are missing."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppl_vae.display.working import stepping, tracked
from ppl_vae.errors import UserError, shown

__all__ = ["USUAL", "Doubtful", "TextForm", "number", "read_cells", "read_text"]

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MISSING = (
    *("NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "<NA>", "#N/A", "#NA", "#N/A N/A"),
    *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
"""Words that mean a missing number, as pandas has them. Among names they may be names, such as Namibia's NA."""
PLAIN = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
WITH_COMMA = r"[+-]?\d+,(?:\d{1,2}|\d{4,})|[+-]?0,\d+"
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\x00\x00": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class TextForm:
    """How a text file is written, where its text alone does not say it.

    Attributes:
        separator: between cells; found by looking at the rows.
        decimal: "." or ","; a comma is found where it cannot be anything else.
        encoding: UTF-8, or what the first bytes of the file declare.
        missing_marks: words for missing entries, beside empty cells; by default those of pandas in columns of
            numbers, while a column of names with such a word is refused.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing_marks: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.decimal is not None and not (isinstance(self.decimal, str) and self.decimal in (".", ",")):
            raise UserError(f"decimal expects '.' or ',', got {shown(self.decimal)}")
        if self.separator is not None and not (isinstance(self.separator, str) and len(self.separator) == 1):
            raise UserError(f"separator expects one character, got {shown(self.separator)}")
        if not isinstance(self.encoding, str | None):
            raise UserError(f"encoding expects the name of one, such as 'utf-8', got {shown(self.encoding)}")
        if isinstance(self.missing_marks, str):
            object.__setattr__(self, "missing_marks", (self.missing_marks,))


USUAL = TextForm()
"""Nothing is said about the text: it is looked at."""


class Doubtful(str):
    """A cell of a file that may be a name or mean that there is none, such as NA."""


def number(cell: str, decimal: str | None = None) -> float | None:
    """A number as people write it, or None; the sign of a currency or % is dropped, the number stays as written.

    A comma, or a point before groups of three, is understood only if the decimal mark is known.

    Example:
        >>> number("1,500", "."), number("1,500", ","), number("EUR 3.50"), number("12%"), number("1,500"), number("?")
        (1500.0, 1.5, 3.5, 12.0, None, None)
    """
    bare = cell.strip().replace("\u2212", "-").replace("\u00a0", " ")
    bare = re.sub(r"^(?:[A-Z]{3}\s|[€$£¥])\s*|\s*(?:\s[A-Z]{3}|[€$£¥%])$", "", bare)
    if decimal is not None:
        mark, group = re.escape(decimal), re.escape("," if decimal == "." else ".")
        grouped = rf"[+-]?\d{{1,3}}(?:[{group}'\s]\d{{3}})+(?:{mark}\d*)?"
        if re.fullmatch(grouped, bare):
            bare = re.sub(rf"[{group}'\s]", "", bare)
        elif decimal == "," and "." in bare:
            return None
        bare = bare.replace(decimal, ".")
    return float(bare) if re.fullmatch(PLAIN, bare) else None


def read_text(content: bytes, path: Path, form: TextForm) -> Any:
    """The table in a text file: columns of plain numbers or truths are typed, all others are strings.

    Raises:
        UserError: for an encoding, separator or header that is not understood, with the option that settles it.
    """
    frame, separator = read_cells(content, path, form)
    decimal = form.decimal or (_decimal(frame) if separator != "," else None)
    import pandas

    if separator == ";" and decimal is None:
        _refuse_grouped(frame)
    names = tracked(frame.columns, f"columns of {path.name}")
    return pandas.DataFrame({name: _typed(frame[name], form, decimal) for name in names})


def read_cells(content: bytes, path: Path, form: TextForm) -> tuple[Any, str]:
    """The cells of a text file as they are spelled, under the names of its header, and what separates them.

    Raises:
        UserError: for an encoding, separator or header that is not understood, and for a file without rows.
    """
    text, separator = _without_preamble(_decoded(content, path, form), form.separator)
    separator = separator or _separator(text, path) if text.strip() else ","
    frame = _cells(text, separator, path) if text.strip() else []
    if not len(frame):
        raise UserError(f"expected rows, got none in {path}: write it again")
    return frame, separator


def _decoded(content: bytes, path: Path, form: TextForm) -> str:
    declared = next((name for mark, name in BOMS.items() if content.startswith(mark)), "utf-8")
    encoding = form.encoding or declared
    try:
        text = content.decode(encoding)
    except (UnicodeError, LookupError) as problem:
        raise UserError(
            f"cannot read {path} as text in {encoding} ({str(problem)[:120]}): save it as UTF-8, or say its encoding"
            " (encoding='latin-1'; command line --encoding)"
        ) from problem
    if "\0" in text:
        raise UserError(
            f"cannot read {path}: it holds zero bytes, as UTF-16 does: save it as UTF-8, or encoding='utf-16'"
        )
    return text if "\n" in text else text.replace("\r", "\n")  # lines as old Macintosh programs end them


def _without_preamble(text: str, separator: str | None) -> tuple[str, str | None]:
    """Without comments above the header (the last of them may be it), blank lines, and the line sep=; of Excel."""
    lines = text.lstrip("\ufeff").splitlines(keepends=True)
    comments = []
    while lines and (not lines[0].strip() or lines[0].startswith("#") or re.fullmatch(r"sep=.\s*", lines[0])):
        line = lines.pop(0)
        if line.startswith("sep="):
            separator = separator or line[4]
        elif line.startswith("#"):
            comments.append(line.lstrip("#").lstrip())
    if comments and lines:
        mark = separator or next((s for s in SEPARATORS if s in lines[0]), ",")
        first = [cell.strip() for cell in lines[0].split(mark)]
        if all(re.fullmatch(PLAIN, cell) for cell in first) and comments[-1].count(mark) == len(first) - 1:
            lines.insert(0, comments[-1])
    return "".join(lines), separator


def _separator(text: str, path: Path) -> str:
    """The character that cuts the header and every row into equally many cells."""
    sample = text if len(text) < 65536 else text[: text.rindex("\n", 0, 65536) + 1 or 65536]
    cuts = {}
    for mark in SEPARATORS:
        rows = [row for row in csv.reader(io.StringIO(sample), delimiter=mark) if row][:200]
        cuts[mark] = [len(row) for row in rows]
    whole = [mark for mark, counts in cuts.items() if counts[0] > 1 and len({*counts}) == 1]
    some = whole or [mark for mark, counts in cuts.items() if counts[0] > 1]
    if "\t" in some and path.suffix.lower() == ".tsv":
        return "\t"
    if len(some) > 1:
        words = " and ".join(SEPARATORS[mark] for mark in some)
        raise UserError(f"{path} may be cut into cells by {words}: say which, separator={some[0]!r} (--separator)")
    if not some:
        for mark, counts in cuts.items():
            if len(counts) > 1 and min(counts[1:]) > 1:
                raise UserError(
                    f"{path} has rows of {counts[1]} cells by the separator {SEPARATORS[mark]}, more cells than its"
                    " header: name every column, or say another separator= (--separator)"
                )
    return some[0] if some else ","


def _cells(text: str, separator: str, path: Path) -> Any:
    """All cells as strings, under the names of the header."""
    import pandas

    names = [name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=separator))]
    if len(names) == 1:
        text = text.rstrip("\r\n") + "\n"  # a blank line is a missing cell, but for those at the end
    with warnings.catch_warnings():
        # pandas only warns before it cuts off cells for which the header has no name
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            with stepping(f"reading {path.name}", len(text)) as read:
                frame = pandas.read_csv(
                    _Watched(text, read),
                    sep=separator,
                    index_col=False,
                    dtype=str,
                    keep_default_na=False,
                    skip_blank_lines=len(names) > 1,
                )
        except pandas.errors.ParserWarning as problem:
            raise UserError(f"{path} has rows with more cells than its header: name every column") from problem
    frame = frame.fillna("").set_axis(names, axis=1)
    frame = frame.loc[:, [bool(n) or bool((frame.iloc[:, i] != "").any()) for i, n in enumerate(names)]]
    _check_header(list(frame.columns), path)
    return frame


class _Watched(io.StringIO):
    """A text that tells how far it is read."""

    def __init__(self, text: str, read: Callable[[int], None]) -> None:
        super().__init__(text)
        self.told = read

    def read(self, size: int | None = -1, /) -> str:
        """The next letters."""
        found = super().read(size)
        self.told(self.tell())
        return found


def _check_header(names: list[str], path: Path) -> None:
    if "" in names:
        raise UserError(f"{path} has a column without a name (an index?): write it without, or name it")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path} has two columns {twice!r}: rename one of them")
    if all(re.fullmatch(PLAIN, name) for name in names) and not _numbered(names):
        raise UserError(f"{path} starts with numbers ({', '.join(names[:3])}): put column names in the first line")


def _numbered(names: list[str]) -> bool:
    """Columns numbered from 0 or 1 are honest names."""
    return [float(n) for n in names] in ([float(s + i) for i in range(len(names))] for s in (0, 1))


def _decimal(frame: Any) -> str | None:
    """A comma, where some cell can only be a number with one, and no cell one with a point."""
    comma = any(bool(frame[name].str.fullmatch(WITH_COMMA).any()) for name in frame.columns)
    point = any(bool(frame[name].str.fullmatch(r"[+-]?\d*\.\d+").any()) for name in frame.columns)
    return "," if comma and not point else None


def _refuse_grouped(frame: Any) -> None:
    """Raise for 1.500 throughout a column of a file with semicolons, whose writers group digits by points."""
    for name in frame.columns:
        seen = frame[name].str.strip()
        seen = seen[~seen.isin(("", *MISSING))]
        if len(seen) and seen.str.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}").all():
            raise UserError(
                f"column {name!r} holds {seen.iloc[0]!r}, whose point may set off thousands, as in 1.500 for 1500:"
                " decimal='.' or ',' says which (command line --decimal)"
            )


def _typed(column: Any, form: TextForm, decimal: str | None) -> Any:
    """One column of cells: numbers or truths if all are, else strings with None where the cell is empty."""
    import pandas

    column = column.str.strip()
    marks = MISSING if form.missing_marks is None else tuple(form.missing_marks)
    empty = column == ""
    gone = empty | column.isin(marks)
    seen = column[~gone]
    if not len(seen):
        return pandas.Series(float("nan"), index=column.index)
    coded = seen.str.match(r"[+-]?0\d").any()  # digits that begin with 0 are no numbers
    if decimal is not None and not coded and not seen.str.fullmatch(r"[+-]?\d+").all():
        read = seen.map(lambda cell: number(cell, decimal))
        if read.notna().all() and not seen.str.contains("[^-+0-9.,eE' ]").any():
            return read.astype(float).reindex(column.index)
    elif not coded and seen.str.fullmatch(PLAIN + "|[+-]?(?:inf|Inf|Infinity)").all():
        return pandas.to_numeric(seen).reindex(column.index)
    if seen.isin(("True", "False", "TRUE", "FALSE", "true", "false")).all():
        truths = seen.str.lower() == "true"
        return truths if not gone.any() else truths.astype("boolean").reindex(column.index)
    if form.missing_marks is None:
        cells = [None if e else Doubtful(c) if g else c for c, e, g in zip(column, empty, gone, strict=True)]
    else:
        cells = [None if g else c for c, g in zip(column, gone, strict=True)]
    return pandas.Series(cells, index=column.index, dtype=object)
