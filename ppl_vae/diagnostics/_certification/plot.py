"""The picture of a certification: how exact every row's evidence is, by the method that it took. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.plots.drawing import BLUE, CLASSES, INK, ORANGE, Array, Plot, add_legend, as_numbers, expect, house_axes

__all__ = ["certified"]

NONE = "not certified"

MOST, WIDE = 100, 5
"""Errors above so many accuracies are drawn there; above so many, the axis is logarithmic beyond the accuracy."""


def certified(evidence: Array, error: Array, method: Sequence[str], methods: Sequence[str], accuracy: float) -> Figure:
    """The standard error of each row against its log evidence, coloured by method; and how many rows each method took.

    evidence, error: [row]; `method` names one of `methods` for each row. Raises UserError when lengths differ.

    Example:
        >>> methods = ["guide", "local"]
        >>> figure = certified(np.array([-3.0, -4.0]), np.array([0.01, 0.02]), methods, methods, 0.05)
        >>> figure.axes[0].get_xlabel()
        'log p(x) (nats)'
    """
    across, up = as_numbers("evidence", evidence, 1), as_numbers("error", error, 1)
    expect("error", len(up), len(across), "one for each row")
    expect("method", len(method), len(across), "one for each row")
    figure = Plot(figsize=(9.5, 3.4), layout="constrained")
    first, second = figure.subplots(1, 2, width_ratios=(2, 1))
    names = [name for name in methods if name in method]
    colours = {name: ORANGE if name == NONE else ([BLUE, *CLASSES[2:]] * 2)[i] for i, name in enumerate(names)}
    shown = np.clip(np.nan_to_num(up, nan=np.inf), 0.0, accuracy * MOST)
    for name in names:
        mask = np.array([m == name for m in method])
        first.scatter(across[mask], shown[mask], s=14, color=colours[name], alpha=0.6, lw=0, label=name)
    first.axhline(accuracy, color=INK, lw=1, ls="--", label=f"accuracy {accuracy:g}")
    top = max(accuracy, float(shown.max(initial=0.0)))
    if top > WIDE * accuracy:  # errors of rows that are not certified would squash those of the others
        first.set_yscale("symlog", linthresh=accuracy)
    first.set_ylim(0, 1.15 * top)
    house_axes(first, "log p(x) (nats)", "standard error (nats)")
    add_legend(first)
    counts = [sum(m == name for m in method) for name in names]
    bars = second.barh(range(len(names)), counts, height=0.6, color=[colours[n] for n in names])
    second.bar_label(bars, padding=3)
    second.set_yticks(range(len(names)), names)
    second.set_ylim(max(len(names), 3) - 0.5, -0.5)
    second.set_xlim(0, 1.15 * max(counts, default=1))
    second.xaxis.set_major_locator(MaxNLocator(integer=True))
    house_axes(second, "rows")
    return figure
