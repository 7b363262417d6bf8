"""The picture of LOO-PIT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.diagnostics._criticism.uniformity import GRID
from ppl_vae.plots.drawing import BLUE, INK, ORANGE, Plot, add_legend, house_axes
from ppl_vae.plots.drawing import GRID as SHADE

if TYPE_CHECKING:
    from ppl_vae.diagnostics._criticism.leave_one_out import LooPIT

__all__ = ["figure"]


def figure(found: LooPIT) -> Figure:
    """The histogram of u, and its distribution function minus t with the simultaneous band of uniform u."""
    drawn = Plot(figsize=(9.0, 3.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    u = found.u[~found.u.isnan()].double().numpy()
    house_axes(left, f"u of an entry of {found.field}, given the others of its row", "density")
    left.hist(u, np.linspace(0, 1, 21), density=True, color=BLUE, label=f"{len(u):,} entries of {len(found.u):,} rows")
    left.axhline(1.0, color=INK, lw=1.2, ls=(0, (4, 3)), label="a model that is right")
    add_legend(left)
    t, test = GRID.numpy(), found.overall
    house_axes(right, "t", "share of u below t, minus t")
    band = test.band.numpy()
    label = "95 % band for all t together, rows independent"
    right.fill_between(t, -band, band, color=SHADE, lw=0, label=label)
    right.plot(t, test.difference.numpy(), color=ORANGE, lw=2, label=f"the model, p = {test.p_value:.2g}")
    right.axhline(0.0, color=INK, lw=1.0, ls=(0, (4, 3)))
    right.set_xlim(0, 1)
    add_legend(right, ncols=1)
    return drawn
