"""Data sets from memory: arrays, tensors, tables and dicts of arrays, split by a seed."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._codes import refuse_codes
from ppl_vae.data._columns import Raw
from ppl_vae.data._grey import binarised, check_grey, is_grey
from ppl_vae.data._grouped import into_groups, without_group
from ppl_vae.data._one_unit import OneUnit, one_unit, single
from ppl_vae.data._options import Options
from ppl_vae.data._sequences import BY, as_long_rows, has_sequences
from ppl_vae.data._tables import column_name, raw_fields
from ppl_vae.data.conform import by_name
from ppl_vae.data.containers import is_table
from ppl_vae.data.convert import guess, refuse_missing
from ppl_vae.data.dataset import SPLITS, Data, assemble, count_rows
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError, unknown_name

__all__ = ["decided", "from_arrays", "held_out", "split_index"]


def from_arrays(source: Any, options: Options, name: str = "array", origin: dict[str, Any] | None = None) -> Data:
    """A data set from an array, tensor, DataFrame or dict of arrays; see `load` for the rules."""
    whole = options.rows is None
    group = options.group
    if options.lengths is not None or (group is None and not whole and has_sequences(source)):
        source, group = as_long_rows(source, options.lengths), BY
    source, rows = (source, None) if group is None else without_group(source, group, options.time)
    fields, tensors = decided(source, options, each=is_table(source) and (whole or rows is not None))
    schema, draws = Schema(fields), frozenset[str]()
    if rows is not None and group is not None:
        count_rows({**tensors, group: rows.group})
        schema, tensors = into_groups(fields, tensors, rows, group, options.time, options.lengths)
    index = {} if whole else split_index(count_rows(tensors), options)
    parts = {split: {key: values[i.to(values.device)] for key, values in tensors.items()} for split, i in index.items()}
    parts = {"train": tensors} if whole else parts
    if options.binarise in ("dynamic", "static"):
        check_grey(schema)
        drawn, draws = binarised({split: part["x"] for split, part in parts.items()}, options.binarise)
        parts = {split: {**part, "x": drawn[split]} for split, part in parts.items()}
        schema = schema.of(replace(f, kind="binary") if f.name == "x" else f for f in schema)
    if whole:
        return one_unit(OneUnit(schema, "train", parts["train"]), name, origin)
    groups = {} if rows is None else {split: tuple(rows.names[i] for i in some) for split, some in index.items()}
    return assemble(name, schema, parts, draws, origin or {"name": name}, groups)


def decided(source: Any, options: Options, *, each: bool = False) -> tuple[tuple[Field, ...], dict[str, Tensor]]:
    """What the fields of some rows are, and their values: for rows in memory and for the digest of a stream.

    With `each` every column of a table is a field of its own.
    """
    kinds = options.kinds or {}
    # A kind for a single column says that the columns are fields of their own.
    apart = True if set(kinds) - {"x", "y"} else None
    raws = raw_fields(
        source,
        options.label,
        None if each else options.columns,
        apart=apart,
        fields=_each_column(source, options) if each else options.fields,
        kinds=kinds,
        form=options.form,
    )
    for key in kinds:
        if key not in raws:
            raise unknown_name("field", key, raws)
    refuse_codes(raws, kinds, options.form)
    return _fields(raws, options)


def _fields(raws: Mapping[str, Raw], options: Options) -> tuple[tuple[Field, ...], dict[str, Tensor]]:
    """The fields, guessed and converted, and their values."""
    kinds, whole = options.kinds or {}, options.rows is None
    fields, tensors = [], {}
    for key, raw in raws.items():
        if whole and np.ndim(raw.values) == 0:
            found, tensors[key] = single(key, raw.values)
            fields.append(found)
            continue
        said = key == options.label or (key == "y" and options.label is not None)
        found, tensors[key] = guess(key, raw, kind=kinds.get(key), label=said or (not whole and by_name(key, raw)))
        if key == "x" and options.binarise in ("dynamic", "static") and found.kind == "real" and "x" not in kinds:
            found, tensors[key] = guess(key, raw, kind="unit") if is_grey(tensors[key]) else (found, tensors[key])
        if options.missing == "refuse":
            refuse_missing(found, tensors[key])
        fields.append(found)
    return tuple(fields), tensors


def _each_column(table: Any, options: Options) -> Mapping[str, str | Sequence[str]]:
    """Every column as a field of its own, whatever its name, where nobody says otherwise."""
    if options.fields is not None:
        return options.fields
    names = [column_name(c) for c in table.columns]
    for name in options.columns or ():
        if name not in names:
            raise unknown_name("column", name, names)
    return {name: name for name in options.columns or names if name != options.label}


def split_index(rows: int, options: Options) -> dict[str, Tensor]:
    """A seeded permutation of the rows, cut into test, validation and train."""
    test, validation = held_out(rows, options)
    order = torch.from_numpy(np.random.default_rng(int(options.seed)).permutation(rows))
    cut = test + validation
    index = {"train": order[cut:], "validation": order[test:cut], "test": order[:test]}
    return {split: index[split] for split in SPLITS if len(index[split])}


def held_out(rows: int, options: Options) -> tuple[int, int]:
    """How many rows are for test and for validation.

    Raises:
        UserError: if none are left to train on.
    """
    test = _count("test", options.test, 0.2, rows)
    validation = _count("validation", options.validation, 0.1, rows)
    if test + validation >= rows:
        raise UserError(
            f"expected at least one row to train on, got {rows} rows with {test} for test and"
            f" {validation} for validation: make test= and validation= smaller"
        )
    return test, validation


def _count(name: str, given: float | None, default: float, rows: int) -> int:
    if given is None:
        given = default if rows >= 3 else 0
    if isinstance(given, bool) or not isinstance(given, numbers.Real) or given < 0:
        raise UserError(f"{name} expects a share of the rows below 1 or a number of rows, got {given!r}")
    if isinstance(given, numbers.Integral):
        return int(given)
    if not given < 1:
        raise UserError(f"{name} expects a share below 1.0, got {given}: pass an int for a number of rows")
    return max(round(given * rows), 1) if given > 0 and rows >= 3 else round(given * rows)
