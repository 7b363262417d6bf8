"""Whether the width or the shape of the shared posterior still walks: the deviations of its numbers, and its axes.

Means arrive first: a guide that starts too narrow, or without correlations, has the right mean long before it has the
right deviations. A walk is told from jitter by a curve through the last half of what was seen: it counts if its slope
is far beyond the error that the residuals, with their autocorrelation, give it, and is not at rest at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Walk", "spread_walk"]

TOGETHER = 16
"""So many numbers are looked at together for their axes; a correlation of more would be noise of the draws."""

LOOKS, WIDTH, CREEP, STEADY, AT_THE_END = 12, 0.2, 0.02, 0.9, 2.0
"""Looks that tell a walk at least; how far a log deviation may still have to go; a walk slower than this in half of the
run is none; one that keeps so much of its slope over that time does not slow down; the standard errors by which the
slope at the end, of which less is known than of the slope as a whole, has to be no rest."""


class Walk(NamedTuple):
    """What still moves: the number, whether it is an axis, its change of log deviation in so many looks, what is left.

    `slows` is the slope at the end over that at the beginning, `left` the change that is still to come (infinite for a
    walk that does not slow down).
    """

    number: int
    is_axis: bool
    change: float
    looks: int
    slows: float
    left: float


def spread_walk(sds: Tensor, draws: Sequence[Tensor] = ()) -> Walk | None:
    """The deviation [look, number], or the axis of the draws of each look [draw, number], that has farthest to go.

    Example:
        >>> sds = torch.exp(-0.02 * torch.arange(40.0).double())[:, None] * torch.tensor([[1.0, 2.0]])
        >>> walk = spread_walk(sds)
        >>> walk.is_axis, round(walk.change, 2)
        (False, -0.38)
        >>> spread_walk(sds[-1:].expand(40, 2)) is None
        True
    """
    looks = max(LOOKS, len(sds) // 2)
    if len(sds) < looks:
        return None
    logs = [sds[-looks:].clamp(min=1e-12).log()]
    width = logs[0].shape[1]
    loadings = torch.zeros(0, width, dtype=sds.dtype)
    if len(draws) >= looks and width > 1:
        along, loadings = _along_axes(torch.stack(list(draws[-looks:])).to(sds.dtype))
        logs.append(along)
    walks = _walks(torch.cat(logs, 1))
    worst = max(range(len(walks)), key=lambda i: (walks[i].left, abs(walks[i].change)))
    found = walks[worst]
    if found.left <= WIDTH:
        return None
    if worst < width:
        return found._replace(number=worst)
    return found._replace(number=int(loadings[worst - width].abs().argmax()), is_axis=True)


def _along_axes(draws: Tensor) -> tuple[Tensor, Tensor]:
    """log deviations along the axes of the last look's correlations, [look, axis], and the axes [axis, number].

    Numbers are in units of their last deviation, so that an axis is one of correlations and not of scales.
    """
    logs, axes = [], []
    for start in range(0, draws.shape[-1], TOGETHER):
        some = draws[..., start : start + TOGETHER]
        scaled = (some - some.mean(1, keepdim=True)) / some[-1].std(0).clamp(min=1e-12)
        _, vectors = torch.linalg.eigh(scaled[-1].T @ scaled[-1])
        logs.append((scaled @ vectors).std(1).clamp(min=1e-12).log())
        placed = draws.new_zeros(some.shape[-1], draws.shape[-1])
        placed[:, start : start + TOGETHER] = vectors.T
        axes.append(placed)
    return torch.cat(logs, 1), torch.cat(axes)


def _walks(logs: Tensor) -> list[Walk]:
    """The walk of every column of log deviations [look, column]: the slopes of a parabola through it, at both ends."""
    looks, columns = logs.shape
    time = torch.linspace(-1.0, 1.0, looks, dtype=logs.dtype)
    curve = torch.stack([torch.ones_like(time), time, time.square()], 1)
    solve = torch.linalg.pinv(curve)
    rest = logs - curve @ solve @ logs
    slopes = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 2.0]], dtype=logs.dtype) @ solve  # in the middle, at the end
    error, error_end = _slope_errors(rest, curve, slopes)
    _, linear, square = solve @ logs
    end, begin = linear + 2 * square, linear - 2 * square
    limit = _limit(columns, looks - 3)
    walks = []
    for i in range(columns):
        moving = float(end[i])
        slows = min(max(moving / float(begin[i]), 1e-3), 1.0) if moving * float(begin[i]) > 0 else 1.0
        left = 2 * abs(moving) / -math.log(slows) if slows < STEADY else math.inf
        is_walk = abs(float(linear[i])) > limit * float(error[i]) and moving * float(linear[i]) > 0
        is_walk = is_walk and abs(moving) > max(CREEP / 2, AT_THE_END * float(error_end[i]))
        walks.append(Walk(i, False, 2 * float(linear[i]), looks, slows, left if is_walk else 0.0))
    return walks


def _slope_errors(rest: Tensor, curve: Tensor, slopes: Tensor) -> Tensor:
    """Standard errors [slope, column] of slopes [slope, look] @ logs, from the residuals [look, column] of a curve.

    Jitter is taken for autoregressive, with one coefficient for all columns: they have one optimizer. What is left of
    a fitted curve looks less correlated than it is, by as much as the projection says.
    """
    looks = len(rest)
    keeps = torch.eye(looks, dtype=rest.dtype) - curve @ torch.linalg.pinv(curve)
    found = ((rest[1:] * rest[:-1]).sum(0) / rest.square().sum(0).clamp(min=1e-24)).median()
    apart = (torch.arange(looks)[:, None] - torch.arange(looks)).abs()
    grid = [k / 50 for k in range(48)]
    left = [keeps @ (torch.tensor(again, dtype=rest.dtype) ** apart) @ keeps for again in grid]
    looks_like = torch.stack([matrix.diagonal(1).sum() / matrix.trace() for matrix in left])
    nearest = int((looks_like - found).abs().argmin())
    shape = torch.tensor(grid[nearest], dtype=rest.dtype) ** apart
    variance = rest.square().sum(0) / left[nearest].trace()
    return ((slopes @ shape * slopes).sum(1, keepdim=True) * variance).sqrt()


def _limit(columns: int, freedom: int) -> float:
    """Beyond so many standard errors one of many columns counts: a false alarm in about 500 runs."""
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 0.002 / columns, dtype=torch.float64)))
    return z * (1 + (z * z + 1) / (4 * max(freedom, 4)))  # the first term from normal to Student quantiles
