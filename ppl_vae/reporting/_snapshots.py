"""The section of a report that shows training: the same rows at several epochs, to be gone through with a slider."""

from __future__ import annotations

import base64

import numpy as np

from ppl_vae.plots.drawing import to_png_bytes
from ppl_vae.reporting._album import Album
from ppl_vae.reporting._html import Section, Widget
from ppl_vae.runs import Snapshots
from ppl_vae.runs.folder import Run
from ppl_vae.saving.atomic import write

__all__ = ["training_seen"]

FRAMES = 16
"""Epochs that the page holds at most, the first and the last among them."""


def training_seen(run: Run, album: Album) -> list[Section]:
    """Maps and reconstructions by epoch, where a run has kept them."""
    found = run.snapshots
    if found is None:
        return []
    title = "Training seen"
    site = next((s for s in found.sites if found.each[0].means[s].shape[1] > 1), None)
    if site is None or len(found.rows) < 3:
        return [
            Section(
                title, f"Snapshots of {found.sites[0]} were kept, which has one dimension: there is no map to draw."
            )
        ]
    words = (
        f"The same {len(found.rows):,} {found.split} rows after {len(found)} epochs, with the weights of that time. "
        f"{_accuracies(found, site)}"
    )
    caption = (
        "A point is the posterior mean of a row, an ellipse one posterior deviation round some of them. Axes are the "
        "same at all epochs. An ellipse as wide as the prior tells nothing of its row; training makes them narrow and "
        "draws them apart from each other, until they fill what the prior allows."
    )
    alt = f"Maps of {site} after epochs {', '.join(map(str, found.epochs))}. {_accuracies(found, site)}"
    drawn = album.add("snapshots", found.figure(site=site), caption, alt, folded="All epochs side by side")
    write(album.folder / "snapshots.gif", found.content(".gif", site=site))
    return [Section(title, words, figures=(drawn,), widgets=(_slider(found, site),))]


def _accuracies(found: Snapshots, site: str) -> str:
    begin, end = (found.neighbours(at, site=site) for at in (0, -1))
    if begin is None or end is None:
        return ""
    first, last = (f"{100 * one.accuracy:.0f} ± {100 * one.se:.0f} %" for one in (begin, end))
    return (
        f"The five nearest other rows name the label of {first} of them at epoch {found.epochs[0]}, of {last} at epoch "
        f"{found.epochs[-1]}; the commonest label is that of {100 * end.commonest:.0f} %."
    )


def _slider(found: Snapshots, site: str) -> Widget:
    every = found.frames(site=site)
    shown = sorted({round(i) for i in np.linspace(0, len(every) - 1, min(len(every), FRAMES))})
    frames = [
        {
            "src": f"data:image/png;base64,{base64.b64encode(to_png_bytes(every[i])).decode()}",
            "name": f"epoch {found.epochs[i]}",
        }
        for i in shown
    ]
    words = "Move the slider through the epochs. The same is an animated picture, `figures/snapshots.gif`."
    return Widget("frames", "snapshots", {"frames": frames, "label": "epoch"}, words)
