"""The plane of rate and distortion, in which pairs that were trained with other KL weights lie on a curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import CLASSES, PALE, SOFT, Plot, add_legend, house_axes, shorten

if TYPE_CHECKING:
    from ppl_vae.comparison.compare import Comparison

__all__ = ["rate_distortion"]


def rate_distortion(found: Comparison) -> Figure:
    """A point for each training, a line through the means over seeds, labelled by beta; diagonals are of equal ELBO."""
    figure = Plot(figsize=(6.4, 5.2), layout="constrained")
    ax = house_axes(figure.add_subplot(), "rate, KL(q(z|x) || p(z)) (nats per row)", "distortion, -E log p(x|z) (nats)")
    curves: dict[str, list[Any]] = {}
    for pair in found.pairs:
        rest = [word for factor, word in pair.factors.items() if factor in found.levels and factor != "beta"]
        points = np.array([[float(e.rate.mean()), float(e.distortion.mean())] for e in pair.evaluations])
        curves.setdefault(" + ".join(rest), []).append((pair.factors.get("beta", ""), points))
    for (name, runs), colour in zip(curves.items(), CLASSES * (1 + len(curves) // len(CLASSES)), strict=False):
        runs = sorted(runs, key=lambda run: run[1][:, 0].mean())
        middle = np.array([points.mean(0) for _, points in runs])
        ax.plot(*middle.T, color=colour, lw=1.4, label=name or "beta")
        for (beta, points), (rate, distortion) in zip(runs, middle, strict=True):
            ax.plot(*points.T, "o", color=colour, ms=4, alpha=0.6)
            ax.annotate(beta, (rate, distortion), (5, 4), textcoords="offset points", fontsize=8, color=colour)
    _diagonals(ax)
    if len(curves) > 1:
        add_legend(ax)
    figure.supxlabel(
        f"{found.rows:,} {shorten(found.where, 44)}; points are labelled by beta, pale lines are of equal ELBO",
        fontsize=9,
        color=SOFT,
        parse_math=False,
    )
    return figure


def _diagonals(ax: Any) -> None:
    """Lines on which rate and distortion add up to the same."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for total in np.linspace(left + low, right + high, 9)[1:-1]:
        ax.plot([left, right], [total - left, total - right], color=PALE, lw=0.7, zorder=0)
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)
