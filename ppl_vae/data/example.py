"""A few rows on which programs are read before they are trained."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.data.dataset import Split
from ppl_vae.data.one_unit import OneUnit
from ppl_vae.data.schema import Field, Schema

__all__ = ["blank", "example"]


def example(schema: Schema, split: Split | None, rows: int = 4) -> dict[str, Tensor]:
    """A few rows to run a program on; where the schema allows missing entries, the first row misses a field."""
    if isinstance(split, OneUnit):
        return split.batch()
    if split is not None:
        batch = split.batch(slice(0, min(rows, len(split))))
    else:
        batch = {f.name: blank(f, rows) for f in schema}
    for field in schema:
        if field.missing and field.name in batch:
            values = batch[field.name].clone()
            values[0] = -1 if field.kind == "categorical" else torch.nan
            batch[field.name] = values
    return batch


def blank(field: Field, rows: int) -> Tensor:
    """Rows of a field, [rows, *S], whose values say nothing but are of its kind."""
    if field.kind == "categorical":
        return torch.zeros((rows, *field.shape), dtype=torch.long)
    return torch.full((rows, *field.shape), 0.0 if field.kind in ("binary", "real", "count") else 0.5)
