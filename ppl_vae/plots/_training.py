"""The training of a run as a picture: its bound epoch by epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.errors import UserError
from ppl_vae.plots.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    Plot,
    add_legend,
    house_axes,
    mark_epochs,
    one_panel,
    readable_end,
    series,
    shared_legend,
)

__all__ = ["training_curve"]


def training_curve(
    history: Any,
    *,
    best_epoch: int | None = None,
    axis: str = "bound (nats per row)",
    rate: str = "rate, KL(q‖p)",
    ax: Any = None,
) -> Figure:
    """The bound over epochs, and beside it distortion and rate where the history has them.

    Give the history of a run, or a result that has one. On axes of your own, `ax`, it draws the bound alone.

    Records hold `epoch`, `train` and, optionally, `validation`, `beta`, `rate`, `distortion` (nats per row).
    Epochs far below the rest are left out of the axis, which says so. Raises UserError without records or
    their keys.

    Example:
        >>> figure = training_curve([{"epoch": 1, "train": -90.0}, {"epoch": 2, "train": -80.0}])
        >>> figure.axes[0].get_ylabel()
        'bound (nats per row)'
    """
    best_epoch = getattr(getattr(history, "best", None), "epoch", best_epoch)
    history = getattr(history, "history", history)  # of a result
    if not history or any("epoch" not in record or "train" not in record for record in history):
        raise UserError("history: expected at least one record, each with 'epoch' and 'train'")
    epoch, train, validation, beta = (series(history, k) for k in ("epoch", "train", "validation", "beta"))
    parts = [(k, series(history, k)) for k in ("distortion", "rate")]
    parts = [(k, v) for k, v in parts if np.isfinite(v).any() and ax is None]
    given = ax is not None
    figure, bound = one_panel((6.0, 3.7), ax)
    if not given:
        figure = Plot(figsize=(9.0 if parts else 6.0, 3.7), layout="constrained")
        grid = figure.add_gridspec(max(len(parts), 1), 2 if parts else 1, width_ratios=[1.6, 1] if parts else [1])
        bound = figure.add_subplot(grid[:, 0])
    style: dict[str, Any] = {"lw": 1.8, "marker": "o" if len(history) < 20 else None, "ms": 4}
    house_axes(bound, "epoch", axis)
    panels = [bound]
    for values, colour, label in ((train, BLUE, "training rows"), (validation, ORANGE, "validation rows")):
        if np.isfinite(values).any():
            bound.plot(epoch, values, color=colour, label=label, **style)
    readable_end(bound, np.stack([train, validation]))
    words = {"distortion": "distortion, \N{MINUS SIGN}E log p(x|z)", "rate": rate}
    for i, (name, values) in enumerate(parts):
        ax = house_axes(
            figure.add_subplot(grid[i, 1]),
            "epoch" if i == len(parts) - 1 else "",
            "nats per row",
            words[name],
        )
        panels.append(ax)
        ax.plot(epoch, values, color=GREEN, **style)
        readable_end(ax, -values if name == "distortion" else values, flip=name == "distortion")
    for ax in panels:
        ax.set_xlim(epoch.min() - 0.5, epoch.max() + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6 if ax is bound else 4, min_n_ticks=2))
        mark_epochs(ax, epoch, beta, best_epoch)
    if given:
        add_legend(bound)
    else:
        shared_legend(figure, [bound], loc="outside upper left", ncols=4 if parts else 2)
    return figure
