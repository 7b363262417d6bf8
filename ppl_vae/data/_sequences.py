"""Sequences of unequal length, as lists of arrays or as padded arrays with their lengths, as a long table.

Each sequence is then a group of rows (`_grouped`): one reading of what belongs together, of what is missing after the
last step, and of new rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._tables import column_name
from ppl_vae.data.containers import as_array, is_table
from ppl_vae.data.schema import Grouping
from ppl_vae.errors import UserError, unknown_name

__all__ = ["BY", "as_long_rows", "has_sequences", "sequences_again"]

BY = "sequence"
"""The name of the column that says which sequence a step is of."""


def has_sequences(source: Any) -> bool:
    """Whether this is a list of arrays or tables of unequal length, or a dict with such a field."""
    if isinstance(source, Mapping):
        return any(_is_ragged(values) for values in source.values())
    return _is_ragged(source)


def as_long_rows(source: Any, lengths: str | None = None) -> Any:
    """A long table, or a dict of long arrays, with a column `sequence`, of lists of sequences or of padded arrays.

    In a dict a list of arrays of unequal length, or, with `lengths`, an array with as many steps as the longest, is a
    field of the steps; every other field has one value for each sequence.

    Args:
        source: a list of arrays [T_i, *shape] or of tables, or a dict of such lists and of arrays [sequence, ...].
        lengths: of a dict: the field [sequence] that says how many steps of a padded array [sequence, T, *shape] there
            are; what comes after them is padding, and has to be one value throughout.

    Raises:
        UserError: for a sequence without steps, fields of one sequence with other lengths, or padding that has values.
    """
    if lengths is not None:
        return _long(*_cut(source, lengths))
    if not isinstance(source, Mapping):
        if all(is_table(part) for part in source):
            return _stacked_tables(source)
        source = {"x": source}
    steps = {name: [_array(name, part) for part in v] for name, v in source.items() if _is_listed(v)}
    return _long(steps, {name: v for name, v in source.items() if name not in steps})


def sequences_again(data: Any, groups: Grouping) -> Any:
    """New rows that come as the sequences of the training data came, as long rows; all else as it is."""
    if groups.by != BY:
        return data
    if groups.lengths is not None and isinstance(data, Mapping) and groups.lengths in map(column_name, data):
        return as_long_rows(data, groups.lengths)
    listed = data.values() if isinstance(data, Mapping) else [data]
    return as_long_rows(data) if any(_is_listed(values) for values in listed) else data


def _is_listed(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) > 0
        and all((isinstance(part, (np.ndarray, Tensor)) and part.ndim > 0) or is_table(part) for part in values)
    )


def _is_ragged(values: Any) -> bool:
    if not _is_listed(values) or len({type(part) for part in values}) > 1:
        return False
    if is_table(values[0]):
        return True
    # a pair of a matrix and a vector, (X, y), is no list of sequences
    return len({part.ndim for part in values}) == 1 and len({len(part) for part in values}) > 1


def _array(name: str, part: Any) -> Any:
    return part if isinstance(part, Tensor) else as_array(name, part)


def _cut(source: Any, lengths: str) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Padded arrays as lists of sequences, and the fields that have no steps."""
    if not isinstance(source, Mapping):
        raise UserError(f"lengths={lengths!r} names a field of a dict of arrays, got {type(source).__name__}")
    fields = {column_name(name): values for name, values in source.items()}
    if lengths not in fields:
        raise unknown_name("field", lengths, fields)
    count = np.asarray(as_array(lengths, fields.pop(lengths)))
    if count.ndim != 1 or not len(count) or not np.all(count == np.floor(count.astype(float))):
        raise UserError(f"field {lengths!r} expects a whole number of steps for each row, got shape {count.shape}")
    arrays = {name: as_array(name, values) for name, values in fields.items()}
    for name, values in arrays.items():
        if len(values) != len(count):
            raise UserError(f"field {name!r} has {len(values)} rows, and {lengths!r} has {len(count)}: keep one number")
    most = int(count.max())
    widths = {name: v.shape[1] for name, v in arrays.items() if v.ndim > 1 and v.shape[1] >= most}
    if not widths:
        raise UserError(f"{lengths!r} says that there are up to {most} steps, and no field has so many: pad one")
    if len({*widths.values()}) > 1:
        told = " and ".join(f"{name!r} {width}" for name, width in widths.items())
        raise UserError(f"fields of sequences expect one number of steps, got {told}: pad them alike")
    steps = {}
    for name in widths:
        _check_padding(name, arrays[name], count)
        steps[name] = [row[: int(n)] for row, n in zip(arrays[name], count, strict=True)]
    return steps, {name: v for name, v in arrays.items() if name not in steps}


