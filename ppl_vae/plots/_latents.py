"""Pictures of a latent space: where rows lie in it, and which of its dimensions are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.errors import UserError
from ppl_vae.plots.drawing import (
    BLUE,
    CLASSES,
    MARKERS,
    PALE,
    Array,
    add_legend,
    as_numbers,
    class_name,
    expect,
    house_axes,
    known_labels,
    one_panel,
    write_apart,
)

__all__ = ["latent_map", "rate_per_latent"]


def latent_map(
    z: Array,
    *,
    labels: Sequence[object] | Array | None = None,
    names: Sequence[str] | None = None,
    axes: tuple[str, str] = ("first axis", "second axis"),
    key: str = "label",
    measured: bool = False,
    ax: Any = None,
) -> Figure:
    """Where the rows lie in two latent dimensions, coloured by label.

    z: [n, 2]; labels: [n], where -1, NaN and None mean unlabelled; names: the name of label 0, 1, ... Up to
    20 classes get a colour, a marker and a legend; more numbers than that, and what is `measured`, are shown on a
    colour bar, which `key` names. Raises UserError when the lengths do not fit.
    """
    points = as_numbers("z", z, 2)
    expect("z", points.shape[1], 2, "columns")
    figure, ax = one_panel((6.6, 5.2), ax)
    house_axes(ax, *axes)
    ax.set_aspect("equal", adjustable="datalim")  # distances are what a reader compares here
    size = float(np.clip(12000 / len(points), 6, 30))
    style: dict[str, Any] = {"s": size, "alpha": 0.75, "linewidths": 0}
    values, known = known_labels(labels, len(points))
    seen = np.isfinite(points).all(1)
    if not seen.any():
        raise UserError("z: expected finite numbers, got none")
    points, values, known = points[seen], values[seen], known[seen]
    if not known.all() or not known.size:
        word = "unlabelled" if known.any() else None
        ax.scatter(*points[~known].T, color=PALE if known.any() else BLUE, label=word, **style)
    classes = np.unique(values[known])
    if (len(classes) > 20 or measured) and np.issubdtype(values.dtype, np.number):
        dots = ax.scatter(*points[known].T, c=values[known].astype(float), cmap="viridis", **style)
        figure.colorbar(dots, ax=ax, shrink=0.7, label=key).outline.set_visible(False)
        return figure
    if len(classes) > 20:
        ax.scatter(*points[known].T, color=BLUE, label=f"{len(classes)} classes, not coloured", **style)
    centres = []
    for i, value in enumerate(classes if len(classes) <= 20 else ()):
        mine, name = points[known & (values == value)], class_name(value, names)
        ax.scatter(*mine.T, color=CLASSES[i % 10], marker=MARKERS[(i + i // 10) % 5], label=name, **style)
        centres.append((*np.median(mine, 0), name))
    write_apart(ax, centres, float(np.ptp(points, 0).max()) or 1.0)
    if ax.get_legend_handles_labels()[1]:
        legend = add_legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=1)
        for handle in legend.legend_handles:
            handle.set(alpha=1.0, sizes=[30])
    return figure


def rate_per_latent(
    kl: Array,
    *,
    active: Array | Sequence[bool] | float = 0.01,
    axis: str = "KL to the prior (nats per row)",
    ax: Any = None,
) -> Figure:
    """The KL of each latent to its prior, largest first, the inactive ones grey.

    kl: [latent] in nats; active: [latent] of truth values, or the KL in nats above which a latent is active;
    axis: what is measured, if it is not the KL. Raises UserError when the lengths do not fit.

    Example:
        >>> [t.get_text() for t in rate_per_latent(np.array([0.0, 2.0])).axes[0].get_legend().get_texts()]
        ['active: 1 of 2', 'inactive: 1 of 2']
    """
    rate = as_numbers("kl", kl, 1)
    mask = rate > active if isinstance(active, (int, float)) else as_numbers("active", active, 1) > 0
    expect("active", len(mask), len(rate), "one for each latent")
    order = np.argsort(-rate, kind="stable")
    shown = order[:60]  # more bars than that cannot be told apart
    figure, ax = one_panel((float(np.clip(0.32 * len(shown) + 1.2, 4.0, 9.0)), 3.2), ax)
    words = "latent, by rate" if len(shown) == len(rate) else f"the {len(shown)} latents of largest rate"
    house_axes(ax, words, axis)
    ax.grid(False, axis="x")
    for flag, colour, word in ((True, BLUE, "active"), (False, PALE, "inactive")):
        at, count = np.flatnonzero(mask[shown] == flag), int((mask == flag).sum())
        if count:
            ax.bar(at, rate[shown][at], color=colour, width=0.78, label=f"{word}: {count} of {len(rate)}")
        if count and not flag:  # a bar of no height shows no colour
            ax.scatter(at, rate[shown][at], color=colour, s=16, clip_on=False, zorder=3)
    at = np.arange(0, len(shown), -(-len(shown) // 26))  # a name every third of an inch, at most
    ax.set_xticks(at, [f"z{i}" for i in shown[at]])
    ax.set_xlim(-0.8, len(shown) - 0.2)
    add_legend(ax)
    return figure
