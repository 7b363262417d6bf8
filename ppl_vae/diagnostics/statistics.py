"""What replicated data are compared in, by the kind of a field: moments, shares, correlations; ink and smoothness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Field
from ppl_vae.diagnostics.features import is_nominal, with_gaps

__all__ = ["Statistic", "defaults", "of_pairs"]

Statistic = Callable[[Tensor], Any]

MOST = 12
"""So many columns, levels or pairs have statistics of their own; of more there is one over all."""


def defaults(field: Field) -> dict[str, Statistic]:
    """The statistics of a field by name, functions of its rows [row, *S]; missing entries are skipped.

    Of a picture: the mean pixel, its deviation, the share of zeros, the deviation of the ink over rows, and how like
    neighbouring pixels are. Of columns, each: mean, deviation, skewness, least, largest, and the share of zeros where
    there are any by kind; of two values or levels their shares; of two columns their correlation.

    Example:
        >>> sorted(defaults(Field("x", "real", (1,), names=("age",))))
        ['age largest', 'age least', 'age mean', 'age sd', 'age skewness']
        >>> defaults(Field("x", "binary", (2, 2)))["x ink sd"](torch.tensor([[[1.0, 1], [0, 0]], [[0, 0], [0, 0]]]))
        tensor(1.4142)
    """
    if field.is_image:
        return _of_pictures(field)
    if is_nominal(field):
        return _of_levels(field)
    found: dict[str, Statistic] = {}
    if field.size <= MOST:
        names = _names(field)
        for j, name in enumerate(names):
            found |= {f"{name} {what}": _of_column(field, j, how) for what, how in _column_statistics(field).items()}
        pairs = [(i, j) for i in range(len(names)) for j in range(i)]
        for i, j in pairs if len(pairs) <= MOST else []:
            found[f"{names[j]}, {names[i]} correlation"] = lambda x, i=i, j=j: _correlation(*with_gaps(field, x).T[[i, j]])
    else:
        for what, how in _column_statistics(field).items():
            found[f"{field.name} {what}"] = lambda x, how=how: how(with_gaps(field, x).flatten())
        found[f"{field.name} sd of column means"] = lambda x: with_gaps(field, x).nanmean(0).std()
        found[f"{field.name} sd of row means"] = lambda x: _finite(with_gaps(field, x).nanmean(1)).std()
    if field.size > 1 and len(_names(field)) * (field.size - 1) / 2 > MOST:
        found[f"{field.name} correlation, root mean square"] = lambda x: _correlations(with_gaps(field, x))
    return found


def of_pairs(fields: list[Field]) -> dict[str, Callable[[Mapping[str, Tensor]], Any]]:
    """Correlations between fields of one number a row each, as functions of rows by field name."""
    single = [f for f in fields if f.shape == () and not is_nominal(f)]
    pairs = [(a, b) for k, b in enumerate(single) for a in single[:k]]
    if len(pairs) <= MOST:
        return {f"{a.name}, {b.name} correlation": _between(a, b) for a, b in pairs}

    def together(rows: Mapping[str, Tensor]) -> Tensor:
        return _correlations(torch.cat([with_gaps(f, rows[f.name]).double() for f in single], 1))

    return {"columns correlation, root mean square": together}


def _between(a: Field, b: Field) -> Callable[[Mapping[str, Tensor]], Any]:
    return lambda rows: _correlation(with_gaps(a, rows[a.name])[:, 0], with_gaps(b, rows[b.name])[:, 0])


def _of_pictures(field: Field) -> dict[str, Statistic]:
    def pixels(x: Tensor) -> Tensor:
        return with_gaps(field, x).reshape(x.shape)

    def neighbours(x: Tensor) -> Tensor:
        x = pixels(x)
        sides = [(x[..., 1:], x[..., :-1]), (x[..., 1:, :], x[..., :-1, :])]
        one, other = (torch.cat([pair[k].flatten() for pair in sides]) for k in (0, 1))
        return _correlation(one, other)

    def ink(x: Tensor) -> Tensor:
        return pixels(x).nansum(tuple(range(1, x.dim())))

    found: dict[str, Statistic] = {
        "pixel mean": lambda x: pixels(x).nanmean(),
        "pixel sd": lambda x: _finite(pixels(x)).std(),
        "ink sd": lambda x: ink(x).std(),
        "ink least": lambda x: ink(x).min(),
        "ink largest": lambda x: ink(x).max(),
        "correlation of neighbouring pixels": neighbours,
    }
    if field.kind != "positive":
        found["share of zeros"] = lambda x: _share(pixels(x), 0.0)
    return {f"{field.name} {name}": how for name, how in found.items()}


def _of_levels(field: Field) -> dict[str, Statistic]:
    levels = range(min(field.cardinality or 1, MOST))
    names = field.names or tuple(map(str, range(field.cardinality or 1)))
    return {f"{field.name} share of {names[k]}": lambda x, k=k: _share(with_gaps(field, x), float(k)) for k in levels}


def _column_statistics(field: Field) -> dict[str, Statistic]:
    if field.kind == "binary":
        return {"mean": lambda x: _finite(x).mean()}
    found: dict[str, Statistic] = {
        "mean": lambda x: _finite(x).mean(),
        "sd": lambda x: _finite(x).std(),
        "skewness": _skewness,
        "least": lambda x: _finite(x).min(),
        "largest": lambda x: _finite(x).max(),
    }
    if field.kind in ("count", "unit", "categorical"):
        found["share of zeros"] = lambda x: _share(x, 0.0)
    return found


def _of_column(field: Field, j: int, how: Statistic) -> Statistic:
    return lambda x: how(with_gaps(field, x)[:, j])


def _names(field: Field) -> list[str]:
    if len(field.names) == field.size and field.shape:
        return list(field.names)
    return [field.name] if field.size == 1 else [f"{field.name}_{j}" for j in range(field.size)]


def _finite(x: Tensor) -> Tensor:
    """The observed entries, in doubles: a million of them are summed."""
    return x[~x.isnan()].double()


def _share(x: Tensor, value: float) -> Tensor:
    return (_finite(x) == value).double().mean()


def _skewness(x: Tensor) -> Tensor:
    x = _finite(x)
    sd = x.std(correction=0)
    return ((x - x.mean()) / torch.where(sd > 0, sd, 1.0)).pow(3).mean()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Over what both have; 0 where one of them does not vary."""
    both = ~(a.isnan() | b.isnan())
    a, b = a[both].double(), b[both].double()
    a, b = a - a.mean(), b - b.mean()
    size = (a.square().sum() * b.square().sum()).sqrt()
    return (a * b).sum() / torch.where(size > 0, size, 1.0)


def _correlations(x: Tensor) -> Tensor:
    """The root mean square of the correlations of all columns, missing entries at the mean."""
    x = x.double()
    x = (x - x.nanmean(0)).nan_to_num()
    size = x.square().sum(0).sqrt()
    x = x / torch.where(size > 0, size, 1.0)
    square = (x.T @ x).square()
    return ((square.sum() - square.diagonal().sum()) / (len(square) * (len(square) - 1))).sqrt()
