"""The picture of a calibration: ECDFs of ranks with their simultaneous band, coverage, reliability of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.diagnostics._calibration.ranks import ecdf_band
from ppl_vae.diagnostics._calibration.reliability import Reliability
from ppl_vae.plots.drawing import CLASSES, GRID, INK, PALE, SOFT, Plot, add_legend, house_axes, shorten

if TYPE_CHECKING:
    from ppl_vae.diagnostics._calibration.sbc import Calibration

__all__ = ["calibration_figure"]

NAMED = 6
"""Latents with a colour of their own, at most: those that are rejected most clearly."""


def calibration_figure(found: Calibration) -> Figure:
    """A panel of the ranks, one of coverage, and one of classes where there are any."""
    functions = [name for name in found.names if name in found.quantities]
    latents = [name for name in found.names if name not in found.quantities]
    apart = bool(functions and latents)  # one curve that is far off would leave the others a line
    panels = 2 + apart + bool(found.classes)
    figure = Plot(figsize=(3.9 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    rejected = list(dict.fromkeys(t.latent for t in found.rejected))
    ranked = [name for name in rejected if name in found.names]
    _ecdfs(axes[0], found, latents or functions, ranked, "ranks of latents" if apart else "ranks")
    if apart:
        _ecdfs(axes[1], found, functions, ranked, "ranks of functions of all latents")
    _coverage(axes[1 + apart], found, ranked)
    if found.classes:
        _reliability(axes[2 + apart], found, rejected)
    return figure


def _lines(names: list[str], rejected: list[str]) -> list[tuple[int, str, dict[str, Any]]]:
    """Each latent with its look, rejected ones last and, as far as there are colours, each in its own."""
    order = sorted(range(len(names)), key=lambda i: (names[i] in rejected, i))
    lines, silent = [], set()
    for i in order:
        name = names[i]
        if name in rejected[:NAMED]:
            look = {"color": CLASSES[rejected.index(name)], "lw": 1.6, "zorder": 4, "label": shorten(name, 14)}
        else:
            kind = "others, rejected" if name in rejected else "not rejected"
            count = sum((other in rejected) == (name in rejected) for other in names)
            count -= len(set(rejected[:NAMED]) & set(names)) if name in rejected else 0
            look = {"color": SOFT if name in rejected else PALE, "lw": 0.9, "label": f"{kind}: {count}"}
            look["label"] = "_" if kind in silent else look["label"]
            silent.add(kind)
        lines.append((i, name, look))
    return lines


def _ecdfs(ax: Any, found: Calibration, names: list[str], rejected: list[str], title: str) -> None:
    of = "latent" if title != "ranks of functions of all latents" else "value"
    house_axes(ax, f"rank of the true {of} (share of draws)", "ECDF of the ranks \N{MINUS SIGN} uniform", title)
    ranks = found.ranks.cpu().numpy()
    band = ecdf_band(len(ranks), found.draws)
    z = np.concatenate([[0], band.z, [1]])
    low, high = (np.concatenate([[0], side, [0]]) for side in (band.low, band.high))
    ax.fill_between(z, low, high, color=GRID, lw=0, zorder=1, label="95 % under the null hypothesis")
    mine = [name for name in rejected if name in names]
    for _, name, look in _lines(names, mine):
        i = found.names.index(name)
        seen = ranks[ranks[:, i] >= 0, i]
        below = np.bincount(seen, minlength=found.draws + 1).cumsum() / max(len(seen), 1)
        ax.plot(z, np.concatenate([[0], below[:-1] - band.z, [0]]), **look)
    ax.axhline(0, color=INK, lw=0.7)
    ax.set_xlim(0, 1)
    add_legend(ax, bbox_to_anchor=(0.0, 1.08))


def _coverage(ax: Any, found: Calibration, rejected: list[str]) -> None:
    house_axes(ax, "central interval of the guide (%)", "share of true latents inside (%)", "coverage")
    levels = 100 * np.array([0, *found.levels, 1])
    error = 2 * 100 * found.coverage_se.cpu().numpy().max(0)
    error = np.concatenate([[0], error, [0]])
    ax.fill_between(levels, levels - error, levels + error, color=GRID, lw=0, zorder=1, label="exact ± 2 s.e.")
    ax.plot([0, 100], [0, 100], color=INK, lw=0.7)
    share = 100 * found.coverage.cpu().numpy()
    latents = [name for name in found.names if name not in found.quantities]  # nobody wants intervals of functions
    for _, name, look in _lines(latents, [name for name in rejected if name in latents]):
        i = found.names.index(name)
        ax.plot(levels, [0, *share[i], 100], marker="o", ms=3, **(look | {"label": "_"}))
    ax.set(xlim=(0, 101), ylim=(0, 101), xticks=[0, *(100 * np.array(found.levels)).round(), 100])
    ax.set_xticks([0, 50, 80, 95])
    add_legend(ax, bbox_to_anchor=(0.0, 1.08))


def _reliability(ax: Any, found: Calibration, rejected: list[str]) -> None:
    house_axes(ax, "probability of the likeliest class (%)", "how often it was the true one (%)", "classes")
    ax.plot([0, 100], [0, 100], color=INK, lw=0.7)
    names = list(found.classes)
    ranked = [name for name in rejected if name in names]
    for i, name, look in _lines(names, ranked):
        one: Reliability = found.classes[names[i]]
        seen = one.counts > 0
        style = {"fmt": "o-", "ms": 4, "elinewidth": 1.0} | look
        if len(names) == 1:
            style |= {"color": CLASSES[0] if not ranked else CLASSES[1], "lw": 1.4}
            style["label"] = f"{shorten(name, 14)}, ± 2 s.e."
        ax.errorbar(100 * one.confidence[seen], 100 * one.frequency[seen], 200 * one.frequency_se[seen], **style)
    ax.set(xlim=(0, 102), ylim=(0, 102))
    add_legend(ax, bbox_to_anchor=(0.0, 1.08))
