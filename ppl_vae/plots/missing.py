"""Pictures of missing entries: rows with what was observed and what was imputed. Knows no model and no run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.plots.drawing import (
    BLUE,
    GRID,
    INK,
    ORANGE,
    Array,
    Limits,
    Plot,
    as_numbers,
    as_pixels,
    board,
    expect,
    height_of,
    house_axes,
    nothing_observed,
    place_image,
    same_shape,
    say,
    shared_legend,
    shorten,
    small_panels,
    value_range,
)

__all__ = ["hidden_entries", "imputed_images", "imputed_rows"]


def imputed_images(x: Array, mean: Array, draws: Array, names: Sequence[str], *, limits: Limits = None) -> Figure:
    """A line for each row: the data with holes, the mean of what is missing, and some draws.

    x, mean: [n, H, W] or [n, C, H, W], missing pixels of x NaN; draws: [draw, n, ...]; names: of the rows. Raises
    UserError when the shapes or the number of names do not fit.
    """
    same_shape(x, mean)
    limits = limits or value_range(x)
    first, second = as_pixels("x", x, 1, limits), as_pixels("mean", mean, 1, limits)
    made = as_pixels("draws", draws, 2, limits)
    expect("names", len(names), len(first), "one for each row")
    high, count = height_of(first[0]) + 0.06, 2 + len(made)
    figure, ax = board(count + 0.3, len(first) * high, min(0.85, 7.0 / count))
    for i, name in enumerate(names):
        for j, image in enumerate((first[i], second[i], *made[:, i])):
            place_image(ax, image, j + 0.15 * (j > 0) + 0.15 * (j > 1), i * high)
        say(ax, -0.12, i * high + high / 2, name, ha="right")
    for at, words in ((0.5, "data"), (1.65, "mean"), (2.3 + len(made) / 2, "draws")):
        say(ax, at, -0.08, words, va="bottom")
    return figure


def imputed_rows(
    values: Array, low: Array, high: Array, missing: Array, names: Sequence[str], titles: Sequence[str], usual: Array
) -> Figure:
    """A panel for each row: its columns from left to right, observed ones as points, imputed ones as intervals.

    values: [row, column], observed or imputed; low, high: [row, column], the ends of the intervals; missing: [row,
    column]; usual: [2, column], the mean of each column and its deviation, which are the origin and unit of the axis.
    Raises UserError when lengths do not fit.
    """
    middle, unit = as_numbers("usual", usual, 2)
    unit = np.where(unit > 0, unit, 1.0)
    at, bottom, top = (
        (as_numbers(n, v, 2) - middle) / unit for n, v in (("values", values), ("low", low), ("high", high))
    )
    gone = as_numbers("missing", missing, 2) > 0
    expect("names", len(names), at.shape[1], "one for each column")
    expect("titles", len(titles), len(at), "one for each row")
    place = np.arange(at.shape[1])
    across = 2 if len(at) > 1 else 1
    down = -(-len(at) // across)
    figure = Plot(figsize=(9.0 if across == 2 else 5.4, 1.75 * down + 1.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for spare in panels[len(at) :]:
        spare.remove()
    for i, ax in enumerate(panels[: len(at)]):
        house_axes(ax, title=shorten(titles[i], 48))
        ax.axhspan(-1, 1, color=GRID, alpha=0.6, lw=0, zorder=0.5, label="within one deviation of the mean")
        seen, hole = ~gone[i], gone[i]
        ax.scatter(place[seen], at[i, seen], s=22, color=INK, label="observed", zorder=3)
        ax.vlines(place[hole], bottom[i, hole], top[i, hole], color=ORANGE, lw=4, alpha=0.45)
        ax.scatter(
            place[hole], at[i, hole], s=26, color=ORANGE, marker="D", label="imputed, with 90 % interval", zorder=3
        )
        ax.set_xlim(-0.6, len(place) - 0.4)
        ax.set_xticks(place, [shorten(n, 22) for n in names], rotation=90)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        ax.tick_params(labelbottom=i + across >= len(at))
        for text in ax.get_xticklabels():
            text.set_parse_math(False)
    figure.supylabel("deviations from the column's mean", fontsize=10, color=INK)
    shared_legend(figure, [*panels[: len(at)]], ncols=3)
    return figure


def hidden_entries(truth: Array, mean: Array, low: Array, high: Array, names: Sequence[str]) -> Figure:
    """Entries that were hidden on purpose against what was imputed, one small panel for each of twelve columns.

    truth: [row, column], NaN where nothing was hidden; mean and the ends of the intervals: [row, column]. Raises
    UserError when the shapes or the number of names do not fit.
    """
    same_shape(truth, mean)
    true, middle = as_numbers("truth", truth, 2), as_numbers("mean", mean, 2)
    bottom, top = as_numbers("low", low, 2), as_numbers("high", high, 2)
    figure, panels = small_panels(true.shape[1], names, "columns", square=True)
    for j, ax in enumerate(panels):
        seen = np.isfinite(true[:, j])
        if not seen.any():
            nothing_observed(ax)
            continue
        a, b = true[seen, j], middle[seen, j]
        ax.vlines(a, bottom[seen, j], top[seen, j], color=BLUE, alpha=0.25, lw=1.5)
        ax.scatter(a, b, s=14, color=BLUE, linewidths=0)
        ax.axline((a[0], a[0]), slope=1.0, color=ORANGE, lw=1.2)
        ends = np.concatenate([a, bottom[seen, j], top[seen, j]])
        edge = 0.06 * (ends.max() - ends.min()) or 1.0
        ax.set(xlim=(ends.min() - edge, ends.max() + edge), ylim=(ends.min() - edge, ends.max() + edge), aspect="equal")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3))
    figure.supxlabel("hidden value (line: equal to it)", fontsize=10, color=INK)
    figure.supylabel("imputed, with 90 % interval", fontsize=10, color=INK)
    return figure
