"""Posteriors as pictures: intervals of every number, and pairs of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.errors import UserError
from ppl_vae.plots.drawing import BLUE, Plot, as_numbers, house_axes, one_panel, shorten

__all__ = ["forest", "pairs"]

MOST = 5
"""How many numbers a picture of pairs has at most."""


def forest(
    lower: Sequence[float], middle: Sequence[float], upper: Sequence[float], names: Sequence[str], *, ax: Any = None
) -> Figure:
    """An interval and its median for each number, the first at the top.

    Raises:
        UserError: for no numbers, or sequences of different lengths.

    Example:
        >>> forest([-1.0, 0.0], [0.0, 0.5], [1.0, 2.0], ["a", "b"]).axes[0].get_yticks().tolist()
        [0, 1]
    """
    ends = [as_numbers(n, v, 1) for n, v in (("lower", lower), ("middle", middle), ("upper", upper))]
    if not len(names) or any(len(v) != len(names) for v in ends):
        raise UserError(f"expected an interval for each of {len(names)} names, got {[len(v) for v in ends]}")
    figure, ax = one_panel((6.5, 0.9 + 0.24 * len(names)), ax)
    house_axes(ax, "value (90 % interval and median)")
    at = np.arange(len(names))
    ax.hlines(at, ends[0], ends[2], color=BLUE, lw=2)
    ax.plot(ends[1], at, "o", color=BLUE, ms=5)
    if min(ends[0]) < 0 < max(ends[2]):
        ax.axvline(0, color="0.7", lw=0.8, zorder=0)
    ax.set_yticks(at, [shorten(name, 24) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    return figure


def pairs(draws: Mapping[str, Sequence[float]]) -> Figure:
    """Draws of up to five numbers against each other, with a histogram of each on the diagonal.

    Raises:
        UserError: for fewer than two numbers.

    Example:
        >>> len(pairs({"a": [0.0, 1.0, 2.0], "b": [1.0, 0.0, 2.0]}).axes)
        3
    """
    names = list(draws)[:MOST]
    if len(names) < 2:
        raise UserError(f"expected at least two numbers to draw against each other, got {len(names)}")
    values = [as_numbers(name, draws[name], 1) for name in names]
    count, size = len(names), 1.9
    figure = Plot(figsize=(size * count + 0.6, size * count + 0.4), layout="constrained")
    for i in range(count):
        for j in range(i + 1):
            ax = house_axes(
                figure.add_subplot(count, count, i * count + j + 1),
                shorten(names[j], 18) if i == count - 1 else "",
                shorten(names[i], 18) if j == 0 and i else "",
            )
            if i == j:
                ax.hist(values[i], bins=30, color=BLUE, alpha=0.8)
                ax.set_yticks([])
            else:
                ax.plot(values[j], values[i], ".", color=BLUE, ms=2.5, alpha=0.35, rasterized=True)
    return figure
