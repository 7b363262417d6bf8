"""Rows of any fields as a matrix of numbers on one scale, for tests and baselines that know no likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ppl_vae.data import Field
from ppl_vae.data.convert import missing_in

__all__ = ["is_nominal", "matrices", "with_gaps"]


def is_nominal(field: Field) -> bool:
    """Whether the values of a field have no order: single categories that nobody called ordered."""
    return field.kind == "categorical" and field.shape == () and not field.ordered


def with_gaps(field: Field, values: Tensor) -> Float[Tensor, "row entry"]:
    """A field as floats, one column an entry, NaN where it is missing."""
    floats = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    return floats.masked_fill(missing_in(field.kind, values), torch.nan).reshape(len(values), -1)


def matrices(
    fields: Sequence[Field], *sets: Mapping[str, Tensor], like: int | None = None
) -> list[Float[Tensor, "row feature"]]:
    """Several sets of rows as matrices with the same columns.

    Columns are divided by their deviation after their mean is taken off, those of a picture all by one; categories
    without an order are one-hot. A missing entry is 0, the mean, and columns with missing entries have an indicator.

    Args:
        fields: which fields, in this order.
        sets: rows [row, *S] by field name.
        like: the set whose means and deviations are taken; None for those of all rows.

    Example:
        >>> a, b = {"x": torch.tensor([[0.0], [2.0]])}, {"x": torch.tensor([[1.0], [torch.nan]])}
        >>> [m.tolist() for m in matrices([Field("x", "real", (1,))], a, b, like=0)]
        [[[-1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    """
    rows = [len(next(iter(each.values()))) for each in sets]
    found = [_columns(field, [each[field.name] for each in sets], like) for field in fields]
    return list(torch.cat(found, 1).split(rows))


def _columns(field: Field, values: Sequence[Tensor], like: int | None) -> Tensor:
    """The columns of one field, of all sets one below the other."""
    entries = [with_gaps(field, v) for v in values]
    gone = torch.isnan(torch.cat(entries))
    if is_nominal(field):
        codes = [e[:, 0].nan_to_num(-1).long() + 1 for e in entries]
        hot = [
            F.one_hot(c, (field.cardinality or 1) + 1)[:, 1:].to(e.dtype) for c, e in zip(codes, entries, strict=True)
        ]
        entries = [h.masked_fill(e.isnan(), torch.nan) for h, e in zip(hot, entries, strict=True)]
    known = torch.cat(entries) if like is None else entries[like]
    mean = known.nanmean(0).nan_to_num()
    square = (known - mean).square()
    # a pixel that is hardly ever on must not count like one that tells rows apart
    variance = square.nanmean() if field.is_image else square.nanmean(0)
    scale = torch.where(variance.nan_to_num() > 0, variance.sqrt(), 1.0)
    columns = ((torch.cat(entries) - mean) / scale).nan_to_num()
    indicators = gone[:, gone.any(0)].to(columns.dtype)
    return torch.cat([columns, indicators], 1)
