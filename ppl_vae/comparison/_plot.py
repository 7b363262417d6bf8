"""Bounds against the number of particles, for several pairs on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ppl_vae.comparison._pairs import BoundKey, Compared, difference
from ppl_vae.plots.drawing import CLASSES, SOFT, house_axes, shared_legend, shorten

if TYPE_CHECKING:
    from ppl_vae.comparison.compare import Comparison

__all__ = ["bounds_against_particles"]

_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))


def bounds_against_particles(found: Comparison) -> Figure:
    """Left the bounds with bands of two standard errors over rows, right their paired differences to the best pair.

    The right panel is what tells pairs apart: rows differ much from each other, and the same rows do so for all.
    """
    rungs: list[tuple[int, BoundKey]] = [(k, k) for k in found.ladder if k < found.particles]
    rungs.append((found.particles, "sampled"))
    panels = 2 if len(found.pairs) > 1 else 1
    figure = Figure(figsize=(5.2 * panels + 0.4, 4.0 + 0.11 * len(found.pairs)), layout="constrained")
    axes: list[Any] = list(figure.subplots(1, panels, squeeze=False)[0])
    house_axes(axes[0], "particles K of the bound", "IWAE-K (nats per row)", "bounds, ± 2 s.e. over rows")
    for i, pair in enumerate(found.pairs):
        _band(axes[0], found, pair, rungs, i)
    if panels == 2:
        title = f"paired, to {shorten(found.best.name, 28)}, ± 2 s.e."
        house_axes(axes[1], "particles K of the bound", "difference to the best (nats per row)", title)
        for i, pair in enumerate(found.pairs):
            _paired(axes[1], found, pair, rungs, i)
    for ax in axes:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator([k for k, _ in rungs]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([f"{k:,}" for k, _ in rungs])
    shared_legend(figure, axes[:1], loc="outside upper left", ncols=min(3, len(found.pairs)), handlelength=2.6)
    certified = "" if found.accuracy is None else "; horizontal lines are certified log evidence"
    figure.supxlabel(
        f"{found.rows:,} {found.where}; K = 1 is the ELBO, K = {found.particles:,} the log evidence{certified}",
        fontsize=9,
        color=SOFT,
        parse_math=False,
    )
    return figure


def _band(ax: Any, found: Comparison, pair: Compared, rungs: list[tuple[int, BoundKey]], i: int) -> None:
    values = np.array([pair.estimate(bound)[:2] for _, bound in rungs])
    _draw(ax, [k for k, _ in rungs], values[:, 0], 2 * values[:, 1], i, shorten(pair.name, 40))
    if found.accuracy is not None:
        _level(ax, pair.estimate().value, i)


def _paired(ax: Any, found: Comparison, pair: Compared, rungs: list[tuple[int, BoundKey]], i: int) -> None:
    gaps = [difference(pair, found.best, bound) for _, bound in rungs]
    values = np.array([gap.value for gap in gaps])
    _draw(ax, [k for k, _ in rungs], values, np.array([2 * gap.total_se for gap in gaps]), i, None)
    if found.accuracy is not None:
        _level(ax, difference(pair, found.best).value, i)


def _level(ax: Any, value: float, i: int) -> None:
    """The certified log evidence, which has no K."""
    ax.axhline(value, color=CLASSES[i % len(CLASSES)], ls=(0, (1, 1)), lw=1.0, alpha=0.9)


def _draw(ax: Any, k: list[int], values: np.ndarray, band: np.ndarray, i: int, label: str | None) -> None:
    colour, dash = CLASSES[i % len(CLASSES)], _DASHES[i // len(CLASSES) % len(_DASHES)]
    ax.plot(k, values, color=colour, ls=dash, marker="o", ms=3.5, lw=1.6, label=label)
    if np.isfinite(band).all():
        ax.fill_between(k, values - band, values + band, color=colour, alpha=0.1, lw=0)
