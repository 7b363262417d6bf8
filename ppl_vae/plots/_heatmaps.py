"""A table of numbers as a picture: confusions of labels, means of columns by cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import BLUE, INK, ORANGE, Array, as_numbers, expect, house_axes, one_panel, shorten, signed

__all__ = ["heatmap"]

UPWARDS = LinearSegmentedColormap.from_list("upwards", ["#ffffff", BLUE])
BOTH_WAYS = LinearSegmentedColormap.from_list("both ways", [BLUE, "#ffffff", ORANGE])


def heatmap(
    values: Array,
    lines: Sequence[str],
    columns: Sequence[str],
    *,
    axes: tuple[str, str] = ("", ""),
    signs: bool = False,
    ax: Any = None,
) -> Figure:
    """A cell for each number, with the number in it; NaN is left blank.

    values: [line, column]; lines, columns: their names; axes: what columns and lines are; signs: colours on both
    sides of 0, else from 0 up. Raises UserError when the lengths do not fit.

    Example:
        >>> len(heatmap([[90.0, 10.0], [0.0, 100.0]], ["a", "b"], ["a", "b"]).axes[0].texts)
        4
    """
    table = as_numbers("values", values, 2)
    expect("lines", len(lines), table.shape[0], "one for each line")
    expect("columns", len(columns), table.shape[1], "one for each column")
    top = float(np.nanmax(np.abs(table), initial=1e-9))
    long = max(len(shorten(name, 16)) for name in columns) > 4
    figure, ax = one_panel((min(1.6 + 0.62 * table.shape[1], 10), 1.1 + 0.34 * table.shape[0] + 0.6 * long), ax)
    house_axes(ax, *axes)
    ax.grid(False)
    ax.imshow(table, cmap=BOTH_WAYS if signs else UPWARDS, vmin=-top if signs else 0, vmax=top, aspect="auto")
    for labels, place, names in ((ax.set_xticks, "x", columns), (ax.set_yticks, "y", lines)):
        turned = {"rotation": 35, "ha": "right"} if long and place == "x" else {}
        labels(range(len(names)), [shorten(name, 16) for name in names], parse_math=False, **turned)
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            words = signed(round(float(value), 1) or 0.0) if signs else f"{value:.0f}"
            dark = abs(value) > 0.6 * top
            ax.text(j, i, words, ha="center", va="center", fontsize=8, color="#ffffff" if dark else INK)
    return figure
