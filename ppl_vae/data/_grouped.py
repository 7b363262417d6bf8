"""Rows of a long table that belong together: the rows of each group (a patient, a series) become one row.

A field that is constant within every group becomes a field of the group. Every other field gets an entry for each of
its rows, along its first axis, as many as the largest group has; where a group has fewer, they are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._columns import simple_dtype
from ppl_vae.data._tables import column_name
from ppl_vae.data.containers import Labelled, as_array, is_table, opened
from ppl_vae.data.convert import missing_in
from ppl_vae.data.schema import Field, Grouping, Schema
from ppl_vae.errors import UserError, unknown_name

__all__ = ["GroupedRows", "as_groups", "as_long", "into_groups", "without_group"]


class GroupedRows(NamedTuple):
    """Which long rows are which group's: the group of each, its place within the group, and the names of the groups."""

    group: Tensor
    place: Tensor
    names: tuple[str, ...]

    @property
    def largest(self) -> int:
        """The most rows of a group."""
        return int(self.place.max()) + 1


def without_group(source: Any, group: str, time: str | None = None, *, several: bool = True) -> tuple[Any, GroupedRows]:
    """A long table, or a dict of long arrays, without the column of groups, and what that column says.

    Groups come in the order in which they appear, their rows in that of `time`, or as they are. Some have `several`
    rows where data are loaded; new ones may have one each.

    Raises:
        UserError: for an unknown column, a missing group or time, or two rows of a group at one time.
    """
    source = opened(source)
    if isinstance(source, Labelled):
        source = source.table
    if not is_table(source) and not isinstance(source, Mapping):
        raise UserError(f"group={group!r} names a column of a table, got one array: pass a DataFrame, or a dict")
    names = {column_name(c): c for c in (source.columns if is_table(source) else source)}
    for name in (group, *((time,) if time else ())):
        if name not in names:
            raise unknown_name("column", name, names)
    codes, words = _codes(group, source[names[group]])
    order = np.arange(len(codes)) if time is None else _in_time(time, source[names[time]], codes, words)
    place = np.empty(len(codes), dtype=np.int64)
    count = np.zeros(len(words), dtype=np.int64)
    for row in order:
        place[row] = count[codes[row]]
        count[codes[row]] += 1
    if several and count.max() == 1:
        raise UserError(f"every {group!r} has one row alone: leave group={group!r} out")
    rows = GroupedRows(torch.from_numpy(codes), torch.from_numpy(place), words)
    if is_table(source):
        return source.drop(columns=[names[group]]), rows
    return {name: values for name, values in source.items() if name != names[group]}, rows


