"""The picture of the use of latents: the KL of each, what it pays for, and how classes are used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import BLUE, GREEN, INK, ORANGE, PALE, SOFT, Plot, add_legend, house_axes, shorten
from ppl_vae.prediction.latents import ACTIVE

if TYPE_CHECKING:
    from ppl_vae.diagnostics._collapse.posterior_collapse import Collapse

__all__ = ["collapse_figure"]

BARS = 48
"""More bars than that cannot be told apart."""


def collapse_figure(found: Collapse) -> Figure:
    """A panel of latents, one of the parts of the KL, and one of classes, each where there is something to draw."""
    panels: list[tuple[float, Any]] = []
    if found.names:
        panels.append((float(np.clip(0.25 * min(len(found.names), BARS) + 1.5, 3.4, 8.0)), _latents))
    if found.site_kl or found.mutual_information.value == found.mutual_information.value:
        panels.append((3.4, _parts))
    if found.classes:
        panels.append((3.6, _classes))
    figure = Plot(figsize=(sum(width for width, _ in panels), 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=[width for width, _ in panels])[0]
    for ax, (_, draw) in zip(axes, panels, strict=True):
        draw(ax, found)
    return figure


def _latents(ax: Any, found: Collapse) -> None:
    """KL of each latent where all have one, else its activity; largest first, on a scale by factors."""
    kl, activity = found.kl.cpu().numpy(), found.activity.cpu().numpy()
    exact = bool(np.isfinite(kl).all())
    values, axis = (kl, "KL to the prior (nats)") if exact else (activity, "Var E[z|x] / prior variance")
    order = np.argsort(-values, kind="stable")[:BARS]
    floor = ACTIVE / 10
    house_axes(ax, "latent, largest first", axis, "latents")
    active = found.active.cpu().numpy()
    for on, colour, word in ((True, BLUE, f"active (variance of E[z|x] above {ACTIVE:g})"), (False, PALE, "inactive")):
        at = np.flatnonzero(active[order] == on)
        if len(at):
            height = np.maximum(values[order][at], floor * 1.15) - floor
            ax.bar(at, height, bottom=floor, color=colour, width=0.78, label=f"{word}: {int((active == on).sum())}")
    ax.axhline(ACTIVE, color=INK, lw=1.0, ls=(0, (4, 3)), label=f"{ACTIVE:g}{' nats' if exact else ''}")
    ax.set_yscale("log")
    ax.set_ylim(floor, max(2 * values.max(), 100 * floor))
    ax.minorticks_off()
    ax.grid(False, axis="x")
    at = np.arange(0, len(order), -(-len(order) // 20))
    names = [shorten(found.names[i], 10) for i in order[at]]
    ax.set_xticks(at, names, rotation=90 if len(order) > 6 else 0, fontsize=8)
    ax.set_xlim(-0.7, len(order) - 0.3)
    add_legend(ax, bbox_to_anchor=(0.0, 1.08), ncols=1)


def _parts(ax: Any, found: Collapse) -> None:
    """The KL, and I_q(x; z) and KL(q(z) || p(z)), which add up to it, each from both sides."""
    house_axes(ax, "", "nats per row", "decomposition of the KL")
    bars = [("KL(q(z|x)‖p)", found.rate, 0.0, SOFT)] if found.site_kl else []
    mutual, marginal = found.mutual_information, found.marginal_kl
    if mutual.value == mutual.value:
        bars.append(("I(x; z)", mutual.value, mutual.se, GREEN))
    if marginal.value == marginal.value:
        bars.append(("KL(q(z)‖p)", marginal.value, marginal.se, ORANGE))
    names, values, errors, colours = zip(*bars, strict=True)
    ax.bar(range(len(bars)), values, yerr=[2 * e for e in errors], color=colours, width=0.6, ecolor=INK)
    ax.set_xticks(range(len(bars)), names, fontsize=9)
    other = {"I(x; z)": found.information[1], "KL(q(z)‖p)": found.marginal_kl_least.value}
    for at, (name, value) in enumerate(zip(names, values, strict=True)):
        end = other.get(name, math.nan)
        if math.isfinite(end):
            low, high = sorted((max(end, 0.0), value))
            label = "between its two bounds" if name == "I(x; z)" else "_"
            ax.bar(at, high - low, bottom=low, width=0.6, fill=False, edgecolor=INK, hatch="////", lw=0.8, label=label)
    ax.axhline(
        found.ceiling,
        color=INK,
        lw=1.0,
        ls=(0, (4, 3)),
        label=f"largest possible estimate of I(x; z): log {found.rows:,}",
    )
    ax.grid(False, axis="x")
    ax.set_xlim(-0.6, len(bars) - 0.4)
    add_legend(ax, bbox_to_anchor=(0.0, 1.08), ncols=1)


def _classes(ax: Any, found: Collapse) -> None:
    """The share of every class of the first discrete latents."""
    house_axes(ax, "class", "share of rows (%)", "classes")
    shown = list(found.classes.items())[:3]
    width = 0.8 / len(shown)
    for i, ((name, c), colour) in enumerate(zip(shown, (BLUE, ORANGE, GREEN), strict=False)):
        at = np.arange(len(c.usage)) + (i - (len(shown) - 1) / 2) * width
        label = f"{shorten(name, 10)}: I(x; {shorten(name, 10)}) = {c.information:.2f} nats"
        ax.bar(at, 100 * c.usage.cpu().numpy(), width=width, color=colour, label=label)
        ax.axhline(100 / len(c.usage), color=PALE, lw=1.0, label="equal shares" if i == 0 else "_")
    largest = max(len(c.usage) for _, c in shown)
    ax.set_xticks(np.arange(0, largest, -(-largest // 12)))
    ax.grid(False, axis="x")
    add_legend(ax, bbox_to_anchor=(0.0, 1.08), ncols=1)
