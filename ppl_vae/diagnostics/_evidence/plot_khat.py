"""The picture of k-hat: how far the guide of every row can be believed, against how probable the row is."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import BLUE, INK, ORANGE, Array, Plot, add_legend, as_numbers, expect, house_axes
from ppl_vae.weights.psis import khat_limit

__all__ = ["khat_scatter"]

HIGHEST = 3.0


def khat_scatter(nll: Array, khat: Array, particles: int) -> Figure:
    """k-hat of each row against its NLL; rows above the limit in orange, those above 3 drawn there.

    nll, khat: [row]. Raises UserError when their lengths differ.

    Example:
        >>> figure = khat_scatter(np.array([90.0, 95.0]), np.array([0.2, 0.9]), 1000)
        >>> figure.axes[0].get_ylabel()
        'k-hat of 1,000 weights'
    """
    across, up = as_numbers("nll", nll, 1), as_numbers("khat", khat, 1)
    expect("khat", len(up), len(across), "one for each row")
    limit = khat_limit(particles)
    bad = up > limit
    figure = Plot(figsize=(6.4, 3.4), layout="constrained")
    ax = house_axes(figure.add_subplot(), "NLL of the row (nats)", f"k-hat of {particles:,} weights")
    for mask, colour, words in ((~bad, BLUE, "below the limit"), (bad, ORANGE, "above")):
        if mask.any():
            label = f"{words}: {mask.sum():,} rows"
            ax.scatter(across[mask], np.clip(up[mask], None, HIGHEST), s=14, color=colour, alpha=0.6, lw=0, label=label)
    ax.axhline(limit, color=INK, lw=1, ls="--", label=f"limit {limit:.2f}")
    add_legend(ax, ncols=3)
    return figure
