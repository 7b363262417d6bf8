"""The table of latents and factors, and the scores beside those of random latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import BLUE, INK, PALE, Plot, add_legend, house_axes, shorten

if TYPE_CHECKING:
    from ppl_vae.diagnostics._factors.meaning import Factors

__all__ = ["figure"]

UPWARDS = LinearSegmentedColormap.from_list("upwards", ["#ffffff", BLUE])

MOST = 24
"""Latents that are drawn, those that tell most."""


def figure(found: Factors) -> Figure:
    """Left how much of each factor each latent tells, right the scores."""
    share = 100 * found.information / found.entropy
    order = np.argsort(-share.max(1), kind="stable")[:MOST]
    rows = len(order)
    width = 1.8 + 0.75 * len(found.names)
    picture = Plot(figsize=(width + 4.6, max(3.4, 1.3 + 0.3 * rows)), layout="constrained")
    left, right = picture.subplots(1, 2, width_ratios=[width, 4.6])
    house_axes(left, "", "latent, most telling first", "what is told of a factor (%)")
    left.grid(False)
    left.imshow(share[order], cmap=UPWARDS, vmin=0, vmax=100, aspect="auto")
    left.set_xticks(range(len(found.names)), [shorten(n, 14) for n in found.names], rotation=30, ha="right")
    left.set_yticks(range(rows), [shorten(found.latents[i], 14) for i in order])
    for text in (*left.get_xticklabels(), *left.get_yticklabels()):
        text.set_parse_math(False)
    for (i, j), value in np.ndenumerate(share[order]):
        known = found.information[order[i], j] > found.null[j]
        colour = "#ffffff" if value > 60 else INK if known else PALE
        left.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    house_axes(right, "score", "", "scores, ± 2 s.e.")
    names = list(found.scores)
    at = np.arange(len(names))
    values = np.array([found.scores[n].value for n in names])
    errors = np.array([2 * found.scores[n].se for n in names])
    right.barh(at, values, xerr=errors, color=BLUE, ecolor=INK, height=0.6, label="these latents")
    chance = [found.scores[n].random for n in names]
    right.plot(chance, at, "|", color=INK, ms=14, mew=2, label="random latents")
    right.set_yticks(at, [n.replace("_", " ") for n in names])
    right.set_xlim(0, 1.02)
    right.invert_yaxis()
    right.grid(False, axis="y")
    add_legend(right, bbox_to_anchor=(0.0, 1.08))
    return picture
