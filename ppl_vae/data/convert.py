"""Values as they come (arrays, lists, tensors, tables) to fields and checked tensors."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.schema import KINDS, Field
from ppl_vae.errors import UserError, unknown_name

__all__ = ["Raw", "convert", "guess", "is_table", "missing_in", "raw_fields", "refuse_missing"]

ALLOW = "pass missing='allow' (command line: --missing allow), or drop such rows"


ColumnNames = Mapping[str, str | Sequence[str]]
"""Columns of a table by field name: a list makes a vector of every row, a name alone one number."""


class Raw(NamedTuple):
    """One field as it came: values with rows first, and the column names if it was a table.

    A column of strings brings its categories, in their order if they have one.
    """

    values: np.ndarray | Tensor
    names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    ordered: bool = False


def is_table(source: Any) -> bool:
    """Whether this is a pandas DataFrame, asked without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(source, pandas.DataFrame)


def raw_fields(
    source: Any,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    *,
    apart: bool | None = None,
    fields: ColumnNames | None = None,
) -> dict[str, Raw]:
    """The fields of a table, of a dict of arrays, or of one array (field x), not yet checked.

    A table is one field x if its columns are numbers of one type, else one field a column; `apart` decides otherwise,
    and `fields` names the columns of every field.
    """
    if isinstance(columns, str):
        columns = [columns]
    if is_table(source):
        return _table_fields(source, label, columns, apart, fields)
    if fields is not None:
        raise UserError("fields= makes fields of the columns of a table, got arrays: pass a dict {'name': array}")
    if isinstance(source, Mapping):
        if not source:
            raise UserError("expected a dict of arrays by field name, got an empty dict: pass {'x': array}")
        for name in (*(columns or ()), *((label,) if label else ())):
            if name not in source:
                raise unknown_name("field", name, map(str, source))
        kept = source if columns is None else [*columns, *([label] if label and label not in columns else [])]
        return {str(name): Raw(_as_array(str(name), source[name])) for name in kept}
    if label is not None or columns is not None:
        given = "label" if label is not None else "columns"
        raise UserError(f"{given}= names a part of a table or dict, got one array: pass a dict {{'x': .., 'y': ..}}")
    return {"x": Raw(_as_array("x", source))}


def _as_array(name: str, values: Any) -> np.ndarray | Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    if isinstance(values, (str, bytes, Mapping)) or values is None:
        raise UserError(f"field {name!r} expects an array with rows first, got {type(values).__name__}")
    try:
        if isinstance(values, (list, tuple)) and any(isinstance(v, str) for v in values):
            return np.array(values, dtype=object)  # or numpy would turn NaN and None into strings
        return np.asarray(values)
    except (ValueError, TypeError) as problem:
        raise UserError(
            f"field {name!r} expects rows of equal shape, got a ragged {type(values).__name__}: pad it with NaN"
        ) from problem


def _table_fields(
    frame: Any,
    label: str | None,
    columns: Sequence[str] | None,
    apart: bool | None,
    fields: ColumnNames | None,
) -> dict[str, Raw]:
    frame = frame.set_axis([str(c) for c in frame.columns], axis=1)
    known = list(frame.columns)
    if len(set(known)) < len(known):
        twice = next(c for c in known if known.count(c) > 1)
        raise UserError(f"expected different column names, got {twice!r} twice: rename one of them")
    if columns is not None and fields is not None:
        raise UserError("columns= and fields= both say which columns are used: give one of them")
    groups = (
        [[str(c) for c in (known if columns is None else columns) if c != label]]
        if fields is None
        else [*fields.values()]
    )
    used = [c for group in groups for c in ([group] if isinstance(group, str) else group)]
    for name in (*used, *((label,) if label else ())):
        if name not in known:
            raise unknown_name("column", name, known)
    if not used or not all(groups):
        raise UserError("expected at least one column besides the label, got a table with none: check columns=")
    if fields is None:
        fields = _layout(frame, used, apart)
    found = {
        name: _column(group, frame[group])._replace(names=(group,) if group != name else ())
        if isinstance(group, str)
        else _matrix(frame, list(group))
        for name, group in fields.items()
    }
    if label is not None:
        column = frame[label]
        if column.dtype.kind in "biuf":  # a label that is a number may also be a response
            return found | {"y": Raw(column.to_numpy(dtype="float64", na_value=np.nan))}
        # None is the one missing mark that object arrays of any pandas version share
        found["y"] = Raw(column.astype(object).where(column.notna(), None).to_numpy(dtype=object))
    return found


def _layout(frame: Any, kept: list[str], apart: bool | None) -> ColumnNames:
    """Which columns are which field, where nobody said it."""
    types = {frame[name].dtype.kind.replace("u", "i") for name in kept}
    if types <= set("bif") and (len(types) == 1 if apart is None else not apart):
        return {"x": kept}
    for name in {"x", "y"} & {*kept}:
        what = "the label" if name == "y" else "a whole row"
        raise UserError(f"column {name!r} has the name of {what}: rename it" + ", or label='y'" * (name == "y"))
    return {name: name for name in kept}


