"""The picture of a local calibration: how clearly the guide is wrong at each row, and in what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import BLUE, INK, ORANGE, PALE, add_legend, house_axes

if TYPE_CHECKING:
    from ppl_vae.diagnostics._calibration.local import LocalCalibration

__all__ = ["local_figure"]


def local_figure(found: LocalCalibration) -> Figure:
    """Left the statistic of every row, in its order; right the distance to the posterior by kind."""
    figure = Figure(figsize=(9.0, 3.5), layout="constrained")
    first, second = figure.subplots(1, 2, width_ratios=(2, 1))
    wrong = np.zeros(len(found.statistic), dtype=bool)
    wrong[found.differs] = True
    across, up = np.arange(len(wrong)), found.statistic.cpu().numpy()
    for mask, colour, words in ((~wrong, BLUE, "not rejected"), (wrong, ORANGE, "rejected")):
        first.scatter(across[mask], up[mask], s=14, color=colour, alpha=0.7, lw=0, label=f"{words}: {mask.sum():,}")
    first.axhline(1.0, color=INK, lw=1, ls="--", label="exact guides, mean")
    if len(up) and up.max() > 20:
        first.set_yscale("log")
    else:
        first.set_ylim(bottom=0)
    house_axes(first, "row", "classifier's answers, mean square")
    add_legend(first)
    names, values = list(found.nats), list(found.nats.values())
    second.barh(range(len(names)), values, height=0.55, color=[ORANGE if v > 0 else PALE for v in values])
    second.axvline(0, color=INK, lw=0.8)
    second.set_yticks(range(len(names)), [f"{n}\n{v:.2g}" for n, v in zip(names, values, strict=True)])
    second.set_ylim(max(len(names), 3) - 0.5, -0.5)
    second.margins(x=0.2)
    title = f"p = {found.corrected:.2g}, {found.simulations:,} simulated rows"
    house_axes(second, "KL(posterior, guide), about (nats)", title=title)
    return figure
