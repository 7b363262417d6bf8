"""The section of a report that says where rows lie among the latents: a figure, and a map to point at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.plots.drawing import signed
from ppl_vae.prediction.latents import Latents
from ppl_vae.reporting._album import Album
from ppl_vae.reporting._explorer import row_map
from ppl_vae.reporting._html import Picture, Section, Widget
from ppl_vae.reporting.view import View, response_of

__all__ = ["latent_map"]


def latent_map(
    view: View, sites: Sequence[Latents], album: Album, told: Mapping[str, Tensor], moving: set[str]
) -> Section:
    """A map for each site; those that are `moving` have an explorer, which the page decodes rows with.

    `told` are numbers of the rows of the view, by name.
    """
    title = "A map of the latents"
    words, figures, widgets = [], [], []
    for latents in sites:
        suffix = "" if latents is sites[0] else f"-{latents.site}"
        said, figure, widget = _places_of(view, latents, suffix, album, told, f"explorer-{latents.site}" in moving)
        words.append(said)
        figures += [figure] if figure is not None else []
        widgets += [widget] if widget is not None else []
    return Section(title, " ".join(words), figures=tuple(figures), widgets=tuple(widgets))


def _places_of(
    view: View, latents: Latents, suffix: str, album: Album, told: Mapping[str, Tensor], move: bool
) -> tuple[str, Picture | None, Widget | None]:
    if min(latents.mean.shape) < 2:
        what = f"{latents.site} has one dimension" if len(view) > 1 else "There is only one row"
        return f"{what}, so there is no map to draw.", None, None
    points, axes, how = _plane(latents)
    names = view.label.names if view.label is not None else ()
    response = response_of(view)
    colours = view.labels if response is None else response[1]
    figure = plots.latent_map(
        points,
        labels=colours,
        names=(names or None) if response is None else None,
        axes=axes,
        key="label" if response is None else response[0],
        measured=response is not None,
    )
    words = f"Where the guide puts {len(view):,} {view.split} rows: the posterior mean of {latents.site}. {how}"
    caption = "A point is a row, and rows that are near each other are alike to the model. "
    if response is not None:
        caption += f"Colour is {response[0]}, which the latents are to predict: it should change smoothly over the map."
    elif view.label is None:
        caption += "Clouds apart from each other are groups of rows" + (
            "; one round cloud is what the prior asks for." if latents.proper else "."
        )
    else:
        programs = (view.pair.model, view.pair.guide)
        unseen = not any(view.label.name in p.arguments for p in programs)
        caption += (
            f"Colour and shape are the class{', which the model is never shown' if unseen else ''}: islands of one "
            "colour are classes that the latents tell apart. Classes that overlap here may be apart in other "
            "dimensions. A name that would lie over another one is in the legend alone."
        )
    alt = _seen(view, latents, points)
    widget = row_map(view, latents, points, told, alt, move) if bool(points.isfinite().all()) else None
    folded = "The same as a figure" if widget is not None else ""
    return words, album.add(f"map{suffix}", figure, caption, alt, folded=folded), widget


def _seen(view: View, latents: Latents, points: Tensor) -> str:
    """What the map shows, in words: how many rows, and where the classes have their middle."""
    words = f"{len(points):,} rows by two axes of the posterior mean of {latents.site}."
    if view.label is None or view.labels is None or response_of(view) is not None:
        return words
    middles = []
    for code in view.labels[view.labels >= 0].unique().tolist()[:20]:
        mine = points[view.labels == code]
        x, y = (signed(round(float(v), 1)) for v in mine.median(0).values)
        name = view.label.names[code] if code < len(view.label.names) else code
        middles.append(f"{name} ({len(mine)} rows) at {x}, {y}")
    return f"{words} Middles of the classes: {'; '.join(middles)}."


def _plane(latents: Latents) -> tuple[Tensor, tuple[str, str], str]:
    """Two coordinates of each row's posterior mean, what they are called, and how they were chosen."""
    means = latents.mean.cpu()
    if means.shape[1] == 2:
        return means, (f"{latents.site}0", f"{latents.site}1"), "Both dimensions are drawn as they are."
    centred = means - means.mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    first, second = (100 * sizes.square() / sizes.square().sum().clamp(min=1e-30))[:2].tolist()
    how = (
        f"Of its {centred.shape[1]} dimensions the two principal axes of these means are drawn; they carry "
        f"{first + second:.0f} % of the variance of the means."
    )
    names = (f"first principal axis ({first:.0f} %)", f"second principal axis ({second:.0f} %)")
    return centred @ axes[:2].T, names, how