def _matrix(frame: Any, columns: list[str]) -> Raw:
    """Columns of numbers as a vector for every row."""
    for name in columns:
        if frame[name].dtype.kind not in "biuf":
            raise UserError(
                f"column {name!r} expects numbers, got {frame[name].dtype}: make it a field of its own, or numeric"
            )
    return Raw(frame[columns].to_numpy(dtype="float64", na_value=np.nan), tuple(columns))


MANY = 20
"""From so many rows on, a column of strings that are all different holds no categories."""


def _column(name: str, column: Any) -> Raw:
    """A column of a table on its own: numbers as floats, strings with their categories."""
    if column.dtype.kind in "biuf":
        return Raw(column.to_numpy(dtype="float64", na_value=np.nan))
    present = column.dropna()
    if len(present) and all(isinstance(v, (bool, np.bool_)) for v in present):
        return Raw(column.astype(object).where(column.notna(), np.nan).to_numpy(dtype="float64"))
    remedy = f"make it numeric, name it as the label (label={name!r}; command line --label)"
    if not all(isinstance(v, str) for v in present):
        raise UserError(
            f"column {name!r} expects numbers, bools or strings, got {column.dtype}: {remedy}, make it strings, or"
            " keep other columns with columns=[...]"
        )
    declared = getattr(column.dtype, "categories", None)
    if declared is None and len(present) >= MANY and present.nunique() == len(present):
        raise UserError(
            f"column {name!r} expects categories, got a different string in every row: {remedy}, or keep other columns"
            " with columns=[...] (command line --columns)"
        )
    categories = sorted(set(present)) if declared is None else list(declared)
    values = column.astype(object).where(column.notna(), None).to_numpy(dtype=object)
    return Raw(values, (), tuple(map(str, categories)), bool(getattr(column.dtype, "ordered", False)))


def guess(name: str, raw: Raw, *, kind: str | None = None, label: bool = False) -> tuple[Field, Tensor]:
    """The field that these values suggest and its checked tensor `[row, *shape]`; `kind` overrides the guess.

    Bool, or only 0 and 1: binary. Whole numbers from 0: count, or categorical if this is a label.
    Within [0, 1]: unit. Else real. Positive is never guessed.
    """
    label = label or bool(raw.categories)
    values, categories = _numeric(name, raw.values, label or kind == "categorical", raw.categories)
    _refuse_infinite(name, raw.names, values)
    if categories and kind not in (None, "categorical"):
        raise UserError(f"field {name!r} of kind {kind} expects numbers, got strings: its kind must be categorical")
    kind = kind or _guess_kind(values, label)
    observed = values[~missing_in(kind, values)]
    if not len(observed):
        raise UserError(f"field {name!r} expects some observed entry, got only missing ones: drop the field")
    top = int(observed.max()) + 1 if kind in ("categorical", "count") else None
    field = Field(
        name,
        kind,
        tuple(values.shape[1:]),
        cardinality=len(categories) or (max(top, 1) if top is not None else None),
        missing=len(observed) < values.numel(),
        names=categories or (() if kind == "categorical" and values.dim() == 1 else raw.names),
        ordered=raw.ordered,
    )
    return field, _checked(field, values, "")


def convert(field: Field, raw: Raw) -> Tensor:
    """These values as a tensor `[row, *shape]` of a known field; refused where they do not fit it."""
    values, _ = _numeric(field.name, raw.values, field.kind == "categorical", field.names)
    _refuse_infinite(field.name, field.names, values)
    if tuple(values.shape[1:]) != field.shape:
        hint = " (one row needs a leading dimension: x[None])" if tuple(values.shape) == field.shape else ""
        raise UserError(
            f"field {field.name!r} expects rows of shape {field.shape}, got an array of shape"
            f" {tuple(values.shape)}: reshape it with rows first{hint}"
        )
    tensor = _checked(field, values, "pass rows on the scale of the training data")
    if not field.missing:
        refuse_missing(field, tensor, "this schema has no missing entries: load the training data with them")
    return tensor


def refuse_missing(field: Field, tensor: Tensor, remedy: str = ALLOW) -> None:
    """Raise a UserError that names the first missing entry of this tensor, if there is one."""
    missing = missing_in(field.kind, tensor)
    if missing.any():
        mark = "-1 or no label" if field.kind == "categorical" else "NaN"
        raise UserError(
            f"field {field.name!r} expects complete rows, got a missing entry ({mark}) at"
            f" {_where(field.names, missing)} ({int(missing.sum())} in all): {remedy}"
        )


