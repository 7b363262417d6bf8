"""Pairs that belong together or not, and a field that says which: a target that costs no labels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae.data.dataset import SPLITS, Data, Split
from ppl_vae.data.schema import Field
from ppl_vae.errors import UserError

__all__ = ["ALIGNED", "with_alignment"]

ALIGNED = "aligned"


def with_alignment(data: Data, seed: int) -> Data:
    """The same rows, half of which have another row's last view, and `aligned`: 1 where all views are the row's own.

    Views are the fields but single categories. The other row is of the same split and, where rows have a label y, of
    another class, so that what is not aligned can be told. Fields other than the view stay the row's own.

    Raises:
        UserError: for fewer than two views, a field of this name, or a split of one class.

    Example:
        >>> from ppl_vae.data import load
        >>> data = load("digit-pairs", pairs="aligned")
        >>> data.schema.names, int(data.train["aligned"].sum())
        (('a', 'b', 'y', 'aligned'), 500)
    """
    views = [f.name for f in data.schema if f.kind != "categorical" or f.shape]
    if len(views) < 2:
        raise UserError(f'pairs="aligned" is of two views at least, got {", ".join(map(str, data.schema))}')
    if ALIGNED in data.schema:
        raise UserError(f'pairs="aligned" makes a field {ALIGNED!r}, and the data have one: rename it')
    if data.train.is_streamed:
        raise UserError('pairs="aligned" exchanges rows that are in memory: load with stream=False')
    schema = data.schema.of([*data.schema, Field(ALIGNED, "binary")])
    splits = {
        name: replace(split, schema=schema, fields=_exchanged(split, views[-1], seed + number))
        for number, name in enumerate(SPLITS)
        if (split := getattr(data, name)) is not None
    }
    return replace(data, schema=schema, **splits)


def _exchanged(split: Split, view: str, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = len(split)
    chosen = torch.randperm(count, generator=generator)[: count - count // 2]  # these stay as they are
    aligned = torch.zeros(count).index_fill(0, chosen, 1.0)
    known = "y" in split.schema and split.schema["y"].kind == "categorical" and not split.schema["y"].shape
    classes = split["y"].cpu() if known else torch.arange(count)
    other = torch.arange(count)
    for row in (aligned == 0).nonzero()[:, 0].tolist():
        strangers = (classes != classes[row]).nonzero()[:, 0]
        if not len(strangers):
            raise UserError(f'pairs="aligned" exchanges rows of different classes, and {split.name} has one class')
        other[row] = strangers[torch.randint(0, len(strangers), (1,), generator=generator)]
    return {**split.fields, view: split[view][other], ALIGNED: aligned}
