"""Numbers that may be codes: -999 where nothing was measured, 20240131 for a day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from ppl_vae.data._columns import Raw
from ppl_vae.data.text import TextForm
from ppl_vae.errors import UserError

__all__ = ["refuse_codes"]

NINES = np.array([sign * number for n in range(2, 8) for number in (10**n - 1, (10**n - 1) / 10) for sign in (1, -1)])
"""99, 999, 99.9, ... and their negatives: what tables write where nothing was measured."""

FAR = 1.0
"""A code is further from all other values than this many times their range."""


def refuse_codes(raws: Mapping[str, Raw], kinds: Mapping[str, str], form: TextForm) -> None:
    """Raise for a column of a table whose numbers may be codes, unless its kind or the missing marks are said.

    Raises:
        UserError: with the column, the number, its row, and the options that settle it.
    """
    for field, raw in raws.items():
        if field in kinds or isinstance(raw.values, Tensor) or raw.values.dtype.kind not in "iuf":
            continue
        for name, values in _columns(field, raw.values, raw.names):
            if form.missing_marks is None:
                _refuse_marks(name, values)
            _refuse_days(name, values)


def _columns(field: str, values: np.ndarray, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of one field: a number of every row, or named ones. The entries of an array are none."""
    if values.ndim == 1:
        yield names[0] if names else field, values
    elif values.ndim == 2 and len(names) == values.shape[1]:
        yield from zip(names, values.T, strict=True)


def _refuse_marks(name: str, values: np.ndarray) -> None:
    """A number of nines, or -9, that several rows have and that lies far from all others."""
    seen = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    if not len(seen):
        return
    for mark in (seen.min(), seen.max()):
        if mark != -9 and not np.isclose(NINES, mark, rtol=1e-12).any():
            continue
        others = seen[seen != mark]
        if len(seen) - len(others) < 2 or len({*others[:100].tolist()}) < 2:
            continue
        low, high = float(others.min()), float(others.max())
        if min(abs(mark - low), abs(mark - high)) <= FAR * (high - low):
            continue
        row = int(np.flatnonzero(values == mark)[0])
        shown = f"{mark:g}" if mark < 1e6 else str(int(mark))
        raise UserError(
            f"column {name!r} has the number {shown} in {len(seen) - len(others)} rows, the first at row {row} (from"
            f" 0), far from its others ({low:g} to {high:g}): if it means that there is none, write NaN or no cell"
            f" there, or of rows in memory missing_marks=['{shown}'] (command line --missing-marks); if it is a number,"
            f" kinds={{{name!r}: 'real'}} (--kind)"
        )


def _refuse_days(name: str, values: np.ndarray) -> None:
    """Whole numbers that all read as days, such as 20240131: their distances are none of days."""
    seen = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    if len(seen) < 2 or not 19000101 <= seen.min() < seen.max() <= 21001231 or (seen % 1 != 0).any():
        return
    month, day = seen // 100 % 100, seen % 100
    if not ((month - 1) // 12).any() and not ((day - 1) // 31).any():
        raise UserError(
            f"column {name!r} holds dates as numbers ({int(seen[0])}): write them as 2024-01-31, or say what they are,"
            f" kinds={{{name!r}: 'real'}} or 'categorical' (command line --kind)"
        )
