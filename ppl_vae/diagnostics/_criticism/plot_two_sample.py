"""The picture of two-sample tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import BLUE, ORANGE, Plot, house_axes, shared_legend

if TYPE_CHECKING:
    from ppl_vae.diagnostics._criticism.two_samples import TwoSample

__all__ = ["figure"]

AXES = {
    "mmd": "squared MMD, no bias (kernel units)",
    "c2st": "pairs that a classifier gets right (share)",
    "sliced_wasserstein": "sliced Wasserstein-1 (deviations)",
}


def figure(found: TwoSample) -> Figure:
    """A panel a test: the statistic under the null, and what it is."""
    drawn = Plot(figsize=(0.4 + 3.3 * len(found.tests), 3.5), layout="constrained")
    panels = drawn.subplots(1, len(found.tests), squeeze=False)[0]
    for ax, (name, test) in zip(panels, found.tests.items(), strict=True):
        p = found.adjusted[name]
        house_axes(
            ax, AXES.get(name, name), "share of draws" if ax is panels[0] else "", f"{name}, corrected p = {p:.2g}"
        )
        null = test.null.numpy()
        ends = np.append(null, test.statistic)
        edges = np.linspace(ends.min(), ends.max() or 1.0, 41) if np.ptp(ends) else 10
        ax.hist(null, edges, weights=np.full(len(null), 1 / len(null)), color=BLUE, label="under the null hypothesis")
        ax.axvline(test.statistic, color=ORANGE, lw=2, label=f"{found.rows:,} samples and rows")
        ax.margins(x=0.04)
    shared_legend(drawn, [*panels])
    return drawn