def _codes(group: str, values: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    import pandas

    codes, words = pandas.factorize(values if hasattr(values, "dtype") else as_array(group, values))
    if (codes < 0).any():
        raise UserError(
            f"column {group!r} says which rows belong together, and is missing at row {codes.argmin()} (from 0)"
        )
    return codes.astype(np.int64), tuple(str(w) for w in words)


def _in_time(time: str, values: Any, codes: np.ndarray, words: Sequence[str]) -> np.ndarray:
    import pandas

    when = _with_order(time, simple_dtype(pandas.Series(values).reset_index(drop=True)))
    if when.isna().any():
        raise UserError(f"column {time!r} says when, and is missing at row {int(when.isna().argmax())} (from 0)")
    order = np.lexsort((when.rank(method="dense").to_numpy(), codes))
    twice = pandas.DataFrame({"group": codes, "time": when}).duplicated()
    if twice.any():
        row = int(twice.argmax())
        raise UserError(
            f"column {time!r} says when, and group {words[codes[row]]!r} has two rows at {when[row]!s} "
            f"(row {row} from 0): leave time= out, or make them one row"
        )
    return order


def _with_order(time: str, when: Any) -> Any:
    """Times that have an order: numbers, dates, ordered categories; of text what is numbers or ISO dates throughout."""
    import pandas

    if isinstance(when.dtype, pandas.CategoricalDtype):
        if when.dtype.ordered:
            return when
        when = when.astype(when.cat.categories.dtype)
    if when.dtype.kind in "biufMm":
        return when
    for read in (pandas.to_numeric, lambda words: pandas.to_datetime(words, format="ISO8601", utc=True)):
        try:
            return read(when)
        except (ValueError, TypeError):
            continue
    raise UserError(
        f"column {time!r} says when, and holds words ({when.dropna().iloc[0]!r}), which have no order: make it "
        "numbers, dates (2024-01-31) or an ordered categorical"
    )


def into_groups(
    fields: Sequence[Field],
    tensors: Mapping[str, Tensor],
    rows: GroupedRows,
    by: str,
    time: str | None,
    lengths: str | None,
) -> tuple[Schema, dict[str, Tensor]]:
    """Long fields and their tensors [long row, *shape] as fields of groups [group, ...]."""
    inner = tuple(f.name for f in fields if not _constant(tensors[f.name], rows))
    if not inner:
        raise UserError(f"every column is constant within each {by!r}: drop the rows that repeat, and leave group= out")
    grouping = Grouping(by, time, rows.largest, inner, tuple(fields), lengths)
    return Schema(tuple(_grouped(f, grouping) for f in fields), grouping), _laid_out(fields, tensors, rows, grouping)


def as_groups(
    fields: Sequence[Field], tensors: Mapping[str, Tensor], rows: GroupedRows, schema: Schema
) -> dict[str, Tensor]:
    """Long tensors as fields of groups that a schema knows.

    Raises:
        UserError: for a group with more rows than any had in training, or two values of what is constant in a group.
    """
    grouping = schema.groups
    if grouping is None:
        raise UserError("expected rows that do not belong together")
    if rows.largest > grouping.size:
        group = rows.names[int(rows.group[rows.place.argmax()])]
        raise UserError(
            f"{grouping.by} {group!r} has {rows.largest} rows, and the largest one in training had {grouping.size}: "
            "load the training data together with it, or give it in parts"
        )
    for f in fields:
        if f.name not in grouping.inner and not _constant(tensors[f.name], rows):
            raise UserError(
                f"field {f.name!r} is one value for each {grouping.by} in training, and has several here: load the "
                "training data with such groups, or keep one"
            )
    return _laid_out(fields, tensors, rows, grouping)


def as_long(values: Tensor, rows: GroupedRows, inner: bool) -> Tensor:
    """A field of groups [group, ...] as a long table has it, [long row, ...]."""
    group, place = rows.group.to(values.device), rows.place.to(values.device)
    return values[group, place] if inner else values[group]


def _laid_out(
    fields: Sequence[Field], tensors: Mapping[str, Tensor], rows: GroupedRows, grouping: Grouping
) -> dict[str, Tensor]:
    found = {}
    for f in fields:
        values = tensors[f.name]
        group, place = rows.group.to(values.device), rows.place.to(values.device)
        if f.name in grouping.inner:
            categorical = f.kind == "categorical"
            values = values if categorical or values.is_floating_point() else values.to(torch.get_default_dtype())
            shape = (len(rows.names), grouping.size, *values.shape[1:])
            padded = values.new_full(shape, -1 if categorical else torch.nan)
            padded[group, place] = values
            found[f.name] = padded
        else:
            first = values.new_empty((len(rows.names), *values.shape[1:]))
            first[group[place == 0]] = values[place == 0]
            found[f.name] = first
    return found


def _grouped(f: Field, grouping: Grouping) -> Field:
    if f.name not in grouping.inner:
        return f
    names = f.names if f.kind == "categorical" else ()
    return replace(f, shape=(grouping.size, *f.shape), missing=True, names=names, origin=f.origin * grouping.size)


def _constant(values: Tensor, rows: GroupedRows) -> bool:
    """Whether each group has one value of a field, be it that it is missing."""
    group, place = rows.group.to(values.device), rows.place.to(values.device)
    first = torch.zeros_like(values)
    first[group[place == 0]] = values[place == 0]
    of_group = first[group]
    gone = missing_in("real", values) & missing_in("real", of_group)
    return bool((gone | (values == of_group)).all())
