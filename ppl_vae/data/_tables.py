"""The fields that rows are made of: one array, a dict of arrays, or the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppl_vae.data._columns import Raw, column, simple_dtype
from ppl_vae.data.containers import Annotated, Labelled, as_array, is_table, opened
from ppl_vae.data.text import USUAL, TextForm
from ppl_vae.errors import UserError, unknown_name

__all__ = ["ColumnNames", "column_name", "raw_fields"]

ColumnNames = Mapping[str, str | Sequence[str]]
"""Columns of a table by field name: a list makes a vector of every row, a name alone one number."""


def raw_fields(
    source: Any,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    *,
    apart: bool | None = None,
    fields: ColumnNames | None = None,
    kinds: Mapping[str, str] | None = None,
    form: TextForm = USUAL,
) -> dict[str, Raw]:
    """The fields of a table, of a dict of arrays, or of one array (field x), not yet checked.

    A table is one field x if its columns are numbers of one type, else one field a column; `apart` decides otherwise,
    and `fields` names the columns of every field. `kinds` are what the user said that fields are.
    """
    source, kinds = opened(source), kinds or {}
    if isinstance(source, Labelled):
        source, label = source.table, label or source.label
    label = None if label is None else column_name(label)
    columns = [columns] if isinstance(columns, str) else columns
    columns = None if columns is None else [column_name(c) for c in columns]
    if is_table(source):
        return _table_fields(source, label, columns, apart, fields, kinds, form)
    if isinstance(source, Annotated) and label is not None:
        if label not in source:
            raise unknown_name("field", label, source)
        source, label = source.labelled(label), "y"
    if fields is not None:
        raise UserError("fields= makes fields of the columns of a table, got arrays: pass a dict {'name': array}")
    if isinstance(source, Mapping):
        if not source:
            raise UserError("expected a dict of arrays by field name, got an empty dict: pass {'x': array}")
        given = {column_name(name): values for name, values in source.items()}
        for name in (*(columns or ()), *((label,) if label else ())):
            if name not in given:
                raise unknown_name("field", name, given)
        kept = given if columns is None else [*columns, *([label] if label and label not in columns else [])]
        return {
            name: _array(name, given[name], kinds.get(name), name in ("y", label), form, several=True) for name in kept
        }
    if label is not None or columns is not None:
        option = "label" if label is not None else "columns"
        raise UserError(f"{option}= names a part of a table or dict, got one array: pass a dict {{'x': .., 'y': ..}}")
    return {"x": _array("x", source, kinds.get("x"), False, form, several=False)}


def column_name(name: Any) -> str:
    """The name of a column: the levels of nested names with points between them.

    Example:
        >>> column_name(("mean", "height")), column_name(("height", "")), column_name(3)
        ('mean.height', 'height', '3')
    """
    return ".".join(str(n) for n in name if str(n)) if isinstance(name, tuple) else str(name)


def _array(name: str, values: Any, kind: str | None, label: bool, form: TextForm, *, several: bool) -> Raw:
    """An array of numbers, whose columns may have names; of one dimension it may be a column such as tables have."""
    if is_table(values):
        found = _array(name, as_array(name, values), kind, label, form, several=several)
        names = tuple(column_name(c) for c in values.columns)
        return found._replace(names=names) if len({*names}) == len(names) else found
    array = as_array(name, values)
    if type(array).__module__.startswith("pandas"):
        if array.dtype.kind in "biuf" and not hasattr(array.dtype, "na_value"):
            return Raw(simple_dtype(array).to_numpy())
        return column(name, array, kind, label=label, form=form)
    if not isinstance(array, np.ndarray) or getattr(array.dtype, "kind", "") in "biuf" or array.ndim == 0:
        return Raw(array)
    import pandas

    if array.dtype.kind == "O" and array.size:
        numbers = simple_dtype(pandas.Series(array.reshape(-1), name=name))
        if numbers.dtype.kind in "biuf":
            return Raw(numbers.to_numpy().reshape(array.shape))
    if array.ndim == 1 and array.dtype.kind in "Mm":
        return column(name, pandas.Series(array), kind)
    if array.ndim == 1 and several and array.dtype.kind in "OUS" and not label and _is_text(array):
        return column(name, pandas.Series(array.astype("U") if array.dtype.kind == "S" else array), kind, form=form)
    return Raw(array)


def _table_fields(
    frame: Any,
    label: str | None,
    columns: Sequence[str] | None,
    apart: bool | None,
    fields: ColumnNames | None,
    kinds: Mapping[str, str],
    form: TextForm,
) -> dict[str, Raw]:
    frame = frame.set_axis([column_name(c) for c in frame.columns], axis=1)
    known = list(frame.columns)
    if len(set(known)) < len(known):
        twice = next(c for c in known if known.count(c) > 1)
        raise UserError(f"expected different column names, got {twice!r} twice: rename one of them")
    if columns is not None and fields is not None:
        raise UserError("columns= and fields= both say which columns are used: give one of them")
    groups = (
        [[c for c in (known if columns is None else columns) if c != label]] if fields is None else [*fields.values()]
    )
    used = [c for group in groups for c in ([group] if isinstance(group, str) else group)]
    for name in (*used, *((label,) if label else ())):
        if name not in known:
            raise unknown_name("column", name, known)
    if not used or not all(groups):
        raise UserError("expected at least one column besides the label, got a table with none: check columns=")
    simple = {name: simple_dtype(frame[name]) for name in dict.fromkeys((*used, *((label,) if label else ())))}
    if fields is None:
        fields = _layout(simple, used, apart)
    found = {
        name: column(group, simple[group], kinds.get(name), form=form)._replace(names=(group,) if group != name else ())
        if isinstance(group, str)
        else _matrix(simple, list(group), form)
        for name, group in fields.items()
    }
    if label is not None:
        found["y"] = column(label, simple[label], kinds.get("y"), label=True, form=form)
    return found


def _layout(simple: Mapping[str, Any], kept: list[str], apart: bool | None) -> ColumnNames:
    """Which columns are which field, where nobody said it."""
    types = {simple[name].dtype.kind.replace("u", "i") for name in kept}
    if types <= set("bif") and (len(types) == 1 if apart is None else not apart):
        return {"x": kept}
    for name in {"x", "y"} & {*kept}:
        what = "the label" if name == "y" else "a whole row"
        raise UserError(f"column {name!r} has the name of {what}: rename it" + ", or label='y'" * (name == "y"))
    return {name: name for name in kept}


def _matrix(simple: Mapping[str, Any], columns: list[str], form: TextForm) -> Raw:
    """Columns of numbers as a vector for every row."""
    found = []
    for name in columns:
        dtype = simple[name].dtype
        raw = column(name, simple[name], "real" if form.decimal else None, form=form)
        if not isinstance(raw.values, np.ndarray) or raw.values.dtype.kind not in "fi" or raw.categories:
            raise UserError(f"column {name!r} expects numbers, got {dtype}: make it a field of its own, or numeric")
        found.append(np.asarray(raw.values))
    whole = all(simple[name].dtype.kind in "iub" for name in columns)
    values = np.stack(found, axis=1)
    return Raw(values.astype("int64") if whole and not np.isnan(values).any() else values, tuple(columns))


def _is_text(array: np.ndarray) -> bool:
    return array.dtype.kind in "US" or any(isinstance(v, str) for v in array)
