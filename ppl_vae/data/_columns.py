"""One column of a table as it comes: numbers, truths, dates or names; or text that may be more than one of them.

`column` decides, for every kind of column there is; `tests/test_data_columns.py` has the table of cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ppl_vae.data.text import PLAIN, USUAL, Doubtful, TextForm, number
from ppl_vae.errors import UserError

__all__ = ["NUMERIC", "Raw", "column", "simple_dtype", "unmarked"]

NUMERIC = ("real", "positive", "unit", "count", "binary")
MANY = 20
"""From so many rows on, a column of strings that are (nearly) all different holds no categories."""

_UNITS = "kg|g|mg|km|cm|mm|m|s|ms|h|min|ml|l|lb|lbs|oz|ft|in|mi|mph|C|F|K|k|M|B|bn|hp|cc|kW|years?|yrs?|days?"
WRITTEN = re.compile(
    rf"(?:[A-Z]{{3}}\s|[€$£¥~<>≤≥=(]\s*)?[-+\u2212]?\s*[€$£¥]?\s*\d[\d.,'_\s]*(?:[eE][-+]?\d+)?"
    rf"\s*(?:%|‰|[€$£¥)+]|°?(?:{_UNITS})|\s[A-Z]{{3}})?"
    r"|0[xX][0-9a-fA-F]+|[-+]?\d+\s*[/:]\s*\d+|(['\"])[-+]?[\d.,]*\d\1|[-+]?\d+[.,]\d+\s*[^\s\d.,].*"
)
"""A number as people write it, which Python does not read."""
ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:Z|[-+]\d{2}:?\d{2})?)?")
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
DATE = re.compile(
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})(?:[T ].*)?"
    rf"|\d{{1,2}}[-\s.]+{_MONTH}[-\s.,]+\d{{2,4}}.*|{_MONTH}[-\s.]+\d{{1,2}},?[-\s]+\d{{2,4}}.*"
    r"|\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\s*[AaPp][Mm])?"
    r"|\d{4}[-/](?:0[1-9]|1[0-2])|\d{4}-?[QqWw]\d{1,2}|[QqWw]\d{1,2}[-/ ]\d{4}"
)


class Raw(NamedTuple):
    """One field as it came: values with rows first, and the column names if it was a table.

    A column of strings brings its categories, in their order if they have one. `coded` says that values of a
    categorical field are its codes 0, 1, ... and not the names of its categories.
    """

    values: np.ndarray | Tensor
    names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    ordered: bool = False
    coded: bool = False


def simple_dtype(series: Any) -> Any:
    """A column with a dtype of numpy's where it holds numbers or truths as objects, `Decimal` or `Fraction`.

    Raises:
        UserError: for whole numbers that no float64 holds.
    """
    if series.dtype.kind in "iu":
        return _exact(series)
    if series.dtype.kind != "O" or hasattr(series.dtype, "categories"):
        return series
    seen = [v for v in series if not _is_none(v)]
    if not seen or not all(isinstance(v, (int, float, np.number, Decimal, Fraction)) for v in seen):
        return series
    truths = [isinstance(v, (bool, np.bool_)) for v in seen]
    if all(truths):
        return series
    if all(isinstance(v, (int, np.integer)) for v in seen):
        _check_exact(series.name, series)
    return series.map(lambda v: float("nan") if _is_none(v) else float(v)).astype("float64")


def _is_none(value: Any) -> bool:
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (value != value) is True
        or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))
    )


def _exact(series: Any) -> Any:
    if len(series) and bool((series.abs().max() > 2**53) if series.dtype.kind == "i" else (series.max() > 2**53)):
        _check_exact(series.name, series)
    return series


def _check_exact(name: object, values: Iterable[Any]) -> None:
    """Refuse whole numbers that float64 would change: they are ids, not quantities."""
    for row, value in enumerate(values):
        if not _is_none(value) and abs(int(value)) > 2**53 and int(float(value)) != int(value):
            raise UserError(
                f"column {str(name)!r} holds whole numbers that no float64 holds ({int(value)} at row {row} (from 0)): "
                "they are ids, keep other columns with columns=[...], or make them strings"
            )


def column(name: str, series: Any, kind: str | None = None, *, label: bool = False, form: TextForm = USUAL) -> Raw:
    """A column of a table on its own: numbers as floats, dates as datetime64, strings with their categories.

    Raises:
        UserError: for text that may be numbers, dates or missing marks, and for what is none of these; with the
            column, a cell, its row, and the options that settle it.
    """
    series = simple_dtype(series)
    if series.dtype.kind in "iuf" and form.missing_marks:
        series = unmarked(series, form.missing_marks)
    dtype = series.dtype
    if dtype.kind in "iu" and not series.isna().any():
        return Raw(series.to_numpy(dtype="int64"))
    if dtype.kind in "biuf":
        return Raw(series.to_numpy(dtype="float64", na_value=np.nan))
    if dtype.kind in "Mm":
        return Raw(_times(series))
    if type(dtype).__name__ in ("PeriodDtype", "IntervalDtype"):
        if type(dtype).__name__ == "PeriodDtype":
            return Raw(_times(series.dt.to_timestamp()))
        series = series.astype("category").cat.as_ordered()
    declared = getattr(series.dtype, "categories", None)
    if declared is not None:
        return _categories(name, series, list(declared), bool(series.dtype.ordered))
    seen = [v for v in series if not _is_none(v)]
    if seen and all(isinstance(v, (bool, np.bool_)) for v in seen):
        return Raw(np.array([np.nan if _is_none(v) else float(v) for v in series]))
    if seen and all(isinstance(v, date) for v in seen):
        import pandas

        return Raw(_times(pandas.to_datetime(series)))
    if not all(isinstance(v, str) for v in seen):
        raise UserError(
            f"column {name!r} expects numbers, bools or strings, got {series.dtype}: make it numeric, name it as the"
            f" label (label={name!r}; command line --label), make it strings, or keep other columns with columns=[...]"
        )
    return _text(name, [None if _is_none(v) else v for v in series], kind, label, form)


def unmarked(series: Any, marks: Sequence[str]) -> Any:
    """Numbers, those that the user says mark a missing entry as NaN."""
    numbers = [value for mark in marks if (value := number(str(mark), ".")) is not None]
    return series.mask(series.isin(numbers)) if series.isin(numbers).any() else series


def _times(series: Any) -> np.ndarray:
    if getattr(series.dtype, "tz", None) is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    return np.asarray(series.to_numpy(dtype="datetime64[ns]" if series.dtype.kind == "M" else "timedelta64[ns]"))


def _categories(name: str, series: Any, declared: list[Any], ordered: bool) -> Raw:
    words = [str(c) for c in declared]
    if len({*words}) < len(words):
        raise UserError(f"column {name!r} has categories that are written alike: give them different names")
    return Raw(_names([None if _is_none(v) else str(v) for v in series]), (), tuple(words), ordered)


def _names(cells: Sequence[str | None]) -> np.ndarray:
    found = np.empty(len(cells), dtype=object)
    found[:] = cells
    return found


# -- text --------------------------------------------------------------------------------------------------------


def _text(name: str, cells: list[str | None], kind: str | None, label: bool, form: TextForm) -> Raw:
    """Strings: names, unless they are numbers or dates as somebody wrote them."""
    marked = bool(form.missing_marks) and any(cell in (form.missing_marks or ()) for cell in cells)
    if marked:
        cells = [None if cell in (form.missing_marks or ()) else cell for cell in cells]
    rows = [(row, cell) for row, cell in enumerate(cells) if cell is not None]
    looks = {cell: _look(cell) for _, cell in rows}
    if kind in (None, "real") and rows and all(looks[cell] == "iso" for _, cell in rows):
        return Raw(_dates(name, cells))
    if kind in NUMERIC and rows:
        return Raw(_parsed(name, cells, form.decimal))
    if kind is None and rows:
        if (form.decimal or marked) and all(looks[c] and number(c, form.decimal) is not None for _, c in rows):
            return Raw(_parsed(name, cells, form.decimal))
        _refuse_doubt(name, rows, looks, label)
    for row, cell in rows:
        if isinstance(cell, Doubtful):
            raise UserError(
                f"column {name!r} has the cell {str(cell)!r} at row {row} (from 0), which may be a name or mean that"
                f" there is none: say which, missing_marks=[{str(cell)!r}] (command line --missing-marks), or [] for a"
                " name"
            )
    names = tuple(sorted({cell for _, cell in rows}))
    if kind is None:
        _refuse_twins(name, names, label)
    return Raw(_names(cells), (), names)


def _refuse_twins(name: str, names: tuple[str, ...], label: bool) -> None:
    """Raise for names that differ in spaces around them or in case alone, which are hardly two categories."""
    known: dict[str, str] = {}
    for each in names:
        twin = known.setdefault(each.strip().casefold(), each)
        if twin is not each:
            field = "y" if label else name
            what = "spaces" if twin.strip() == each.strip() else "case"
            raise UserError(
                f"column {name!r} has the names {twin!r} and {each!r}, which differ in {what} alone: mend them, or"
                f" keep both, kinds={{{field!r}: 'categorical'}} (command line --kind {field}=categorical)"
            )


def _look(cell: str) -> str | None:
    bare = cell.strip()
    if isinstance(cell, Doubtful):
        return None
    if ISO.fullmatch(bare):
        return "iso"
    if DATE.fullmatch(bare):
        return "date"
    if re.fullmatch(PLAIN, bare):
        return "plain"
    return "written" if WRITTEN.fullmatch(bare) else None


def _refuse_doubt(name: str, rows: list[tuple[int, str]], looks: dict[str, str | None], label: bool) -> None:
    """Raise where half of the cells or more look like numbers or dates, or hardly two rows agree."""
    counts = {what: sum(looks[cell] in what for _, cell in rows) for what in (("plain", "written"), ("iso", "date"))}
    field = "y" if label else name
    kinds = f"kinds={{{field!r}: 'real'}} reads numbers"
    names = f"kinds={{{field!r}: 'categorical'}} makes them names (command line --kind {field}=...)"
    unlike = {cell for _, cell in rows}
    alike = max(counts.values())
    if not label and len(rows) >= MANY and len(unlike) == len(rows) and (2 * alike < len(rows) or alike == len(rows)):
        hint = f"{kinds}, " if alike == len(rows) else ""
        raise UserError(
            f"column {name!r} expects categories, got a different string in every row ({rows[0][1]!r} at row"
            f" {rows[0][0]}): {hint}make it numeric, name it as the label (label={name!r}; command line --label), or"
            " keep other columns with columns=[...] (command line --columns)"
        )
    for what, count in counts.items():
        if 2 * count < len(rows) or not count:
            continue
        row, cell = next((r, c) for r, c in rows if looks[c] in what)
        odd = next(((r, c) for r, c in rows if looks[c] not in what), None)
        if what[0] == "iso":
            raise UserError(
                f"column {name!r} holds dates as text ({cell!r} at row {row} (from 0)"
                + (f", {odd[1]!r} at row {odd[0]})" if odd else ")")
                + f": write them as 2024-01-31, or make them names, kinds={{{name!r}: 'categorical'}} (--kind)"
            )
        if label and odd is None and all(looks[c] == "plain" and c.lstrip("+-").isdigit() for _, c in rows):
            return  # classes that are called 1, 2, 3
        if odd is not None and all(looks[c] == "plain" for _, c in rows if looks[c]):
            raise UserError(
                f"column {name!r} holds numbers and the cell {str(odd[1])!r} at row {odd[0]} (from 0): if it means"
                f" that there is none, missing_marks=[{str(odd[1])!r}] (command line --missing-marks); else {names}"
            )
        settle = "decimal='.' or ',' says what a comma means (command line --decimal)" if "," in cell else kinds
        raise UserError(
            f"column {name!r} holds numbers as text ({cell!r} at row {row} (from 0)"
            + (f", and {odd[1]!r} at row {odd[0]})" if odd else ")")
            + f": {settle}; {names}"
        )
    if not label and len(rows) >= MANY and 2 * len(unlike) > len(rows):
        row, cell = rows[0]
        raise UserError(
            f"column {name!r} expects categories, got {len(unlike)} different strings in {len(rows)} rows"
            f" ({cell!r} at row {row}): keep other columns with columns=[...] (command line --columns), or"
            f" kinds={{{name!r}: 'categorical'}} (--kind)"
        )


def _parsed(name: str, cells: list[str | None], decimal: str | None) -> np.ndarray:
    """Text that was said to be numbers, as numbers."""
    texts = [(row, cell) for row, cell in enumerate(cells) if cell is not None]
    if all(_look(cell) is None for _, cell in texts):
        row, cell = texts[0]
        raise UserError(
            f"column {name!r} expects numbers, got strings ({str(cell)!r} at row {row} (from 0)): its kind must be"
            " categorical"
        )
    found = np.full(len(cells), np.nan)
    known: dict[str, float | None] = {}
    for row, cell in texts:
        if isinstance(cell, Doubtful):
            continue
        if cell not in known:
            known[cell] = number(cell, decimal)
        value = known[cell]
        if value is None:
            comma = "decimal='.' or ',' says what its comma means (--decimal), or mark" if "," in cell else "mark"
            raise UserError(
                f"column {name!r} expects numbers, got the cell {cell!r} at row {row} (from 0): {comma} it as missing,"
                f" missing_marks=[{cell!r}] (command line --missing-marks)"
            )
        found[row] = value
    return found


def _dates(name: str, cells: list[str | None]) -> np.ndarray:
    import pandas

    try:
        read = pandas.to_datetime(pandas.Series(cells, dtype=object), format="ISO8601", utc=True)
    except ValueError as problem:
        raise UserError(
            f"column {name!r} holds no date that exists ({str(problem).splitlines()[0][:100]}): mend it"
        ) from problem
    return _times(read)
