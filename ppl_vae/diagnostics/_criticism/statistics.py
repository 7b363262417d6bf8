"""What replicated data are compared in, by the kind of a field: moments, shares, correlations; ink and smoothness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Field
from ppl_vae.diagnostics._common.features import is_nominal, with_gaps

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
    names, entries = _names(field), partial(with_gaps, field)
    found: dict[str, Statistic] = {}
    if field.size > MOST:
        found |= {f"{field.name} {what}": _after(entries, how) for what, how in _column_statistics(field).items()}
        found[f"{field.name} sd of column means"] = _after(entries, lambda x: _finite(x.nanmean(0)).std())
        found[f"{field.name} sd of row means"] = _after(entries, lambda x: _finite(x.nanmean(1)).std())
    else:
        for j, name in enumerate(names):
            column = _after(entries, itemgetter((slice(None), j)))
            found |= {f"{name} {what}": _after(column, how) for what, how in _column_statistics(field).items()}
    pairs = [(i, j) for j in range(field.size) for i in range(j)] if field.size <= MOST else []
    if 0 < len(pairs) <= MOST:
        for i, j in pairs:
            both = _after(entries, itemgetter((slice(None), [i, j])))
            found[f"{names[i]}, {names[j]} correlation"] = _after(both, lambda x: _correlation(x[:, 0], x[:, 1]))
    elif field.size > 1:
        found[f"{field.name} correlation, root mean square"] = _after(entries, _correlations)
    return found


def _after(first: Statistic, second: Statistic) -> Statistic:
    return lambda x: second(first(x))


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
        "neighbour correlation": neighbours,
    }
    if field.kind != "positive":
        found["share of zeros"] = lambda x: _share(pixels(x), 0.0)
    return {f"{field.name} {name}": how for name, how in found.items()}


def _of_levels(field: Field) -> dict[str, Statistic]:
    levels = range(min(field.cardinality or 1, MOST))
    names = field.names or tuple(map(str, range(field.cardinality or 1)))
    entries = partial(with_gaps, field)
    return {f"{field.name} share of {names[k]}": _after(entries, partial(_share, value=float(k))) for k in levels}


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
