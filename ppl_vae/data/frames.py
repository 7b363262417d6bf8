"""Rows back as a table: categories by name, columns as they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Field, Schema
from ppl_vae.data._grouped import as_long, without_group
from ppl_vae.data._precision import as_dates
from ppl_vae.data._tables import column_name
from ppl_vae.data.dataset import columns_of
from ppl_vae.data.schema import Grouping
from ppl_vae.errors import UserError

__all__ = ["columns_with", "filled_frame", "in_words", "restored"]


def restored(field: Field, values: Tensor) -> Tensor:
    """Stored entries [row, *shape] as they came: what was subtracted from a field is added again, in float64.

    Example:
        >>> import torch
        >>> restored(Field("t", "real", origin=(1.7e9,)), torch.tensor([5.0])).tolist()
        [1700000005.0]
    """
    if not field.origin:
        return values
    return values.double() + values.new_tensor(field.origin, dtype=torch.float64).reshape(field.shape)


def in_words(field: Field, values: Tensor) -> list[Any]:
    """Entries of a field as a table holds them: names of categories, whole numbers, floats without float32's tail.

    Numbers that were dates are dates again (durations too), in ISO 8601.

    Example:
        >>> import torch
        >>> in_words(Field("a", "real"), torch.tensor([0.1]))
        [0.1]
        >>> in_words(Field("a", "count"), torch.tensor([2.7])), in_words(Field("a", "categorical", (), 2, names="xy"), \
torch.tensor([1]))
        ([3], ['y'])
    """
    if field.kind in ("binary", "count", "categorical"):
        whole = [int(v) for v in values.double().round().tolist()]
        names = field.names if field.kind == "categorical" else ()
        return [names[v] for v in whole] if names else whole
    if field.origin:
        return restored(field, values).tolist()
    array = values.detach().cpu().numpy()
    times = as_dates(array.astype("float64"), field.unit)
    if times is not None:
        return _spelled(times, field.unit)
    return [float(str(v)) if array.dtype == np.float32 else float(v) for v in array]


def _spelled(times: np.ndarray, unit: str) -> list[Any]:
    """Dates by the day where the unit is days, else to the second; durations as pandas writes them."""
    if times.dtype.kind == "m":
        import pandas

        return [str(t) for t in pandas.to_timedelta(times)]
    return np.datetime_as_string(times, unit="D" if unit.startswith("days") else "s").tolist()


def columns_with(schema: Schema, rows: Mapping[str, Tensor]) -> dict[str, tuple[Field, Tensor]]:
    """The columns of a table that these fields are, by column name: the field, and its values [row].

    Raises:
        UserError: for pictures and other fields that are no columns.
    """
    found: dict[str, tuple[Field, Tensor]] = {}
    for field in schema:
        if field.name not in rows:
            continue
        values, names = rows[field.name], columns_of(field)
        if len(field.shape) > 1:
            raise UserError(
                f"field {field.name!r} has rows of shape {field.shape}, which are no columns: use .mean or .draws"
            )
        if isinstance(names, str):
            found[names] = (field, values)
            continue
        for i in range(field.size):
            one = replace(field, shape=(), names=(), origin=field.origin[i : i + 1])
            found[names[i] if names else f"{field.name}_{i}"] = (one, values[:, i])
    return found


def filled_frame(schema: Schema, rows: Mapping[str, Tensor], mask: Mapping[str, Tensor], source: Any = None) -> Any:
    """Rows as a DataFrame; if they came as one, that one with its holes filled."""
    import pandas

    if schema.groups is not None and source is not None:
        schema, rows, mask = _in_long(schema, schema.groups, rows, mask, source)
    columns, holes = columns_with(schema, rows), columns_with(schema, mask)
    if source is None:
        return pandas.DataFrame({name: in_words(field, values) for name, (field, values) in columns.items()})
    frame = source.copy()
    place = {column_name(c): i for i, c in enumerate(frame.columns)}
    for name, (field, values) in columns.items():
        gaps = holes[name][1].cpu().numpy()
        if name not in place:  # a column that the rows did not have
            frame[name] = in_words(field, values)
        elif gaps.any():
            column = frame.iloc[:, place[name]].copy()
            cells = _cells(column, in_words(field, values[holes[name][1]]))
            if column.dtype.kind in "iu" and not all(float(cell).is_integer() for cell in cells):
                column = column.astype("Float64")  # whole numbers that were read as real ones
            column.iloc[gaps] = cells
            frame.isetitem(place[name], column)
    return frame


def _in_long(
    schema: Schema, groups: Grouping, rows: Mapping[str, Tensor], mask: Mapping[str, Tensor], source: Any
) -> tuple[Schema, dict[str, Tensor], dict[str, Tensor]]:
    """Rows of groups as those of the long table that they came from."""
    _, places = without_group(source, groups.by, groups.time, several=False)
    long = Schema(tuple(f for f in groups.long if f.name in schema))
    found, holes = ({n: as_long(v, places, n in groups.inner) for n, v in part.items()} for part in (rows, mask))
    return long, found, holes


def _cells(column: Any, words: list[Any]) -> list[Any]:
    """Words as the cells of a column of pandas hold them: its own categories, intervals, dates, truths, numbers."""
    import pandas

    levels = getattr(column.dtype, "categories", None)
    if levels is None and isinstance(column.dtype, pandas.IntervalDtype):
        levels = column.dropna().unique()
    if levels is not None:
        known = {str(level): level for level in levels}
        if unknown := next((w for w in words if str(w) not in known), None):
            raise UserError(
                f"column {str(column.name)!r} cannot hold the level {str(unknown)!r}, which training rows had: give it "
                "their categories, or make it strings"
            )
        return [known[str(word)] for word in words]
    if column.dtype.kind in "Mm":
        return pandas.Series(words).astype(column.dtype).tolist()
    if column.dtype.kind == "O" and any(isinstance(v, bool | np.bool_) for v in column):
        return [bool(word) for word in words]
    return [float(w) for w in words] if column.dtype.kind in "iuf" else words