def _numeric(
    name: str, values: np.ndarray | Tensor, label: bool, categories: tuple[str, ...] = ()
) -> tuple[Tensor, tuple[str, ...]]:
    """Any array as a tensor of bool, integers or floats; strings of a label as codes with their names."""
    found: tuple[str, ...] = ()
    if not isinstance(values, Tensor):
        if values.dtype.kind in "OUS" and label and values.ndim == 1 and len(values):
            values, found = _codes(name, values, categories)
        if values.dtype.kind not in "biuf":
            raise UserError(
                f"field {name!r} expects an array of numbers, got dtype {values.dtype}: convert it to numbers"
                " (strings are taken for a label only: field y, or the one named by label=)"
            )
        values = torch.from_numpy(values.astype("float64" if values.dtype.kind == "f" else "int64"))
        # numpy makes float64 without being asked; only a tensor says that somebody wants it
        values = values.float() if values.is_floating_point() else values
    if values.is_complex():
        raise UserError(f"field {name!r} expects real numbers, got {values.dtype}: split it into two fields")
    if not values.is_floating_point():
        values = values.long()  # in uint8 the missing mark -1 would be 255
    elif values.dtype != torch.float64:
        values = values.float()
    if values.ndim == 0 or not values.numel():
        raise UserError(
            f"field {name!r} expects at least one row and one entry a row, got shape {tuple(values.shape)}:"
            " pass an array with rows first"
        )
    return values, found


def _codes(name: str, values: np.ndarray, categories: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Category names as numbers in sorted order, None and NaN as -1; objects that are numbers as floats."""
    items = [
        None if isinstance(v, (float, np.floating)) and np.isnan(v) else v
        for v in values.astype("U" if values.dtype.kind == "S" else "O")
    ]
    present = [v for v in items if v is not None]
    if present and all(isinstance(v, str) for v in present):
        names = categories or tuple(sorted(set(present)))
        for item in present:
            if item not in names:
                raise unknown_name(f"category of field {name!r}", item, names)
        place = {item: code for code, item in enumerate(names)}
        return np.array([-1 if v is None else place[v] for v in items]), names
    if not all(isinstance(v, (bool, int, float, np.number, np.bool_)) for v in present):
        raise UserError(f"label field {name!r} expects all strings or all numbers, got a mixture: make them strings")
    return np.array([np.nan if v is None else float(v) for v in items]), ()


def _guess_kind(values: Tensor, label: bool) -> str:
    seen = values[~missing_in("real", values)]
    finite = seen[torch.isfinite(seen)] if seen.is_floating_point() else seen
    if label and _whole(finite).all() and (finite >= -1).all():
        return "categorical"
    for kind in ("binary", "count", "unit"):
        if _within(kind, finite).all():
            return kind
    return "real"


def missing_in(kind: str, values: Tensor) -> Tensor:
    """Which entries of a field of this kind are missing: NaN, and -1 of categories."""
    gone = torch.isnan(values) if values.is_floating_point() else torch.zeros_like(values, dtype=torch.bool)
    return gone | (values == -1) if kind == "categorical" else gone


def _whole(values: Tensor) -> Tensor:
    return torch.floor(values) == values if values.is_floating_point() else torch.ones_like(values).bool()


def _within(kind: str, values: Tensor, cardinality: int | None = None) -> Tensor:
    """Which entries are values of this kind."""
    if kind == "binary":
        return (values == 0) | (values == 1)
    if kind == "unit":
        return (values >= 0) & (values <= 1)
    if kind == "positive":
        return values > 0
    if kind == "count":
        return (values >= 0) & _whole(values)
    if kind == "categorical":
        return (values >= 0) & _whole(values) & (values < (cardinality or torch.inf))
    return torch.ones_like(values, dtype=torch.bool)


def _refuse_infinite(name: str, names: tuple[str, ...], values: Tensor) -> None:
    if values.is_floating_point() and (infinite := torch.isinf(values)).any():
        raise UserError(
            f"field {name!r} expects finite values, got {float(values[infinite][0])} at"
            f" {_where(names, infinite)}: replace it, or mark it as missing with NaN"
        )


def _checked(field: Field, values: Tensor, remedy: str) -> Tensor:
    """The tensor to keep: int64 for categories, else float32 (float64 if it came as such a tensor)."""
    missing = missing_in(field.kind, values)
    wrong = ~(_within(field.kind, values, field.cardinality) | missing)
    if wrong.any():
        fits = [kind for kind in KINDS if (_within(kind, values) | missing).all()]
        kind = f"categorical({field.cardinality})" if field.kind == "categorical" else field.kind
        raise UserError(
            f"field {field.name!r} of kind {kind} got the value {values[wrong][0].item()} at"
            f" {_where(field.names, wrong)}: {remedy or 'rescale it'}, or choose a kind that fits"
            f" ({', '.join(fits)}) with kinds="
        )
    if field.kind == "categorical":
        return values.masked_fill(missing, -1).long()
    return values if values.dtype == torch.float64 else values.float()


def _where(names: tuple[str, ...], flagged: Tensor) -> str:
    """The place of the first flagged entry, in words."""
    row, *entry = flagged.nonzero()[0].tolist()
    if not entry:
        return f"row {row} (from 0)"
    if len(entry) == 1 and len(names) == flagged.shape[1]:
        return f"row {row} (from 0), column {names[entry[0]]!r}"
    return f"row {row} (from 0), entry {entry[0] if len(entry) == 1 else tuple(entry)}"
