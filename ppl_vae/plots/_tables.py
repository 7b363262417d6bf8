"""Pictures of rows of a table: reconstructions, samples, traversals, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.errors import UserError
from ppl_vae.plots.drawing import (
    BLUE,
    CLASSES,
    INK,
    ORANGE,
    PALE,
    Array,
    add_legend,
    as_numbers,
    expect,
    house_axes,
    nothing_observed,
    one_panel,
    same_shape,
    shared_legend,
    shorten,
    small_panels,
)

__all__ = ["predictions", "table_reconstructions", "table_samples", "table_traversal"]


Levels: TypeAlias = "Sequence[Sequence[str] | None] | None"
"""The names of the values of each column, None of a column of numbers."""


def table_reconstructions(
    x: Array, mean: Array, *, names: Sequence[str] | None = None, levels: Levels = None
) -> Figure:
    """Reconstructed against observed values, one small panel for each of the first twelve columns.

    x, mean: [n, D]; entries that are NaN in x were not observed and are not drawn. A column with `levels` has a table
    of them instead: of the rows of each value (column), how many percent come back as what (line). Raises UserError
    when the shapes or the number of names do not fit.
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
        if levels is not None and levels[j]:
            _confusion(ax, a, b, list(levels[j] or ()))
            continue
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


def _confusion(ax: Any, observed: np.ndarray, rebuilt: np.ndarray, names: list[str]) -> None:
    """Shares of what the rows of each value come back as, in percent, with the names on both sides."""
    known = len(names)
    counts = np.zeros((known, known))
    np.add.at(counts, (np.clip(np.round(rebuilt), 0, known - 1).astype(int), observed.astype(int)), 1)
    share = 100 * counts / np.maximum(counts.sum(0), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=130, origin="lower", aspect="auto")
    ax.grid(False)
    for (line, column), value in np.ndenumerate(share if known <= 6 else np.zeros((0, 0))):
        ax.text(column, line, f"{value:.0f} %", ha="center", va="center", fontsize=8, color=INK)
    _named(ax, names, both=True)


def _named(ax: Any, names: list[str], *, both: bool = False) -> None:
    """Names of values at the ticks, as many as can be read."""
    at = np.arange(0, len(names), -(-len(names) // 8))
    words = [shorten(names[i], 10) for i in at]
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, words)) > 3 else {}
    ax.set_xticks(at, words, fontsize=8, parse_math=False, **turned)
    if both:
        ax.set_yticks(at, words, fontsize=8, parse_math=False)


def table_samples(x: Array, samples: Array, *, names: Sequence[str] | None = None, levels: Levels = None) -> Figure:
    """Each column's distribution in the data and in draws from the prior, for the first twelve columns.

    x: [n, D]; samples: [m, D]. The bins span the data and the central 99 % of the draws; a column with `levels` has a
    bar for each value, by name. Raises UserError when the columns or the number of names do not fit.
    """
    data, draws = as_numbers("x", x, 2), as_numbers("samples", samples, 2)
    expect("samples", draws.shape[1], data.shape[1], "columns, as x has")
    figure, panels = small_panels(data.shape[1], names, "columns")
    for j, ax in enumerate(panels):
        a, b = (c[np.isfinite(c)] for c in (data[:, j], draws[:, j]))
        if not len(a) or not len(b):
            nothing_observed(ax)
            continue
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        if levels is not None and levels[j]:
            _bars(ax, a, b, list(levels[j] or ()))
            continue
        low, high = min(a.min(), np.quantile(b, 0.005)), max(a.max(), np.quantile(b, 0.995))
        bins = np.linspace(low, high, int(np.clip(np.sqrt(len(a)), 8, 30)) + 1) if high > low else 3
        ax.hist(a, bins=bins, density=True, color=PALE, label="data")
        ax.hist(b, bins=bins, density=True, histtype="step", color=BLUE, lw=1.5, label="model")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))
    figure.supylabel("density", fontsize=10, color=INK)
    shared_legend(figure, panels)
    return figure


def _bars(ax: Any, data: np.ndarray, draws: np.ndarray, names: list[str]) -> None:
    """The share of each value, by name."""
    at = np.arange(len(names))
    shares = [np.array([(values == k).mean() for k in at]) for values in (data, draws)]
    ax.bar(at, shares[0], width=0.8, color=PALE, label="data")
    ax.bar(at, shares[1], width=0.8, fill=False, edgecolor=BLUE, lw=1.5, label="model")
    ax.grid(False, axis="x")
    _named(ax, names)


def predictions(
    observed: Array, mean: Array, low: Array, high: Array, *, axis: str = "response", ax: Any = None
) -> Figure:
    """Predicted against observed values of a response that was hidden, with the central intervals.

    observed, mean, low, high: [n]; rows whose value is NaN are left out. Raises UserError when lengths do not fit or
    no value was observed.

    Example:
        >>> predictions([1.0, 2.0], [1.1, 1.9], [0.5, 1.2], [1.6, 2.5]).axes[0].get_ylabel()
        'predicted, with 90 % interval'
    """
    given = {"observed": observed, "mean": mean, "low": low, "high": high}
    y, middle, bottom, top = (as_numbers(name, value, 1) for name, value in given.items())
    for name, values in (("mean", middle), ("low", bottom), ("high", top)):
        expect(name, len(values), len(y), "one for each observed value")
    seen = np.isfinite(y)
    if not seen.any():
        raise UserError("observed: expected finite numbers, got none")
    y, middle, bottom, top = y[seen], middle[seen], bottom[seen], top[seen]
    figure, ax = one_panel((5.4, 4.6), ax)
    house_axes(ax, f"observed {shorten(axis, 40)}", "predicted, with 90 % interval")
    inside = (bottom <= y) & (y <= top)
    for mine, colour, word in ((inside, BLUE, "inside"), (~inside, ORANGE, "outside")):
        label = f"observed value {word}: {100 * mine.mean():.0f} %"
        ax.vlines(y[mine], bottom[mine], top[mine], color=colour, alpha=0.35, lw=1.2)
        ax.scatter(y[mine], middle[mine], s=16, color=colour, marker="o" if mine is inside else "D", label=label)
    ax.axline((float(y[0]), float(y[0])), slope=1.0, color=INK, lw=1.0)
    add_legend(ax)
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
