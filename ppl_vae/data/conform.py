"""Rows from anywhere as a schema has them: fields by name, categories by name, guesses where there is no schema."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data._grouped import as_groups, without_group
from ppl_vae.data._sequences import sequences_again
from ppl_vae.data._tables import column_name, raw_fields
from ppl_vae.data.containers import Labelled, is_table, opened
from ppl_vae.data.convert import Raw, convert, guess, missing_in
from ppl_vae.data.dataset import SPLITS, Data, Split, columns_of, count_rows
from ppl_vae.data.schema import Field, Grouping, Schema
from ppl_vae.errors import UserError, absent_field, unknown_name

__all__ = ["as_split"]


def as_split(
    data: Any,
    split: str = "test",
    schema: Schema | None = None,
    *,
    rows_for: str | None = None,
    hints: Schema | None = None,
) -> Split:
    """Anything row-like as a `Split`: a data set, a split, a dict of arrays, one array or a DataFrame.

    Args:
        data: `Data` (its split `split` is taken), `Split`, dict of arrays by field name, or one array, tensor
            or DataFrame (field x).
        split: which split of a `Data`.
        schema: convert to these fields and check against them. A field that may be missing may be absent, and is then
            missing in every row; so may a label (categorical, shape `()`). A `Split` loses fields that are not in the
            schema; of a DataFrame the columns named in the
            schema (its x, or its fields) are taken, and column y as the label. Without a schema the fields are
            guessed as `load` guesses them, and missing entries are kept.
        rows_for: what goes through rows one by one, and so refuses all data as one unit.
        hints: without a schema: the fields that are known of rows like these. They name the categories of a label, say
            what a field is that is missing in every row, and which fields may be absent.

    Raises:
        UserError: absent split, unknown or absent field, wrong shape, values outside a field's kind.

    Example:
        >>> import torch
        >>> as_split(torch.randn(5, 2, generator=torch.manual_seed(0)))
        Split(rows, 5 rows; x: real 2; cpu)
        >>> schema = Schema((Field("x", "unit", (2,)),))
        >>> as_split({"x": [[0.5, 2.0]]}, schema=schema)
        Traceback (most recent call last):
        ppl_vae.errors.UserError: field 'x' of kind unit got the value 2.0 at row 0 (from 0), entry 1: \
