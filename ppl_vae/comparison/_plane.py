"""The plane of rate and distortion, in which pairs that were trained with other KL weights lie on a curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import CLASSES, PALE, SOFT, Plot, add_legend, house_axes, shorten

if TYPE_CHECKING:
    from ppl_vae.comparison._pairs import Compared
    from ppl_vae.comparison.compare import Comparison

__all__ = ["rate_distortion"]

PANELS = {"total_correlation": "total correlation (nats)", "active": "active latents"}
READ = {"mig": "MIG", "probe": "label read by a probe"}
"""What points are coloured by: the first of these that is known."""


class _Run(NamedTuple):
    """A pair of a curve: its beta, its place for each training, and itself."""

    beta: str
    points: Any
    pair: Compared


def rate_distortion(found: Comparison) -> Figure:
    """A point for each training, a line through the means over seeds, labelled by beta; diagonals are of equal ELBO.

    Where it is known what latents are used for, points are coloured by MIG (or the accuracy of a probe of the label),
    and small panels show it, the total correlation and the active latents against beta.
    """
    curves = _curves(found)
    panels = _panels(found)
    figure = Plot(figsize=(6.4 + (3.4 if panels else 0), 5.2), layout="constrained")
    places = figure.add_gridspec(max(1, len(panels)), 2 if panels else 1, width_ratios=(1.9, 1) if panels else None)
    ax = figure.add_subplot(places[:, 0])
    house_axes(ax, "rate, KL(q(z|x) || p(z)) (nats per row)", "distortion, -E log p(x|z) (nats)")
    by = next((what for what in READ if what in panels), None)
    for (name, runs), colour in zip(curves.items(), _colours(curves), strict=False):
        _curve(ax, runs, name, colour, by)
    _diagonals(ax)
    if by is not None and (dots := [c for c in ax.collections if c.get_array() is not None]):
        _one_scale(dots)
        bar = figure.colorbar(dots[0], ax=ax, shrink=0.6, pad=0.01, location="bottom", aspect=40)
        bar.outline.set_visible(False)
        bar.set_label(READ[by], fontsize=9, color=SOFT)
        bar.ax.tick_params(labelsize=8, color=PALE, labelcolor=SOFT)
    if len(curves) > 1:
        add_legend(ax)
    for k, what in enumerate(panels):
        _against_beta(figure.add_subplot(places[k, 1]), curves, what, last=k == len(panels) - 1)
    words = f"{found.rows:,} {shorten(found.where, 44)}; points are labelled by beta, pale lines are of equal ELBO"
    figure.supxlabel(words, fontsize=9, color=SOFT, parse_math=False)
    return figure


def _curves(found: Comparison) -> dict[str, list[_Run]]:
    """The pairs by everything but beta, each curve from small rates to large ones."""
    curves: dict[str, list[_Run]] = {}
    for pair in found.pairs:
        rest = [word for factor, word in pair.factors.items() if factor in found.levels and factor != "beta"]
        points = np.array([[float(e.rate.mean()), float(e.distortion.mean())] for e in pair.evaluations])
        curves.setdefault(" + ".join(rest), []).append(_Run(pair.factors.get("beta", ""), points, pair))
    return {name: sorted(runs, key=lambda run: run.points[:, 0].mean()) for name, runs in curves.items()}


def _panels(found: Comparison) -> list[str]:
    """What is known of the latents, MIG or a probe first."""
    several = len({pair.factors.get("beta") for pair in found.pairs}) > 1
    known = [w for w in (*READ, *PANELS) if any(not math.isnan(pair.use(w)[0]) for pair in found.pairs)]
    return known if several else []


def _colours(curves: Any) -> Sequence[str]:
    return CLASSES * (1 + len(curves) // len(CLASSES))


def _curve(ax: Any, runs: Sequence[_Run], name: str, colour: str, by: str | None) -> None:
    middle = np.array([run.points.mean(0) for run in runs])
    ax.plot(*middle.T, color=colour, lw=1.4, label=name or "beta")
    for run, (rate, distortion) in zip(runs, middle, strict=True):
        values = [getattr(use, by) for use in run.pair.latents] if by else []
        if len(values) == len(run.points):
            ax.scatter(*run.points.T, c=values, cmap="viridis", s=34, edgecolors=colour, linewidths=1.2, zorder=3)
        else:
            ax.plot(*run.points.T, "o", color=colour, ms=4, alpha=0.6)
        ax.annotate(run.beta, (rate, distortion), (7, 5), textcoords="offset points", fontsize=8, color=colour)


def _one_scale(dots: Sequence[Any]) -> None:
    values = np.concatenate([np.asarray(each.get_array()) for each in dots])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    for each in dots:
        each.set_clim(low, high if high > low else low + 1e-3)


def _against_beta(ax: Any, curves: dict[str, list[_Run]], what: str, *, last: bool) -> None:
    """One number of the latents by beta, with its error over seeds."""
    house_axes(ax, "beta" if last else "", title={**READ, **PANELS}[what])
    betas = sorted({float(run.beta) for runs in curves.values() for run in runs if _is_number(run.beta)})
    place = {beta: i for i, beta in enumerate(betas)}  # one step from each to the next, whatever their distance
    for runs, colour in zip(curves.values(), _colours(curves), strict=False):
        told = sorted((place[float(r.beta)], *r.pair.use(what)) for r in runs if _is_number(r.beta))
        if told:
            x, y, error = np.array(told).T
            ax.errorbar(x, y, np.nan_to_num(error), color=colour, lw=1.2, marker="o", ms=3.5, capsize=2)
    ax.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.tick_params(labelsize=8)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _diagonals(ax: Any) -> None:
    """Lines on which rate and distortion add up to the same."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for total in np.linspace(left + low, right + high, 9)[1:-1]:
        ax.plot([left, right], [total - left, total - right], color=PALE, lw=0.7, zorder=0)
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)
