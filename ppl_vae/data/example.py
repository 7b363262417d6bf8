"""A few rows on which programs are read before they are trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppl_vae.data._one_unit import OneUnit
from ppl_vae.data.dataset import Split
from ppl_vae.data.schema import Field, Schema

__all__ = ["blank", "example", "spread_rows", "without_extremes"]


def example(schema: Schema, split: Split | None, rows: int = 4) -> dict[str, Tensor]:
    """A few rows to run a program on; where the schema allows missing entries, the first row misses a field."""
    if isinstance(split, OneUnit):
        return split.batch()
    sample = None if split is None else split.sample
    batch = {f.name: blank(f, rows) for f in schema} if sample is None else sample.batch(_some(sample, rows))
    for field in schema:
        if field.missing and field.name in batch:
            values = batch[field.name].clone()
            values[0] = -1 if field.kind == "categorical" else torch.nan
            batch[field.name] = values
    return batch


def spread_rows(split: Split, rows: int = 64) -> dict[str, Tensor]:
    """Rows from all over a split, without extremes: what changes with the rows is another there than in `example`."""
    split = split.head
    count = min(rows, len(split))
    return without_extremes(split.batch(torch.linspace(0, len(split) - 1, count).round().long()))


def blank(field: Field, rows: int) -> Tensor:
    """Rows of a field, [rows, *S], whose values say nothing but are of its kind."""
    if field.kind == "categorical":
        return torch.zeros((rows, *field.shape), dtype=torch.long)
    return torch.full((rows, *field.shape), 0.0 if field.kind in ("binary", "real", "count") else 0.5)


def _some(split: Split, rows: int) -> Tensor:
    """The first rows, the last of them exchanged for those with the largest and smallest whole numbers and most holes.

    A program may have as many steps as its longest row (`range(lengths.max())`): it is read on the longest of all.
    """
    index = torch.arange(min(rows, len(split)), device=split.device)
    for place, row in enumerate(_extremes(split.fields)[: max(len(index) - 1, 0)], start=1):
        if row not in index:
            index[-place] = row
    return index


def _extremes(fields: Mapping[str, Tensor]) -> list[int]:
    found: list[int] = []
    for values in fields.values():
        if _is_whole(values):
            found += [int(values.nan_to_num().argmax()), int(values.nan_to_num().argmin())]
        if values.is_floating_point() and values.dim() > 1:
            holes = torch.isnan(values).flatten(1).sum(1)
            found += [int(holes.argmax()), int(holes.argmin())] if bool(holes.any()) else []
    return list(dict.fromkeys(found))


def _is_whole(values: Tensor) -> bool:
    """Whether a field has one whole number a row, such as a length."""
    if values.dim() != 1 or values.dtype == torch.bool:
        return False
    there = values[~torch.isnan(values)] if values.is_floating_point() else values
    return not values.is_floating_point() or bool((there == there.round()).all())


def without_extremes(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fewer rows of a batch: without those of the largest whole numbers, and without the last."""
    rows = len(next(iter(batch.values())))
    left = torch.ones(rows, dtype=torch.bool)
    for values in batch.values():
        if _is_whole(values):
            shorter = values.nan_to_num() < values.nan_to_num().max()
            left &= shorter.cpu() if bool((left & shorter.cpu()).any()) else True
    left[int(left.nonzero()[-1])] = not left.sum() > 1
    return {name: values[left.to(values.device)] for name, values in batch.items()}