pass rows on the scale of the training data, or choose a kind that fits (real, positive) with kinds=
    """
    if isinstance(data, Data):
        data = _pick(data, split)
    if isinstance(data, Split) and data.is_one_unit and rows_for is not None:
        raise UserError(
            f"{rows_for} looks at rows one by one, and all data here are one unit: see ppl_vae.evaluate, or give the "
            "program a plate of independent rows"
        )
    if isinstance(data, Split):
        if data.is_one_unit or (schema is None and hints is None) or schema == data.schema:
            return data
        return _conform(data, schema) if schema is not None else _hinted(data, hints)
    if isinstance(data, (str, Path)):
        raise UserError(f"expected rows, got the name {str(data)!r}: pass ppl_vae.load({str(data)!r})")
    grouped = next((s for s in (schema, hints) if s is not None and s.groups is not None), None)
    if grouped is not None and grouped.groups is not None:
        data = sequences_again(data, grouped.groups)
    if grouped is not None and grouped.groups is not None and _is_long(data, grouped.groups):
        rest, rows = without_group(data, grouped.groups.by, grouped.groups.time, several=False)
        asked = [replace(f, missing=grouped[f.name].missing) for f in grouped.groups.long if f.name in grouped]
        long = as_split(rest, schema=Schema(tuple(asked)))
        laid_out = as_groups(long.schema.fields, long.fields, rows, grouped)
        return Split(grouped.of(f for f in grouped if f.name in laid_out), "rows", laid_out, groups=rows.names)
    raws = _raws(opened(data), schema)
    tensors, fields = {}, []
    for name, raw in raws.items():
        if schema is not None:
            tensors[name] = convert(schema[name], raw)
            continue
        found, tensors[name] = _guessed(name, raw, hints)
        fields.append(found)
    count_rows(tensors)
    if schema is not None:
        fields = _present(schema, tensors, _left_over(data, schema))
    elif hints is not None:
        fields += _absent(hints, tensors, _left_over(data, hints))
    return Split(Schema(tuple(fields)), "rows", _on_one_device(raws, tensors))


def _is_long(data: Any, groups: Grouping) -> bool:
    """Whether these are long rows, whose column of groups is there, and no rows of groups already."""
    data = opened(data)
    table = data.table if isinstance(data, Labelled) else data
    if is_table(table):
        return True
    return isinstance(table, Mapping) and groups.by in {column_name(name) for name in table}


def _pick(data: Data, split: str) -> Split:
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if data.train.is_one_unit:  # which has no part; what is about rows says so
        return data.train
    found = getattr(data, split)
    if found is None:
        raise UserError(f"data set {data.name!r} has no {split} split: load it with {split}=0.2, or pass rows")
    return found


def _conform(split: Split, schema: Schema) -> Split:
    """A split checked against a foreign schema; drawn fields are checked as grey levels."""
    split = split.select([name for name in split.schema.names if name in schema] or schema.names)
    if (anew := split.conformed(schema)) is not None:
        return anew
    tensors = {}
    for ours in split.schema:
        theirs = schema[ours.name]
        if ours.kind != theirs.kind:
            raise UserError(
                f"field {ours.name!r} expects kind {theirs.kind}, got {ours.kind}:"
                " load it as the training data were loaded (binarise=, kinds=)"
            )
        # what is stored in a drawn field is a probability, not a value of its kind
        target = replace(theirs, kind="unit") if ours.name in split.draws else theirs
        tensors[ours.name] = convert(target, Raw(_recoded(split[ours.name], ours, theirs), coded=True))
    return replace(split, schema=schema.of(_present(schema, tensors, ())), fields=tensors)


def _hinted(split: Split, hints: Schema | None) -> Split:
    """A split with the fields that are known of such rows and that it does not have, missing in every row."""
    tensors = dict(split.fields)
    added = [] if hints is None else _absent(hints, tensors, ())
    return replace(split, schema=Schema((*split.schema, *added)), fields=tensors) if added else split


def _guessed(name: str, raw: Raw, hints: Schema | None) -> tuple[Field, Tensor]:
    """A field of rows of a program that was not told what its fields are, and its values."""
    if hints is not None and name in hints and hints[name].names and hints[name].kind == "categorical":
        known = replace(hints[name], missing=True)
        return known, convert(known, raw)
    found, values = guess(name, raw, label=by_name(name, raw), own=True)
    if hints is not None and name in hints and bool(missing_in(found.kind, values).all()):
        known = replace(hints[name], missing=True)
        return known, convert(known, raw)
    return found, values


def _recoded(values: Tensor, ours: Field, theirs: Field) -> Tensor:
    """Stored values of one field as another field would store them: other codes of categories, another origin."""
    if ours.kind == "categorical" and not ours.shape and ours.names and theirs.names and ours.names != theirs.names:
        unknown = [word for word in ours.names if word not in theirs.names]
        if unknown:
            raise unknown_name(f"category of field {ours.name!r}", unknown[0], theirs.names)
        codes = torch.tensor([*(theirs.names.index(word) for word in ours.names), -1], device=values.device)
        return codes[values]
    if ours.unit != theirs.unit:
        raise UserError(f"field {ours.name!r} expects {theirs.unit or 'no unit'}, got {ours.unit or 'no unit'}")
    if ours.origin != theirs.origin:
        mine, other = (values.new_tensor(f.origin or (0.0,), dtype=torch.float64) for f in (ours, theirs))
        return (values.double() + (mine - other).reshape(ours.shape if ours.shape else ())).to(values.dtype)
    return values


def by_name(name: str, raw: Raw) -> bool:
    """Whether a field is a label for its name y alone: a tensor of floats is a response."""
    return name == "y" and not (isinstance(raw.values, Tensor) and raw.values.is_floating_point())


def _present(schema: Schema, tensors: dict[str, Tensor], others: Iterable[str]) -> list[Field]:
    """The schema's fields, those that are absent missing in every row; a label may be absent altogether."""
    added = {f.name for f in _absent(schema, tensors, others)}
    for wanted in schema:
        if wanted.name not in tensors and not _is_label(wanted):
            there = [name for name in tensors if name not in added]
            raise absent_field(wanted.name, there)
    return [wanted for wanted in schema if wanted.name in tensors]


