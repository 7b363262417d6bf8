"""Pictures of rows of a table: reconstructions, samples, traversals, column by column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.plots.drawing import (
    BLUE,
    CLASSES,
    INK,
    ORANGE,
    PALE,
    Array,
    as_numbers,
    expect,
    nothing_observed,
    same_shape,
    shared_legend,
    shorten,
    small_panels,
)

__all__ = ["table_reconstructions", "table_samples", "table_traversal"]


def table_reconstructions(x: Array, mean: Array, *, names: Sequence[str] | None = None) -> Figure:
    """Reconstructed against observed values, one small panel for each of the first twelve columns.

    x, mean: [n, D]; entries that are NaN in x were not observed and are not drawn. Raises UserError when the
    shapes or the number of names do not fit.
    """
    same_shape(x, mean)
    observed, rebuilt = as_numbers("x", x, 2), as_numbers("mean", mean, 2)
    figure, panels = small_panels(observed.shape[1], names, "columns", square=True)
    for j, ax in enumerate(panels):
        seen = np.isfinite(observed[:, j]) & np.isfinite(rebuilt[:, j])
        if not seen.any():
            nothing_observed(ax)
            continue
        a, b = observed[seen, j], rebuilt[seen, j]
        ax.scatter(a, b, s=float(np.clip(3000 / len(a), 3, 18)), color=BLUE, alpha=0.45, linewidths=0)
        ax.axline((a[0], a[0]), slope=1.0, color=ORANGE, lw=1.2)
        low, high = min(a.min(), b.min()), max(a.max(), b.max())
        edge = 0.06 * (high - low) or 1.0
        ax.set(xlim=(low - edge, high + edge), ylim=(low - edge, high + edge), aspect="equal")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3))
    figure.supxlabel("observed (line: equal to it)", fontsize=10, color=INK)
    figure.supylabel("reconstructed mean", fontsize=10, color=INK)
    return figure


def table_samples(x: Array, samples: Array, *, names: Sequence[str] | None = None) -> Figure:
    """Each column's distribution in the data and in draws from the prior, for the first twelve columns.

    x: [n, D]; samples: [m, D]. The bins span the data and the central 99 % of the draws. Raises UserError
    when the columns or the number of names do not fit.
    """
    data, draws = as_numbers("x", x, 2), as_numbers("samples", samples, 2)
    expect("samples", draws.shape[1], data.shape[1], "columns, as x has")
    figure, panels = small_panels(data.shape[1], names, "columns")
    for j, ax in enumerate(panels):
        a, b = (c[np.isfinite(c)] for c in (data[:, j], draws[:, j]))
        if not len(a) or not len(b):
            nothing_observed(ax)
            continue
        low, high = min(a.min(), np.quantile(b, 0.005)), max(a.max(), np.quantile(b, 0.995))
        bins = np.linspace(low, high, int(np.clip(np.sqrt(len(a)), 8, 30)) + 1) if high > low else 3
        ax.hist(a, bins=bins, density=True, color=PALE, label="data")
        ax.hist(b, bins=bins, density=True, histtype="step", color=BLUE, lw=1.5, label="model")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))
    figure.supylabel("density", fontsize=10, color=INK)
    shared_legend(figure, panels)
    return figure


def table_traversal(
    values: Array,
    z: Sequence[float] | Array,
    *,
    names: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    scale: Array | None = None,
    axis: str = "value of the latent",
) -> Figure:
    """How the columns move with each latent: a panel for each of twelve latents, a line for each column.

    values: [latent, step, D]; z: [step], named by axis; scale: [D], the data's standard deviations: changes
    are then shown in units of them. Of more than ten columns the ten that move most are drawn. Raises
    UserError when the lengths do not fit.
    """
    means, steps = as_numbers("values", values, 3), as_numbers("z", z, 1)
    latents, _, columns = means.shape
    expect("z", len(steps), means.shape[1], "one for each step")
    words = [f"column {j}" for j in range(columns)] if names is None else list(names)
    expect("names", len(words), columns, "one for each column")
    ylabel = "mean of the column"
    if scale is not None:
        spread = as_numbers("scale", scale, 1)
        expect("scale", len(spread), columns, "one for each column")
        middle = means[:, [int(np.argmin(np.abs(steps)))]]
        means, ylabel = (means - middle) / np.where(spread > 0, spread, 1.0), "change of the mean (data's sd)"
    chosen = np.sort(np.argsort(-np.ptp(means, axis=1).max(0), kind="stable")[: len(CLASSES)])
    heads = [f"z{i}" for i in range(latents)] if titles is None else titles
    figure, panels = small_panels(latents, heads, "latents", sharey=True)
    for i, ax in enumerate(panels):
        for colour, j in enumerate(chosen):
            dash = "-" if colour < 5 else (0, (4, 1.5))  # a second way to tell ten lines apart
            ax.plot(steps, means[i, :, j], color=CLASSES[colour], ls=dash, lw=1.6, label=shorten(words[j], 24))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    figure.supxlabel(axis, fontsize=10, color=INK)
    figure.supylabel(ylabel, fontsize=10, color=INK)
    left_out = f"the {len(chosen)} of {columns}\nthat move most" if len(chosen) < columns else None
    shared_legend(figure, panels, loc="outside right upper", ncols=1, title=left_out)
    return figure
