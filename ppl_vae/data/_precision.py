"""Numbers that float32 would merge: centred in float64 first, or refused; dates as numbers with their unit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_vae.errors import UserError

__all__ = ["as_dates", "origins", "since"]

ROWS = 10_000
"""So many rows of each column are compared with their float32 values."""
LOST = 0.02
"""The share of distinct values that may be merged: of 10,000 normal draws float32 merges hardly any."""
NOISE = 1e-13
"""Values that differ by less than this share of the largest one differ by rounding alone."""


def _merged(values: np.ndarray, origin: float = 0.0) -> tuple[float, float] | None:
    """Two values of a column [row] that are one in float32, if that happens to more than a few."""
    seen = values[~np.isnan(values)]
    sorted_ = np.unique(seen)
    gaps = np.diff(sorted_)
    real = gaps > NOISE * np.abs(sorted_).max(initial=0.0)
    with np.errstate(over="ignore"):
        rounded = (sorted_ - origin).astype(np.float32)
    same = real & (rounded[1:] == rounded[:-1])
    if same.sum() <= LOST * len(sorted_):
        lost = np.isinf(rounded) & np.isfinite(sorted_) | ((rounded == 0) & (sorted_ - origin != 0))
        worst = sorted_[lost & (np.abs(sorted_ - origin) > NOISE * np.abs(sorted_).max(initial=0.0))]
        return (float(worst[0]), 0.0) if len(worst) > LOST * len(sorted_) else None
    place = int(np.argmax(same))
    return float(sorted_[place]), float(sorted_[place + 1])


def origins(name: str, values: np.ndarray, names: tuple[str, ...] = (), *, centre: bool = True) -> tuple[float, ...]:
    """What to subtract from each column of float64 values [row, ...] before they become float32; () for nothing.

    The median, rounded to a whole number where all values are.

    Raises:
        UserError: for a column that float32 does not hold even then, or that may not be centred.

    Example:
        >>> origins("t", 1.7e9 + np.arange(3600.0)), origins("a", np.arange(3.0))
        ((1700001799.0,), ())
    """
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    flat = values.reshape(len(values), -1)
    found = np.zeros(flat.shape[1])
    with np.errstate(over="ignore"):
        inexact = (flat.astype(np.float32) != flat) & np.isfinite(flat)
    for i in inexact.any(0).nonzero()[0]:
        if _merged(flat[:ROWS, i]) is None:
            continue
        middle = float(np.nanmedian(flat[:, i]))
        finite = flat[np.isfinite(flat[:, i]), i]
        middle = float(np.floor(middle)) if (finite == np.floor(finite)).all() else middle
        two = _merged(flat[:ROWS, i], middle)
        if two is not None or not centre:
            low, high = two or _merged(flat[:ROWS, i]) or (0.0, 0.0)
            what = f"column {names[i]!r}" if i < len(names) else f"field {name!r}"
            remedy = "rescale it" if centre else f"kinds={{{name!r}: 'real'}} centres it (--kind {name}=real)"
            raise UserError(
                f"{what} holds {low!r} and {high!r}, which float32 makes one number: {remedy}, or pass a float64 tensor"
            )
        found[i] = middle
    return tuple(found.tolist()) if found.any() else ()


def since(values: np.ndarray, unit: str = "") -> tuple[np.ndarray, str]:
    """Dates or durations [row, ...] as float64, and the unit: days where all are whole days, else seconds.

    Example:
        >>> days, unit = since(np.array(["2024-01-03", "2024-01-01", "NaT"], dtype="datetime64[ns]"))
        >>> days.tolist(), unit
        ([2.0, 0.0, nan], 'days since 2024-01-01')
    """
    gone = np.isnat(values)
    whole = values.astype(f"{values.dtype.kind}8[D]").astype(values.dtype) == values
    first: Any = np.timedelta64(0, "ns")
    if values.dtype.kind == "M":
        known = unit.partition(" since ")[2]
        seen = values[~gone]
        first = np.datetime64(known) if known else (seen.min() if len(seen) else np.datetime64("1970-01-01"))
        if not known:
            first = first.astype("datetime64[D]" if (whole | gone).all() else "datetime64[s]")
    word = unit.partition(" since ")[0] or ("days" if (whole | gone).all() else "seconds")
    step = np.timedelta64(1, "D" if word == "days" else "s") / np.timedelta64(1, "ns")
    numbers = np.where(gone, np.nan, (values - first).astype("timedelta64[ns]").astype(np.float64) / step)
    return numbers, unit or (f"{word} since {first}" if values.dtype.kind == "M" else word)


def as_dates(numbers: np.ndarray, unit: str) -> np.ndarray | None:
    """The dates (durations) that these numbers of a unit are, or None if the unit is no time; `since` undone.

    Example:
        >>> as_dates(np.array([2.0]), "days since 2024-01-01").astype(str).tolist()
        ['2024-01-03T00:00:00.000000000']
    """
    word, _, first = unit.partition(" since ")
    if word not in ("days", "seconds"):
        return None
    step = np.timedelta64(1, "D" if word == "days" else "s") / np.timedelta64(1, "ns")
    gone = np.isnan(numbers)
    spans = np.rint(np.where(gone, 0.0, numbers) * step).astype("int64").astype("timedelta64[ns]")
    times = np.datetime64(first).astype("datetime64[ns]") + spans if first else spans
    times[gone] = np.array("NaT", dtype=times.dtype)
    return times