def _absent(schema: Schema, tensors: dict[str, Tensor], others: Iterable[str]) -> list[Field]:
    """The fields that may be missing and are not there, which are put there as missing in every row.

    Raises:
        UserError: for an absent field whose name one of the `others` that came nearly has.
    """
    like = next(iter(tensors.values()))
    gone = [f for f in schema if f.name not in tensors and f.missing]
    for known in gone:
        if near := difflib.get_close_matches(known.name, list(others), n=1, cutoff=0.75):
            raise UserError(f"expected field {known.name!r}, got {near[0]!r}: rename it, or drop it if it is another")
        shape = (len(like), *known.shape)
        if known.kind == "categorical":
            tensors[known.name] = torch.full(shape, -1, dtype=torch.long, device=like.device)
        else:
            kinds = {values.dtype for values in tensors.values() if values.is_floating_point()}
            dtype = torch.float64 if kinds == {torch.float64} else torch.float32
            tensors[known.name] = torch.full(shape, torch.nan, dtype=dtype, device=like.device)
    return gone


def _left_over(data: Any, schema: Schema) -> list[str]:
    """The columns of a table that no field is made of."""
    columns = [column_name(c) for c in data.columns] if is_table(data) else []
    used = {c for f in schema for c in ([columns_of(f)] if isinstance(columns_of(f), str) else columns_of(f))}
    return [column for column in columns if column not in used]


def _raws(data: Any, schema: Schema | None) -> dict[str, Raw]:
    if isinstance(data, Labelled) and schema is not None:
        data = data.table.rename(columns={data.label: "y"}) if "y" in schema else data.table
    kinds = {} if schema is None else {field.name: field.kind for field in schema}
    if schema is not None and isinstance(data, Mapping) and not is_table(data):
        data = {name: _in_order(values, schema, column_name(name)) for name, values in data.items()}
    if schema is None or not is_table(data):
        return raw_fields(data, kinds=kinds)
    there = {column_name(c) for c in data.columns}
    fields = {f.name: columns_of(f) for f in schema if f.name != "y"}
    fields = {name: c for name, c in fields.items() if not isinstance(c, str) or c in there}
    used = {c for columns in fields.values() for c in ([columns] if isinstance(columns, str) else columns)}
    label = "y" if "y" in schema and "y" in there - used else None
    if label and not fields:  # all that the rows have, and so no label of anything
        label, fields = None, {"y": "y"}
    if "x" in fields and not fields["x"]:  # x came as an array, whose columns have no names
        return raw_fields(data, label=label, apart=False, kinds=kinds)
    return raw_fields(data, label=label, fields=fields, kinds=kinds)


def _in_order(values: Any, schema: Schema, name: str) -> Any:
    """A table that is one field of several, with the columns that the field has, in its order.

    Raises:
        UserError: for a column that is not there.
    """
    wanted = schema[name].names if name in schema else ()
    if not is_table(values) or not wanted or schema[name].kind == "categorical":
        return values
    values = values.set_axis([column_name(c) for c in values.columns], axis=1)
    for column in wanted:
        if column not in values.columns:
            raise unknown_name(f"column of field {name!r}", column, list(values.columns))
    return values[list(wanted)]


def _is_label(field: Field) -> bool:
    return field.kind == "categorical" and field.shape == ()


def _on_one_device(raws: Mapping[str, Raw], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fields that came as numpy arrays go where the fields that came as tensors are."""
    home = next((raw.values.device for raw in raws.values() if isinstance(raw.values, Tensor)), torch.device("cpu"))
    return {
        name: values if name in raws and isinstance(raws[name].values, Tensor) else values.to(home)
        for name, values in tensors.items()
    }