def _check_padding(name: str, values: Any, count: np.ndarray) -> None:
    """What comes after the last steps is one value: anything else may be data, of a field that has no steps."""
    beyond = np.arange(values.shape[1])[None] >= count[:, None]
    rest = values[torch.from_numpy(beyond)] if isinstance(values, Tensor) else values[beyond]
    if not len(rest):
        return
    first = rest.reshape(-1)[0]
    same = (rest == first) | ((rest != rest) & (first != first))  # NaN differs from itself
    if not bool(same.all()):
        other = np.asarray(~same).reshape(len(rest), -1).any(1)
        row = int(np.nonzero(beyond)[0][int(other.argmax())])
        raise UserError(
            f"field {name!r} has several values after the last step (row {row} has {int(count[row])} steps), where "
            "padding is one value: make it NaN, or, where the field has no steps, add an axis, values[:, None]"
        )


def _long(steps: dict[str, list[Any]], others: Mapping[str, Any]) -> dict[str, Any]:
    """Steps one after the other, with the sequence of each; what a sequence has once is repeated for its steps."""
    (first, parts), *rest = steps.items()
    count = [len(part) for part in parts]
    if 0 in count:
        raise UserError(f"sequence {count.index(0)} (from 0) has no steps: leave it out")
    for name, found in rest:
        for row, (mine, other) in enumerate(zip(count, map(len, found), strict=False)):
            if mine != other:
                raise UserError(f"sequence {row} (from 0) has {mine} steps in {first!r} and {other} in {name!r}")
        if len(found) != len(count):
            raise UserError(f"field {name!r} has {len(found)} sequences, and {first!r} has {len(count)}")
    of = np.repeat(np.arange(len(count)), count)
    long: dict[str, Any] = {name: _joined(name, found) for name, found in steps.items()}
    for name, values in others.items():
        once = as_array(name, values)
        if len(once) != len(count):
            raise UserError(
                f"field {name!r} expects one value for each of {len(count)} sequences, got {len(once)} values"
            )
        index = torch.from_numpy(of) if isinstance(once, Tensor) else of
        long[name] = once.iloc[of] if hasattr(once, "iloc") else once[index]
    if BY in long:
        raise UserError(f"field {BY!r} has the name of the column that tells sequences apart: rename it")
    return {**long, BY: of}


def _joined(name: str, parts: Sequence[Any]) -> Any:
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise UserError(f"steps of field {name!r} expect one shape, got {' and '.join(map(str, sorted(shapes)))}")
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else np.concatenate(list(parts))


def _stacked_tables(tables: Sequence[Any]) -> Any:
    import pandas

    for row, table in enumerate(tables):
        if not len(table):
            raise UserError(f"sequence {row} (from 0) has no steps: leave it out")
        if list(table.columns) != list(tables[0].columns):
            raise UserError(f"tables of sequences expect the same columns, got others in sequence {row} (from 0)")
    if BY in map(column_name, tables[0].columns):
        raise UserError(f"column {BY!r} has the name of the column that tells sequences apart: rename it")
    of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    return pandas.concat(list(tables), ignore_index=True).assign(**{BY: of})
