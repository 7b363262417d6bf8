"""Bounds against the number of particles, for several pairs on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ppl_vae.comparison._pairs import BoundKey, difference
from ppl_vae.plots.drawing import CLASSES, MARKERS, PALE, SOFT, Plot, house_axes, shorten

if TYPE_CHECKING:
    from ppl_vae.comparison.compare import Comparison

__all__ = ["bounds_against_particles"]

_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))


def bounds_against_particles(found: Comparison) -> Figure:
    """Left the bounds against the number of particles, right the paired differences of log p(x) to the best pair.

    The right panel, a forest, is what tells pairs apart: rows differ much from each other, and the same rows do so for
    all, so that the errors of single means say little. Of a grid the colour is its first factor that varies (the
    guide), the dash the second (the bound).
    """
    rungs: list[tuple[int, BoundKey]] = [(k, k) for k in found.ladder if k < found.particles]
    rungs.append((found.particles, "sampled"))
    several = len(found.pairs) > 1
    figure = Plot(figsize=(5.2 + 5.6 * several, max(4.2, 1.5 + 0.3 * len(found.pairs))), layout="constrained")
    axes: list[Any] = list(figure.subplots(1, 1 + several, squeeze=False)[0])
    house_axes(axes[0], "particles K of the bound", "IWAE-K (nats per row)", "bounds")
    looks = _looks(found)
    for pair in found.pairs:
        values = [pair.estimate(bound).value for _, bound in rungs]
        axes[0].plot([k for k, _ in rungs], values, ms=4, lw=1.6, label=pair.name, **looks[pair.name])
        if found.accuracy is not None:  # the certified log evidence, which has no K
            look = looks[pair.name]
            axes[0].axhline(pair.estimate().value, color=look["color"], ls=(0, (1, 1)), lw=1.0, alpha=0.9)
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_locator(FixedLocator([k for k, _ in rungs]))
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].set_xticklabels([f"{k:,}" for k, _ in rungs], fontsize=8)
    if several:
        _forest(axes[1], found, looks)
    certified = "" if found.accuracy is None else "; horizontal lines are certified log evidence"
    figure.supxlabel(
        f"{found.rows:,} {found.where}; K = 1 is the ELBO, K = {found.particles:,} the log evidence{certified}",
        fontsize=9,
        color=SOFT,
        parse_math=False,
    )
    return figure


def _forest(ax: Any, found: Comparison, looks: Mapping[str, dict[str, Any]]) -> None:
    """A line for each pair, best at the top: its difference to the best, with two standard errors; and its look."""
    title = f"log p(x) minus that of {shorten(found.best.name, 32)}"
    house_axes(ax, "paired difference, ± 2 s.e. (nats per row)", "", title)
    names = []
    for at, pair in enumerate(found.pairs):
        gap, look = difference(pair, found.best), looks[pair.name]
        reach = 2 * gap.total_se
        if np.isfinite(reach):
            ax.plot([gap.value - reach, gap.value + reach], [at, at], color=look["color"], ls=look["ls"], lw=2)
        ax.plot(gap.value, at, color=look["color"], marker=look["marker"], ms=6)
        names.append(shorten(pair.name, 40))
    ax.axvline(0, color=PALE, lw=1.0, zorder=0)
    ax.set_yticks(range(len(names)), names, parse_math=False)
    ax.set_ylim(len(names) - 0.4, -0.6)


def _looks(found: Comparison) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each pair: by the levels of two factors of a grid, else a colour for each pair."""
    varied = [name for name, levels in found.levels.items() if len(levels) > 1] if found.levels else []
    varied.sort(key=lambda name: name != "guide")  # the guide has the colour, wherever it stands
    if not varied or any(name not in pair.factors for pair in found.pairs for name in varied):
        return {pair.name: _look(i, i // len(CLASSES)) for i, pair in enumerate(found.pairs)}
    first, *rest = varied
    colours = list(dict.fromkeys(found.levels[first]))
    rank = {name: list(found.levels[name]) for name in rest}
    dashes = sorted(
        {tuple(pair.factors[name] for name in rest) for pair in found.pairs},
        key=lambda levels: [rank[n].index(v) if v in rank[n] else -1 for n, v in zip(rest, levels, strict=True)],
    )
    return {
        pair.name: _look(
            colours.index(pair.factors[first]) if pair.factors[first] in colours else len(colours),
            dashes.index(tuple(pair.factors[name] for name in rest)),
        )
        for pair in found.pairs
    }


def _look(colour: int, dash: int) -> dict[str, Any]:
    return {
        "color": CLASSES[colour % len(CLASSES)],
        "ls": _DASHES[dash % len(_DASHES)],
        "marker": MARKERS[dash % len(MARKERS)],
    }
