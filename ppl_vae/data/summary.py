"""What every column was read as, in a table: its kind, its levels or range, and how many entries are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ppl_vae.data.convert import missing_in
from ppl_vae.data.schema import Field
from ppl_vae.errors import escaped

if TYPE_CHECKING:
    from ppl_vae.data.dataset import Split

__all__ = ["ColumnSummary", "aligned", "summaries"]

MOST = 40
"""So many columns are listed one by one."""


class ColumnSummary(NamedTuple):
    """One column (or a field that is no column) of the rows of a split."""

    field: str
    column: str
    kind: str
    values: str
    missing: str


def summaries(split: Split) -> list[ColumnSummary]:
    """The columns of a split in their order; fields of pictures and of unnamed columns are one line each.

    Example:
        >>> from ppl_vae.data import load
        >>> table = {"age": [31, 64, None], "sex": ["m", "f", "m"]}
        >>> for line in summaries(load(table, missing="allow", test=0, validation=0).train):
        ...     print(line.column, line.kind, line.values, line.missing, sep=" | ")
        age | count | 31 to 64 | 1 (33 %)
        sex | categorical | 2 levels: f, m |
    """
    split = split.head
    found = [line for field in split.schema for line in _of(field, split[field.name], field.name in split.draws)]
    if len(found) <= MOST:
        return found
    return [*found[:MOST], ColumnSummary("", f"... and {len(found) - MOST} more", "", "", "")]


def _of(field: Field, values: Tensor, drawn: bool) -> Iterator[ColumnSummary]:
    if len(field.shape) != 1 or len(field.names) != field.size:
        shape = "" if not field.shape else " " + " x ".join(map(str, field.shape))
        grey = "grey levels, drawn at every use in train" if drawn else _values(field, values)
        yield ColumnSummary(field.name, field.name, field.kind + shape, grey, _missing(field, values))
        return
    for i, name in enumerate(field.names):
        one = replace(field, name=name, shape=(), names=(), origin=field.origin[i : i + 1])
        yield ColumnSummary(field.name, name, field.kind, _values(one, values[:, i]), _missing(one, values[:, i]))


def _missing(field: Field, values: Tensor) -> str:
    gone = missing_in(field.kind, values)
    count = int(gone.sum())
    return f"{count:,} ({100 * count / gone.numel():.2g} %)" if count else ""


def _values(field: Field, values: Tensor) -> str:
    """Levels of categories, the share of ones, or the range of numbers."""
    from ppl_vae.data.frames import in_words, restored

    seen = values[~missing_in(field.kind, values)]
    if field.kind == "categorical":
        order = "ordered levels" if field.ordered else "levels"
        listed = ", ".join(field.names[:6]) + (", ..." if len(field.names) > 6 else "")
        return f"{field.cardinality} {order}" + (f": {listed}" if listed else "")
    if not len(seen):
        return ""
    if field.kind == "binary":
        return f"{100 * float(seen.double().mean()):.3g} % are 1"
    ends = torch.stack([seen.min(), seen.max()])
    if field.unit:
        low, high = in_words(field, ends)
    else:
        low, high = (f"{v:.{15 if field.origin else 6}g}" for v in restored(replace(field, shape=()), ends).tolist())
    span = f"{low} to {high}" if low != high else f"{low}"
    unit = f", {field.unit}" if field.unit and not field.origin else ""
    return span + unit + (f", stored minus {field.origin[0]:.15g}" if len(field.origin) == 1 else "")


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text; columns that are empty are left out.

    Example:
        >>> aligned(("column", "kind", "missing"), [("age", "count", ""), ("sex", "categorical", "")])
        ['column  kind', 'age     count', 'sex     categorical']
    """
    shown = [i for i in range(len(header)) if any(row[i] for row in rows)]
    table = [[escaped(str(row[i]))[:60] for i in shown] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(shown))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
