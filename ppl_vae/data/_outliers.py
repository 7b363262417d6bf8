"""Hold a class out: rows of some category leave train and validation, and are to be recognised in test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data.dataset import Data, Split
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError, unknown_name

__all__ = ["hold_out", "listed"]


def listed(outliers: Any) -> tuple[str, ...]:
    """The names of categories, of which there may be one, several, or codes.

    Example:
        >>> listed("9"), listed(9), listed(["cat", "dog"])
        (('9',), ('9',), ('cat', 'dog'))
    """
    several = isinstance(outliers, Sequence) and not isinstance(outliers, str)
    return tuple(str(name) for name in (outliers if several else [outliers]))


def hold_out(data: Data, outliers: Any) -> Data:
    """The same data set without these categories of the label y in train and validation; test keeps all rows.

    Which test rows are of these categories is `data.test.outliers` [row], and their labels, which would say it, are in
    `Split.hidden`: no batch ever holds either. Train and validation keep the labels of their rows.

    Raises:
        UserError: if there is no label y, no such category, or a split is left without rows.

    Example:
        >>> from ppl_vae.data import load
        >>> data = hold_out(load("digits"), "9")
        >>> len(data.train), int(data.test.outliers.sum()), len(data.test.inliers())
        (901, 45, 402)
    """
    names = listed(outliers)
    if "y" not in data.schema or data.schema["y"].kind != "categorical" or data.schema["y"].shape:
        raise UserError(
            f"outliers= names categories of the label y, but data set {data.name!r} has fields "
            f"{', '.join(data.schema.names)}: name the label column with label="
        )
    if data.test is None:
        raise UserError(f"outliers= keeps its rows in the test split, which {data.name!r} does not have: load test=0.2")
    if any(split is not None and bool((split["y"] < 0).any()) for split in (data.train, data.validation, data.test)):
        raise UserError(
            "outliers= expects a label y in every row, got rows without one: drop them, they may be outliers"
        )
    codes = torch.tensor([_code(data.schema["y"], name) for name in names])
    schema = data.schema.of(replace(f, missing=True) if f.name == "y" else f for f in data.schema)
    train, validation = (_without(split, codes, schema, names) for split in (data.train, data.validation))
    return replace(
        data, schema=schema, train=train, validation=validation, test=_marked(data.test, codes, schema, names)
    )


def _code(field: Field, name: str) -> int:
    known = field.names or tuple(str(code) for code in range(field.cardinality or 1))
    if name not in known:
        raise unknown_name("category of the label y", name, known)
    return known.index(name)


def _among(y: Tensor, codes: Tensor) -> Tensor:
    return torch.isin(y, codes.to(y.device))


def _without(split: Split | None, codes: Tensor, schema: Schema, names: Sequence[str]) -> Any:
    if split is None:
        return None
    kept = (~_among(split["y"], codes)).nonzero()[:, 0]
    if not len(kept):
        raise UserError(f"outliers= leaves no {split.name} rows without category {', '.join(names)}: name fewer")
    return replace(split.rows(kept), schema=schema)


def _marked(split: Split, codes: Tensor, schema: Schema, names: Sequence[str]) -> Split:
    y = split["y"]
    outliers = _among(y, codes)
    for some, words in ((outliers, "no"), (~outliers, "every")):
        if not bool(some.any()):
            raise UserError(f"outliers= expects some test rows of category {', '.join(names)}, got {words} row")
    shown = {**split.fields, "y": torch.full_like(y, -1)}
    return replace(split, schema=schema, fields=shown, hidden={**split.hidden, "y": y}, outliers=outliers)
