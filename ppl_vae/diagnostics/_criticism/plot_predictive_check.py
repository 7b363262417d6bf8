"""The picture of predictive checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.plots.drawing import BLUE, INK, ORANGE, PANELS, Plot, house_axes, shared_legend, shorten

if TYPE_CHECKING:
    from ppl_vae.diagnostics._criticism.predictive_checks import PredictiveCheck

__all__ = ["figure"]


def figure(found: PredictiveCheck) -> Figure:
    """A panel for each of the twelve statistics that are furthest off, the furthest first."""
    order = found.deviations.abs().argsort(descending=True).tolist()[:PANELS]
    across = min(4, len(order))
    down = -(-len(order) // across)
    drawn = Plot(figsize=(max(2.5 * across, 4.6), 2.0 * down + 0.7), layout="constrained")
    grid = drawn.subplots(down, across, squeeze=False).ravel()
    for spare in grid[len(order) :]:
        spare.remove()
    for ax, i in zip(grid, order, strict=False):
        made, seen = found.replicated[:, i].numpy(), float(found.observed[i])
        house_axes(ax, f"p = {float(found.adjusted[i]):.2g}", "", shorten(found.names[i], 30))
        ax.title.set_fontsize(9)
        ends = np.append(made, seen)
        edges = np.linspace(ends.min(), ends.max(), 25) if np.ptp(ends) else 10
        label = f"{len(made):,} replicated data sets"
        ax.hist(made, edges, weights=np.full(len(made), 1 / len(made)), color=BLUE, label=label)
        ax.axvline(seen, color=ORANGE, lw=2, label=f"the {found.rows:,} rows")
        ax.margins(x=0.05)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=3))
    shared_legend(drawn, [*grid[: len(order)]])
    drawn.supylabel("share of replicas", fontsize=10, color=INK)
    drawn.supxlabel("statistic (units of the field; p corrected for all statistics)", fontsize=10, color=INK)
    return drawn
