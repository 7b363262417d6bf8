"""Few labels: hide those of most training rows, and of all validation and test rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data.dataset import SPLITS, Data, Split
from ppl_vae.data.schema import Schema
from ppl_vae.errors import UserError

__all__ = ["hide_labels"]


def hide_labels(data: Data, labels: int, seed: int = 0) -> Data:
    """The same rows with the label y of `labels` training rows, as many of each category; everywhere else it is -1.

    What was hidden is kept in `Split.hidden`, which no batch ever holds, so that predictions can be scored.

    Raises:
        UserError: if there is no label y, or fewer labelled rows than asked for.

    Example:
        >>> from ppl_vae.data import load
        >>> few = hide_labels(load("digits"), 20, seed=1)
        >>> few.train["y"][few.train["y"] >= 0].bincount().tolist()
        [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    if "y" not in data.schema or data.schema["y"].kind != "categorical" or data.schema["y"].shape:
        raise UserError(
            f"labels= keeps a number of the labels y, but data set {data.name!r} has fields "
            f"{', '.join(data.schema.names)}: name the label column with label="
        )
    schema = data.schema.of(replace(f, missing=True) if f.name == "y" else f for f in data.schema)
    kept = {"train": _chosen(data.train["y"], _categories(data), labels, seed)}
    splits: dict[str, Any] = {
        name: _hidden(split, schema, kept.get(name)) for name in SPLITS if (split := getattr(data, name)) is not None
    }
    return replace(data, schema=schema, **splits)


def _categories(data: Data) -> list[int]:
    """Those that training rows may have: not the ones that were held out."""
    outliers = None if data.test is None else data.test.outliers
    apart = set() if outliers is None or data.test is None else set(data.test.truth("y")[outliers].tolist())
    return [code for code in range(data.schema["y"].cardinality or 1) if code not in apart]


def _hidden(split: Split, schema: Schema, kept: Tensor | None) -> Split:
    y = split.truth("y")
    shown = torch.full_like(y, -1)
    if kept is not None:
        shown[kept] = y[kept]
    return replace(split, schema=schema, fields={**split.fields, "y": shown}, hidden={**split.hidden, "y": y})


def _chosen(y: Tensor, categories: list[int], labels: int, seed: int) -> Tensor:
    """Random rows, equally many of each category; what is left over goes to random categories."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    count = len(categories)
    quota = torch.full((count,), labels // count)
    quota[torch.randperm(count, generator=generator)[: labels % count]] += 1
    found = []
    for category, wanted in zip(categories, quota.tolist(), strict=True):
        rows = order[y.cpu()[order] == category]
        if len(rows) < wanted:
            raise UserError(
                f"labels={labels} asks for {wanted} training rows of category {category}, got {len(rows)}:"
                " ask for fewer"
            )
        found.append(rows[:wanted])
    return torch.cat(found).to(y.device)
